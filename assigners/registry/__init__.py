"""Names of assigners, resolved lazily: listing them imports neither torch nor the assigners' own modules.

Built-in names live in `_BUILTIN`. Other packages add theirs through the entry-point group
``assigner_zoo.assigners``; a name that two sources claim raises when it is used.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from assigners.contract import Assigner, HeadInfo

ENTRY_POINT_GROUP = "assigner_zoo.assigners"


@dataclass(frozen=True)
class CatalogueEntry:
    """One assigner of the catalogue."""

    name: str
    title: str
    paper: str
    year: int | None
    target: str  # "module:Class"
    cite: str = ""  # key in papers.bib


def _rule(target: str, title: str, paper: str, cite: str, name: str = "") -> CatalogueEntry:
    """A rule of this package, named after its module unless `name` is given; the year is that of the key `cite`."""
    name = name or target.partition(":")[0].rpartition(".")[2]
    return CatalogueEntry(name, title, paper, int(re.findall(r"\d{4}", cite)[0]), f"assigners.rules.{target}", cite)


_IQDET = ("Ma et al., CVPR", "ma2021iqdet")
_BUILTIN = (
    _rule("center:CenterSampling", "FCOS, center sampling or whole box", "Tian et al., ICCV", "tian2019fcos"),
    _rule("atss:ATSS", "Adaptive training sample selection", "Zhang et al., CVPR", "zhang2020atss"),
    _rule("paa:PAA", "Probabilistic anchor assignment", "Kim and Lee, ECCV", "kim2020paa"),
    _rule("iqdet.iqdet:IQDet", "Instance-wise quality distribution sampling", *_IQDET),
    _rule("iqdet.grid_variants:QuantisedDistribution", "IQDet, draws rounded to the grid", *_IQDET, name="qd"),
    _rule("iqdet.grid_variants:UniformSampling", "IQDet, uniform draws on the grid", *_IQDET, name="uniform"),
    _rule("iqdet.fixed_variants:UniformCenter", "Float draws, center square", *_IQDET, name="uniform_center"),
    _rule("iqdet.fixed_variants:FixedQuality", "IQDet, nothing learned", *_IQDET, name="fixed_qd"),
    _rule("max_iou:MaxIoU", "Max-IoU thresholds on one anchor", "Lin et al., ICCV", "lin2017focal"),
    _rule("foveabox:FoveaBox", "Middle of the box, levels by its size", "Kong et al., TIP", "kong2020foveabox"),
    _rule("centernet:CenterNet", "Box centre, Gaussian-weighted negatives", "Zhou et al., arXiv", "zhou2019objects"),
    _rule("poto:POTO", "Prediction-aware one-to-one assignment", "Wang et al., CVPR", "wang2021defcn"),
    _rule("tal:TAL", "Task alignment learning (TOOD)", "Feng et al., ICCV", "feng2021tood"),
    _rule("ddod:DDOD", "ATSS by predictions (DDOD)", "Chen et al., ACM MM", "chen2021ddod"),
    _rule("sim_ota:SimOTA", "Simplified optimal transport, dynamic k", "Ge et al., arXiv", "ge2021yolox"),
    _rule("dsla:DSLA", "Dynamic soft label assignment (RTMDet)", "Lyu et al., arXiv", "lyu2022rtmdet"),
    _rule("sapd:SAPD", "Soft anchor points, soft-selected levels", "Zhu et al., ECCV", "zhu2020sapd"),
    _rule("free_anchor:FreeAnchor", "FreeAnchor, likelihood of bags", "Zhang et al., NeurIPS", "zhang2019freeanchor"),
    _rule("auto_assign:AutoAssign", "AutoAssign, learnt weights in the box", "Zhu et al., arXiv", "zhu2020autoassign"),
    _rule("mdod:MDOD", "Mixture density of boxes, no matching", "Yoo et al., ICCV", "yoo2021mdod"),
    _rule("ota:OTA", "Optimal transport assignment", "Ge et al., CVPR", "ge2021ota"),
    _rule("lla:LLA", "Loss-aware label assignment", "Ge et al., Neurocomputing", "ge2021lla"),
    _rule("dw:DualWeighting", "Dual weighting", "Li et al., CVPR", "li2022dw"),
    _rule("rfla:RFLA", "Gaussian receptive fields", "Xu et al., ECCV", "xu2022rfla"),
    _rule("guided:Guided", "Guided anchoring's location targets", "Wang et al., CVPR", "wang2019guided"),
    _rule("cascade:Cascade", "Rising IoU thresholds on predicted boxes", "Cai and Vasconcelos, CVPR", "cai2018cascade"),
    _rule("o2f:O2F", "One-to-few, ambiguous neighbours", "Li et al., CVPR", "li2023o2f"),
    _rule("musu:MuSu", "Mutual supervision of the two branches", "Gao et al., ICCV", "gao2021musu"),
    _rule("uot:UOT", "Unbalanced optimal transport, losses by the plan", "De Plaen et al., CVPR", "deplaen2023uot"),
)


# Options that every assigner has beside its own (`assigners.samplers.negatives`).
SAMPLING = ("negatives", "negative_ratio", "negative_count")


class RegistryError(Exception):
    """A name or option that cannot be used; the message says what to do."""


class UnknownName(RegistryError):  # noqa: N818 - named for what the user sees
    """No assigner, or no option of an assigner, goes by that name."""


class NameClash(RegistryError):  # noqa: N818
    """Two sources claim one name."""


class BadOption(RegistryError, ValueError):  # noqa: N818
    """An option's value does not fit its type or range."""


def catalogue() -> list[CatalogueEntry]:
    """Every known assigner, built-in ones first; a plugin's class is not imported."""
    plugins = [CatalogueEntry(p.name, f"plugin of {_origin(p)}", "", None, p.value) for p in _plugins()]
    return [*_BUILTIN, *plugins]


def find(name: str) -> CatalogueEntry:
    """The entry of `name`.

    Raises:
        UnknownName: with the nearest known name.
        NameClash: if two sources claim the name.
    """
    entries = [entry for entry in catalogue() if entry.name == name]
    if not entries:
        known = [entry.name for entry in catalogue()]
        raise UnknownName(f"unknown assigner {name!r}{_suggest(name, known)}; known: {', '.join(known)}")
    if len(entries) > 1:
        raise NameClash(
            f"assigner {name!r} is claimed by {' and '.join(e.target for e in entries)}; uninstall or rename one"
        )
    return entries[0]


def load(name: str) -> type[Assigner]:
    """Import the class behind `name` (and torch with it)."""
    from assigners.contract import Assigner

    entry = find(name)
    module, _, attribute = entry.target.partition(":")
    loaded = getattr(import_module(module), attribute)
    if not (isinstance(loaded, type) and issubclass(loaded, Assigner)):
        raise TypeError(f"assigner {name!r}: {entry.target} is not a subclass of assigners.Assigner")
    return loaded


def create(name: str, head: HeadInfo, **options: object) -> Assigner:
    """Build an assigner. Options may be given as text; they are converted to the declared types.

    Raises:
        UnknownName: for an unknown assigner or option.
        BadOption: for a value that does not fit.
    """
    return build(load(name), name, head, options)


def build(cls: type[Assigner], name: str, head: HeadInfo, options: Mapping[str, object]) -> Assigner:
    """`create` for a class that need not be registered; `name` is for messages."""
    resolved = convert_options(cls, name, options)
    own = {key: resolved[key] for key in _declared(cls)}
    sampling = {key: value for key, value in resolved.items() if key not in own}
    try:
        assigner = cls(head, **own)
        assigner.options = own
        if sampling:
            from assigners.samplers.negatives import NegativeSampler

            assigner = NegativeSampler(head, assigner, **sampling)
    except ValueError as error:
        raise BadOption(f"assigner {name!r}: {error}") from error
    assigner.options = resolved
    return assigner


def resolve_options(name: str, options: Mapping[str, object]) -> dict[str, Any]:
    """All options of an assigner: defaults overridden by `options`, converted and checked."""
    return convert_options(load(name), name, options)


def convert_options(cls: type[Assigner], name: str, options: Mapping[str, object]) -> dict[str, Any]:
    """`resolve_options` for a class that need not be registered."""
    declared = _declared(cls)
    sampling = {key: value for key, value in options.items() if key in SAMPLING and key not in declared}
    for key in options:
        if key not in declared and key not in sampling:
            raise UnknownName(
                f"assigner {name!r} has no option {key!r}{_suggest(key, [*declared, *SAMPLING])}; "
                f"options: {', '.join(declared) or 'none'}"
            )
    own = {key: value for key, value in options.items() if key in declared}
    return {**_converted(cls, name, own), **_sampling_options(name, sampling)}


def _converted(cls: type[Assigner], name: str, options: Mapping[str, object]) -> dict[str, Any]:
    """Every option that a class declares."""
    hints = get_type_hints(cls.__init__)
    return {
        key: _convert(options[key], hints[key], f"{name}.{key}") if key in options else default
        for key, default in _declared(cls).items()
    }


def _sampling_options(name: str, options: Mapping[str, object]) -> dict[str, Any]:
    """All options of the sampler; none where every negative is learnt, so that such a run stays what it was.

    Raises:
        BadOption: for numbers of a sampler that is not there.
    """
    if options.get("negatives", "all") == "all":
        if numbers := [key for key in options if key != "negatives"]:
            raise BadOption(f"assigner {name!r}: {' and '.join(numbers)} is of negatives=random or negatives=ohem")
        return {}
    from assigners.samplers.negatives import NegativeSampler

    return _converted(NegativeSampler, name, options)


def option_defaults(name: str) -> dict[str, Any]:
    """Option names and defaults of an assigner, in the order of declaration."""
    return _declared(load(name))


def _declared(cls: type[Assigner]) -> dict[str, Any]:
    parameters = inspect.signature(cls.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def parse_spec(text: str) -> tuple[str, dict[str, str]]:
    """Split ``name[key=value,...]``; values stay text until `create` converts them.

    Raises:
        BadOption: if the brackets or pairs are malformed.
    """
    name, bracket, rest = text.strip().partition("[")
    if not bracket:
        return name, {}
    if not rest.endswith("]"):
        raise BadOption(f"assigner {text!r}: the bracket is not closed; write name[key=value,key=value]")
    options = {}
    for pair in filter(None, (part.strip() for part in rest[:-1].split(","))):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise BadOption(f"assigner {text!r}: {pair!r} is not of the form key=value")
        options[key.strip()] = value.strip()
    return name.strip(), options


@cache
def _plugins() -> tuple[EntryPoint, ...]:
    """Of the packages that are installed when a name is first used: looking through them all takes its time."""
    return tuple(sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: (p.name, p.value)))


def _origin(plugin: EntryPoint) -> str:
    return plugin.dist.name if plugin.dist is not None else plugin.value


def _suggest(word: str, known: Iterable[str]) -> str:
    close = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def _convert(value: object, hint: Any, where: str) -> object:
    """`value` as the type `hint` (bool, int, float, str, Literal, or one of these or None)."""
    if get_origin(hint) in (Union, types.UnionType):
        members = get_args(hint)
        if type(None) in members and (value is None or value in ("none", "None")):
            return None
        return _convert(value, next(m for m in members if m is not type(None)), where)
    if get_origin(hint) is Literal:
        allowed = get_args(hint)
        if value in allowed:
            return value
        raise BadOption(f"{where} is {value!r}{_suggest(str(value), allowed)}; allowed: {', '.join(allowed)}")
    if hint is bool:
        words = {True: True, False: False, "true": True, "false": False, "True": True, "False": False}
        if value in words and not (isinstance(value, (int, float)) and not isinstance(value, bool)):
            return words[value]  # type: ignore[index]
    elif hint in (int, float) and not isinstance(value, bool):
        try:
            number = hint(value)
        except (TypeError, ValueError):
            number = None
        # int(3.5) would quietly lose the half, and an infinite or NaN option poisons every later comparison.
        if number is not None and abs(number) < float("inf") and (isinstance(value, str) or number == value):
            return number
    elif hint is str:
        return str(value)
    raise BadOption(f"{where} is {value!r}; it must be of type {getattr(hint, '__name__', hint)}")


def row_name(assigner: str, changed: Mapping[str, Any]) -> str:
    """As ``--assigner`` takes it: ``iqdet[positives=8,select=joint]``."""
    inside = ",".join(f"{key}={value}" for key, value in changed.items())
    return f"{assigner}[{inside}]" if inside else assigner


@dataclass(frozen=True)
class AssignerSpec:
    """An assigner with its options, as runs, plans and benchmarks ask for it.

    Attributes:
        assigner: its registered name.
        options: all of them, defaults included.
        changed: those that differ from the defaults.
    """

    assigner: str
    options: dict[str, Any]
    changed: dict[str, Any]

    @property
    def name(self) -> str:
        """``name[key=value,...]`` with what differs from the defaults."""
        return row_name(self.assigner, dict(sorted(self.changed.items())))
