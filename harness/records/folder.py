"""The work folder of a run: what lies where in it. Nothing heavy is imported: `harness doctor` looks here too."""

from __future__ import annotations

from pathlib import Path


class RunFolder:
    """Paths within ``results/work/<run id>/``; nothing of it need exist."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = path / "lock"  # held by who works on the run
        self.claim = path / "claim"  # held by the sweep that has it run
        self.checkpoint = path / "checkpoint"  # a folder; `.old` beside it is the one before, `.new` is being written
        self.trace = path / "metrics.jsonl"  # a line per logged step
        self.network = path / "network.safetensors"  # the evaluated network alone
        self.assigner = path / "assigner.safetensors"  # the assigner's own parameters, where it has any
        self.trained = path / "trained.json"  # there while a trained run waits for its record
        self.samples = path / "samples" / "samples.json"  # which sample pictures lie beside it
        self.error = path / "error.txt"  # the traceback of a bug, in a sweep

    @property
    def run_id(self) -> str:
        """The run that it is of."""
        return self.path.name

    @property
    def states(self) -> list[Path]:
        """The state of the last complete checkpoint and of the one before, as far as they are there."""
        # `.old` is the last where a kill hit between two renames.
        places = (self.checkpoint, self.checkpoint.with_name("checkpoint.old"))
        return [path for place in places if (path := place / "state.json").is_file()]

    @property
    def state(self) -> Path | None:
        """The state of the last complete checkpoint; None for none."""
        return next(iter(self.states), None)
