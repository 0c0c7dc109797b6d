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
from itertools import islice
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
    found = _class(module, name)
    if found is None:
        raise RegistryError(f"assigner {entry.name!r}: no class {name} in a source file of {module}")
    ancestry = _ancestry(found)
    rule, departures = _told(ast.get_docstring(found.source.tree) or "")
    return Description(rule, _options(ancestry), _needs(ancestry), _declares(ancestry), departures)


def _assigned(body: list[ast.stmt], name: str) -> ast.expr | None:
    """The expression that a module or a class sets a name to."""
    for node in body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return node.value
    return None


@dataclass(frozen=True)
class _Source:
    tree: ast.Module

    def lookup(self, name: str) -> tuple[_Source, ast.AST] | None:
        """What a name of the module stands for: its class, or the expression assigned to it; through imports."""
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return self, node
            if (value := _assigned([node], name)) is not None:
                return self, value
            if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
                for alias in node.names:
                    if (alias.asname or alias.name) == name and (source := _source(node.module)) is not None:
                        return source.lookup(alias.name)
        return None


@dataclass(frozen=True)
class _Class:
    source: _Source
    node: ast.ClassDef

    @property
    def init(self) -> ast.FunctionDef | None:
        functions = (n for n in self.node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
        return next(functions, None)


@cache
def _source(module: str) -> _Source | None:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        return _Source(ast.parse(Path(spec.origin).read_text("utf-8")))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


def _class(module: str, name: str) -> _Class | None:
    source = _source(module)
    found = source.lookup(name) if source is not None else None
    return _Class(found[0], found[1]) if found is not None and isinstance(found[1], ast.ClassDef) else None


def _ancestry(kind: _Class) -> list[_Class]:
    """The class and its bases, nearest first, as far as their sources are at hand and of this family."""
    found = [kind]
    for base in kind.node.bases:
        looked = kind.source.lookup(base.id) if isinstance(base, ast.Name) else None
        if looked is not None and isinstance(looked[1], ast.ClassDef):
            found += _ancestry(_Class(looked[0], looked[1]))
    return found


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


def _options(ancestry: list[_Class]) -> list[Option]:
    source, init = next(((kind.source, kind.init) for kind in ancestry if kind.init is not None), (None, None))
    if source is None or init is None:
        return []
    meanings: dict[str, str] = {}
    for kind in reversed(ancestry):  # the nearest class has the last word, unless it points elsewhere
        for name, text in _arguments(ast.get_docstring(kind.node) or "").items():
            if name not in meanings or not _ELSEWHERE.fullmatch(text):
                meanings[name] = text
    named = zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
    return [
        Option(arg.arg, _written(source, arg.annotation), _written(source, default), meanings.get(arg.arg, ""))
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


def _written(source: _Source, node: ast.expr | None) -> str:
    """A type or a value as people read it: a name of the module is followed, choices are listed, text is bare."""
    if isinstance(node, ast.Name) and (looked := source.lookup(node.id)) is not None:
        return _written(looked[0], looked[1]) if isinstance(looked[1], ast.expr) else node.id
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
        choices = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return " | ".join(str(ast.literal_eval(choice)) for choice in choices)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return ast.unparse(node) if node is not None else ""


def _called(ancestry: list[_Class], name: str) -> list[ast.Call]:
    """The call that a class attribute is set to, by the nearest class that does; none where none does."""
    calls = (value for kind in ancestry if isinstance(value := _assigned(kind.node.body, name), ast.Call))
    return [*islice(calls, 1)]


def _needs(ancestry: list[_Class]) -> list[str]:
    keywords = [keyword for call in _called(ancestry, "needs") for keyword in call.keywords]
    return [str(k.arg) for k in keywords if isinstance(k.value, ast.Constant) and k.value.value is True]


def _declares(ancestry: list[_Class]) -> dict[str, str]:
    """What the class sets, and what ``__init__`` sets by its options."""
    calls = _called(ancestry, "declares")
    init = next((kind.init for kind in ancestry if kind.init is not None), None)
    for node in ast.walk(init) if init is not None else ():
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            for target in node.targets:
                if isinstance(target, ast.Attribute) and target.attr == "declares":
                    calls.append(node.value)
    return {str(keyword.arg): _setting(keyword.value) for call in calls for keyword in call.keywords}


def _setting(node: ast.expr) -> str:
    """``box|class`` for a set, a constant as it is, anything else as written."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "frozenset" and node.args:
        inner = node.args[0]
        if isinstance(inner, ast.Set) and all(isinstance(item, ast.Constant) for item in inner.elts):
            return "|".join(sorted(str(ast.literal_eval(item)) for item in inner.elts))
    return str(node.value) if isinstance(node, ast.Constant) else ast.unparse(node)
