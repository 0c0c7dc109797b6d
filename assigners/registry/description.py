"""An assigner as its own source describes it: rule, options, needs, departures. Nothing of it is imported.

Importing an assigner imports torch, which takes seconds; a description reads the syntax tree of its file. Options are
the keyword arguments of ``__init__``, with what the class docstring's ``Args`` say of each; both may be inherited.
"""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from assigners.registry import CatalogueEntry, RegistryError

_DEPARTURES = re.compile(r"^Departures\b.*:\s*$", re.MULTILINE)
_ARGUMENT = re.compile(r"^(?P<names>\w+(?:, \w+)*): (?P<text>.*)$")
_ELSEWHERE = re.compile(r"see `\w+`\.?")


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        kind: its type, choices written out; default: as written in the source.
        meaning: from the docstring; empty where it says nothing.
    """

    name: str
    kind: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Description:
    """What there is to know of an assigner before it is used.

    Attributes:
        rule: paragraphs of the module's docstring, up to the departures.
        needs: what it reads: predictions, grads, features.
        declares: what it changes besides the assignment, by name; an expression where an option decides.
        departures: from the authors' code, one each.
    """

    rule: list[str]
    options: list[Option] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    declares: dict[str, str] = field(default_factory=dict)
    departures: list[str] = field(default_factory=list)


def describe(entry: CatalogueEntry) -> Description:
    """Read the source of an assigner.

    Raises:
        RegistryError: where there is no source to read, or no such class in it.
    """
    module, _, name = entry.target.partition(":")
    ancestry = _ancestry(_source(module), name)
    if not ancestry:
        raise RegistryError(f"assigner {entry.name!r}: no class {name} in a source file of {module}")
    rule, departures = _told(ast.get_docstring(ancestry[0][0]) or "")
    return Description(rule, _options(ancestry), _needs(ancestry), _declares(ancestry), departures)


_Ancestry = list[tuple[ast.Module, ast.ClassDef]]  # each class with the module that its names are of, nearest first


@cache
def _source(module: str) -> ast.Module | None:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        return ast.parse(Path(spec.origin).read_text("utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


def _lookup(tree: ast.Module | None, name: str) -> tuple[ast.Module, ast.AST] | None:
    """What a name of a module stands for, its class or the expression assigned to it, and where; through imports."""
    if tree is None:
        return None
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return tree, node
        if (value := _assigned([node], name)) is not None:
            return tree, value
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            for alias in node.names:
                if (alias.asname or alias.name) == name and (found := _lookup(_source(node.module), alias.name)):
                    return found
    return None


def _assigned(body: list[ast.stmt], name: str) -> ast.expr | None:
    """The expression that a module or a class sets a name to."""
    for node in body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return node.value
    return None


def _ancestry(tree: ast.Module | None, name: str) -> _Ancestry:
    """The class of that name and its bases, as far as their sources are at hand; none where it is no class."""
    found = _lookup(tree, name)
    if found is None or not isinstance(found[1], ast.ClassDef):
        return []
    bases = (_ancestry(found[0], base.id) for base in found[1].bases if isinstance(base, ast.Name))
    return [(found[0], found[1]), *chain.from_iterable(bases)]


def _init(ancestry: _Ancestry) -> tuple[ast.Module, ast.FunctionDef] | None:
    """The nearest ``__init__``."""
    nodes = ((tree, node) for tree, kind in ancestry for node in kind.body)
    return next(((t, n) for t, n in nodes if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)


def _told(docstring: str) -> tuple[list[str], list[str]]:
    """Paragraphs of the rule, and the items of the list of departures."""
    match = _DEPARTURES.search(docstring)
    rule = docstring[: match.start()] if match else docstring
    items: list[str] = []
    for line in docstring[match.end() :].strip().splitlines() if match else ():
        if line.startswith("* "):
            items.append(line[2:])
        elif line.startswith("  ") and items:
            items[-1] += " " + line.strip()
        else:
            break
    return [paragraph for paragraph in rule.strip().split("\n\n") if paragraph], items


def _options(ancestry: _Ancestry) -> list[Option]:
    if (found := _init(ancestry)) is None:
        return []
    tree, init = found
    meanings: dict[str, str] = {}
    for _, kind in reversed(ancestry):  # the nearest class has the last word, unless it points elsewhere
        for name, text in _arguments(ast.get_docstring(kind) or "").items():
            if name not in meanings or not _ELSEWHERE.fullmatch(text):
                meanings[name] = text
    named = zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
    return [
        Option(arg.arg, _written(tree, arg.annotation), _written(tree, default), meanings.get(arg.arg, ""))
        for arg, default in named
    ]


def _arguments(docstring: str) -> dict[str, str]:
    """What the section ``Args`` says of each argument."""
    _, found, rest = inspect.cleandoc(docstring).partition("\nArgs:\n")
    said: dict[str, str] = {}
    names: list[str] = []
    for line in rest.splitlines() if found else ():
        if line and not line.startswith("    "):
            break  # the next section
        if (match := _ARGUMENT.match(line[4:])) is not None:
            names = match["names"].split(", ")
            said.update(dict.fromkeys(names, match["text"]))
        else:
            said.update({name: f"{said[name]} {line.strip()}".strip() for name in names})
    return said


def _written(tree: ast.Module, node: ast.expr | None) -> str:
    """A type or a value as people read it: a name of the module is followed, choices are listed, text is bare."""
    if isinstance(node, ast.Name) and (found := _lookup(tree, node.id)) is not None:
        return _written(found[0], found[1]) if isinstance(found[1], ast.expr) else node.id
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
        choices = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return " | ".join(str(ast.literal_eval(choice)) for choice in choices)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return ast.unparse(node) if node is not None else ""


def _keywords(ancestry: _Ancestry, name: str) -> list[ast.keyword]:
    """Of the call that a class attribute is set to, by the nearest class that does."""
    calls = (_assigned(kind.body, name) for _, kind in ancestry)
    return next((call.keywords for call in calls if isinstance(call, ast.Call)), [])


def _needs(ancestry: _Ancestry) -> list[str]:
    keywords = _keywords(ancestry, "needs")
    return [str(k.arg) for k in keywords if isinstance(k.value, ast.Constant) and k.value.value is True]


def _declares(ancestry: _Ancestry) -> dict[str, str]:
    """What the class sets, and what ``__init__`` sets by its options."""
    keywords = [*_keywords(ancestry, "declares")]
    found = _init(ancestry)
    for node in ast.walk(found[1]) if found is not None else ():
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            of_self = (target.attr for target in node.targets if isinstance(target, ast.Attribute))
            keywords += node.value.keywords if "declares" in of_self else []
    return {str(keyword.arg): _setting(keyword.value) for keyword in keywords}


def _setting(node: ast.expr) -> str:
    """``box|class`` for a set, a constant as it is, anything else as written."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "frozenset" and node.args:
        inner = node.args[0]
        if isinstance(inner, ast.Set) and all(isinstance(item, ast.Constant) for item in inner.elts):
            return "|".join(sorted(str(ast.literal_eval(item)) for item in inner.elts))
    return str(node.value) if isinstance(node, ast.Constant) else ast.unparse(node)
