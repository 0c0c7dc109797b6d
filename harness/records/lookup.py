"""Which record answers a question: found by what decides the answer, not by the run id.

A run id covers every option of the assigner, so it changes when an option is added, although a run that leaves the new
option alone is the run that it was. Here only what differs from today's defaults counts: an option that a record does
not know stands at its default, which is how the assigner was before it had the option.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from assigners import registry
from harness.records.identity import AnswerKey, RunSpec, answer_key, training_key
from harness.records.names import oldest_first
from harness.records.schema import RunRecord


class RecordIndex:
    """The records of a store, by the question that they answer.

    Args:
        records: of any protocol; of several answers to one question the newest counts.
    """

    def __init__(self, records: Iterable[RunRecord]) -> None:
        self._records: dict[str, list[RunRecord]] = {}
        for record in oldest_first(records):
            self._records.setdefault(record.assigner, []).append(record)
        self._answers: dict[str, dict[AnswerKey, RunRecord]] = {}
        self._trained: dict[str, dict[str, list[RunRecord]]] = {}

    def answer(self, spec: RunSpec) -> RunRecord | None:
        """The newest record of this run, whatever its run id; None if there is none."""
        # Only for assigners that are asked about: reading defaults imports the assigner.
        name = spec.assigner
        defaults = registry.option_defaults(name)
        if name not in self._answers:
            self._answers[name] = {
                answer_key(
                    name, _changed(record.options, defaults), record.protocol.hash, record.data,
                    record.seed,
                ): record
                for record in self._records.get(name, ())
            }  # fmt: skip
        changed = _changed(spec.options, defaults)
        return self._answers[name].get(answer_key(name, changed, spec.protocol.digest, spec.data, spec.seed))

    def twins(self, spec: RunSpec) -> list[RunRecord]:
        """The records of runs that train as this one does and are evaluated otherwise, oldest first."""
        name, defaults = spec.assigner, registry.option_defaults(spec.assigner)
        if name not in self._trained:
            known = self._trained.setdefault(name, {})
            for record in self._records.get(name, ()):
                changed = _changed(record.options, defaults)
                key = training_key(name, changed, record.protocol.content, record.data, record.seed)
                known.setdefault(key, []).append(record)
        content = spec.protocol.content()
        key = training_key(name, _changed(spec.options, defaults), content, spec.data, spec.seed)
        alike = self._trained[name].get(key, ())
        return [record for record in alike if record.protocol.content["evaluation"] != content["evaluation"]]


def _changed(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Off their defaults. An option that the assigner no longer has stays: such a run answers nothing of today."""
    return {key: value for key, value in options.items() if key not in defaults or value != defaults[key]}
