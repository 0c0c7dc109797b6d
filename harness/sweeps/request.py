"""What a sweep is asked for: on the command line or in TOML, checked as far as that goes without opening anything."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness.core.errors import UserError, did_you_mean, reason, shorten
from harness.data.sources import EMBEDDED

Rerun = Literal["never", "failed", "always"]

SHORT_KEYS = {"lr": "schedule.lr"}
MOST_SEEDS = 1000  # a count beyond it is a slip of the finger
LARGEST_FACTOR = 1e6  # likewise


class SweepRequest(BaseModel):
    """What is asked for, on the command line or in a TOML file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    assigners: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]  # texts as `expand` reads them
    seeds: tuple[int, ...] = (0, 1, 2)  # a count ``n`` stands for ``0..n-1``
    protocol: str | None = None  # built-in name or TOML file; None is the default for the data
    data: str = EMBEDDED  # or as ``--data`` takes it: ``coco:DIR``
    overrides: tuple[str, ...] = Field(default=(), alias="set")  # ``section.key=value``; in TOML a table or a list
    tune: dict[str, tuple[float, ...]] = {}  # factors for numeric keys of the protocol
    rerun: Rerun = "never"  # which of the runs that ended are run again

    @field_validator("seeds", mode="before")
    @classmethod
    def _counted(cls, value: object) -> tuple[int, ...]:
        if type(value) is int and 0 < value <= MOST_SEEDS:
            return tuple(range(value))
        if isinstance(value, (list, tuple)) and value and all(type(seed) is int and seed >= 0 for seed in value):
            return tuple(dict.fromkeys(value))
        raise ValueError(f"must be a count, 1 to {MOST_SEEDS}, or a list of seeds such as [0, 1, 2]")

    @field_validator("overrides", mode="before")
    @classmethod
    def _as_texts(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return tuple(
                f"{key}={json.dumps(entry, ensure_ascii=False, default=str)}" for key, entry in _flat(value).items()
            )
        return tuple(value) if isinstance(value, list) else value

    @field_validator("tune", mode="before")
    @classmethod
    def _as_factors(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            raise ValueError("must be a table such as lr = [0.5, 1, 2]")
        factors: dict[str, tuple[float, ...]] = {}
        for key, listed in _flat(value).items():
            numbers = listed if isinstance(listed, (list, tuple)) else [listed]
            if not numbers or not all(type(n) in (int, float) and 0 < n <= LARGEST_FACTOR for n in numbers):
                raise ValueError(f"{key} must list factors, 0 to {LARGEST_FACTOR:g}, such as [0.5, 1, 2]")
            factors[SHORT_KEYS.get(key, key)] = tuple(dict.fromkeys(map(float, numbers)))
        return factors


def read_sweep(path: Path) -> dict[str, Any]:
    """The values of a sweep file, to be checked by `sweep_request`.

    Raises:
        UserError: if it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise UserError(
            f"sweep file {shorten(str(path))} cannot be read: {reason(error)}; assigners are named with -a"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"sweep file {path} is not valid TOML: {reason(error)}") from error


def sweep_request(values: Mapping[str, Any], where: str) -> SweepRequest:
    """Check what was asked for; `where` is for messages.

    Raises:
        UserError: for an unknown key, with the nearest known one, or a value that does not fit.
    """
    try:
        return SweepRequest.model_validate(dict(values))
    except ValidationError as error:
        # An unknown key is told before what is missing: it may be the missing one, misspelt.
        first = min(error.errors(), key=lambda mistake: mistake["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = [field.alias or name for name, field in SweepRequest.model_fields.items()]
            raise UserError(
                f"{where}: unknown key {key!r}{did_you_mean(key, known)}; known: {', '.join(known)}"
            ) from error
        if first["type"] in ("missing", "too_short"):
            raise UserError(f"{where}: no {key}; name some, such as -a atss,paa") from error
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: {key}: {message} (got {shorten(repr(first['input']))})") from error


def expand(text: str) -> list[tuple[str, dict[str, str]]]:
    """The assigners of a list such as ``atss,iqdet[positives=8,12,peak=sigmoid]``: names with options as text.

    Commas inside brackets belong to the options; an option with several values stands for one assigner with each.

    Raises:
        UserError: if brackets or pairs are malformed.
    """
    assigners: list[tuple[str, dict[str, str]]] = []
    for part in _split(text):
        name, bracket, rest = part.partition("[")
        if bracket and not rest.endswith("]"):
            raise UserError(f"assigner {shorten(part)!r}: the bracket is not closed; write name[key=value,value]")
        options = _options(part, rest[:-1])
        assigners += [(name.strip(), dict(zip(options, values, strict=True))) for values in product(*options.values())]
    return assigners


def _split(text: str) -> list[str]:
    """The parts between commas that are outside brackets; empty ones are left out."""
    parts, depth = [""], 0
    for letter in text:
        depth = max(0, depth + (letter == "[") - (letter == "]"))
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _options(text: str, inside: str) -> dict[str, tuple[str, ...]]:
    """The values of each option between the brackets of the assigner `text`."""
    options: dict[str, list[str]] = {}
    key = ""
    for part in filter(None, (part.strip() for part in inside.split(","))):
        head, equals, value = (word.strip() for word in part.partition("="))
        key = head if equals else key
        if not key:
            raise UserError(f"assigner {shorten(text)!r}: {shorten(part)!r} is not of the form key=value")
        options.setdefault(key, []).append(value if equals else part)
    return {key: tuple(dict.fromkeys(values)) for key, values in options.items()}


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables as dotted keys: TOML reads ``schedule.lr = 1`` as a table in a table."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        inner = {f"{key}.{name}": entry for name, entry in _flat(value).items()} if isinstance(value, Mapping) else {}
        flat |= inner or {key: value}
    return flat
