"""The assigner in question: a registered name with options, or a class in a file."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from assigners import registry
from assigners.contract import Assigner, HeadInfo
from harness.core.errors import UserError, did_you_mean
from harness.verify.answers import Factory, perturbed
from harness.verify.scenes import VerifyScene

_FILE = re.compile(r"(?P<path>.+\.py)(?::(?P<name>\w+))?")


@dataclass(frozen=True)
class Subject:
    """An assigner to verify.

    Attributes:
        title: for people.
        name: under which it is registered; None for a class in a file.
        options: all of them, defaults included; defaults: without the user's choices.
    """

    title: str
    name: str | None
    kind: type[Assigner]
    options: Mapping[str, Any]
    defaults: Mapping[str, Any]

    def build(self, head: HeadInfo) -> Assigner:
        """The assigner for a detector, from the same random state every time.

        Raises:
            UserError: if it cannot be built.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                return registry.build(self.kind, self.title, head, self.options)
            except registry.RegistryError:
                raise
            except Exception as error:
                raise UserError(
                    f"{self.title}: {self.kind.__name__}(HeadInfo, ...) raises {type(error).__name__}: {error}"
                ) from error

    def changed(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the options that are not the defaults."""
        return {key: value for key, value in options.items() if value != self.defaults.get(key)}

    @property
    def factory(self) -> Factory:
        """For the checks of the contract: its own parameters are moved away from their start."""

        def build(scene: VerifyScene) -> Assigner:
            return perturbed(self.build(scene.head), scene.seed)

        return build


def find_subject(text: str) -> Subject:
    """What the user means by ``NAME[K=V,...]``, ``FILE.py[K=V,...]`` or ``FILE.py:CLASS[K=V,...]``.

    Raises:
        UserError: if the file cannot be imported or has no such class.
        RegistryError: for an unknown name or option.
    """
    target, choices = registry.parse_spec(text)
    file = _FILE.fullmatch(target)
    if file is None:
        name, title, kind = target, target, _load(target)
    else:
        name, kind = None, _class_in(Path(file["path"]), file["name"])
        title = kind.__name__
    subject = Subject(title, name, kind, _options(kind, title, choices), _options(kind, title, {}))
    subject.build(HeadInfo(num_classes=5, channels=4))  # what cannot be built is told before the checks begin
    return subject


def _load(name: str) -> type[Assigner]:
    entry = registry.find(name)
    try:
        return registry.load(name)
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"assigner {name!r} ({entry.target}) cannot be loaded: {error}") from error


def _options(kind: type[Assigner], title: str, choices: Mapping[str, object]) -> dict[str, Any]:
    try:
        options = registry.convert_options(kind, title, choices)
    except registry.RegistryError:
        raise
    except Exception as error:
        fault = f"the options of {kind.__name__}.__init__ cannot be read: {type(error).__name__}: {error}"
        raise UserError(f"{title}: {fault}; each needs a type and a default") from error
    for name, value in options.items():
        if value is inspect.Parameter.empty:
            raise UserError(f"{title}: option {name!r} of {kind.__name__}.__init__ has no default; give it one")
    return options


def _class_in(path: Path, wanted: str | None) -> type[Assigner]:
    module = _import(path)
    if wanted is not None:
        value = getattr(module, wanted, None)
        if isinstance(value, type) and issubclass(value, Assigner):
            return value
        known = [kind.__name__ for kind in _assigners(module)]
        what = "is not a subclass of assigners.Assigner" if value is not None else "is not in the file"
        raise UserError(f"{path}: {wanted} {what}{did_you_mean(wanted, known)}; there: {', '.join(known) or 'none'}")
    defined = [kind for kind in _assigners(module) if kind.__module__ == module.__name__]
    if not defined:
        raise UserError(f"{path} defines no subclass of assigners.Assigner")
    if len(defined) > 1:
        names = ", ".join(kind.__name__ for kind in defined)
        raise UserError(f"{path} defines several assigners: {names}; write {path}:{defined[0].__name__}")
    return defined[0]


def _assigners(module: ModuleType) -> list[type[Assigner]]:
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Assigner) and not inspect.isabstract(value)
    ]


def _import(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    name = f"_verified_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.resolve().parent))  # as Python does for a script: its neighbours can be imported
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module
