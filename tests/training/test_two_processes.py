"""Two processes under torchrun train as one does."""

from __future__ import annotations

import json

import pytest

from harness.data.loader import train_batches
from harness.data.splits import open_splits
from harness.records.store import ResultsStore
from tests.support.runs import request, run, together, toml_of, trace_of, unshared_protocol, write_coco

SCRIPT = """
import sys
from contextlib import nullcontext
from pathlib import Path
import torch
from harness.runs import run as engine
from tests.support.runs import request, run, unshared_protocol

torch.set_num_threads(1)
with engine.processes("cpu") as group:
    engine.processes = lambda _: nullcontext(group)  # one group for all runs: torch cannot make it a second time
    for name in sys.argv[3:]:
        run(request(Path(sys.argv[1]), name, unshared_protocol(), data=sys.argv[2]))
"""
NAMES = ("atss", "iqdet")

# Of few logged steps: those that are not are reduced for this alone. `one` has boxes on the first process only, `none`
# has no box at all. What every process says is written down.
WATCHED = """
import sys
from contextlib import nullcontext
from pathlib import Path
import torch
from harness.runs import run as engine
from harness.training import trainer
from harness.data import splits
from harness.core.errors import RunFailed
from tests.support.runs import request, run, unshared_protocol

torch.set_num_threads(1)
trainer.TRACE_LINES = 1
splits._examine = lambda *_: None  # else data without an object is refused
with engine.processes("cpu") as group:
    engine.processes = lambda _: nullcontext(group)
    for data in ("one", "none"):
        try:
            run(request(Path("results"), "atss", unshared_protocol(), data=f"coco:{data}"))
            said = "finished"
        except RunFailed as failure:
            said = str(failure)
        Path(f"{data}{group.rank}").write_text(said)
"""


def test_two_processes_stop_together_where_neither_has_an_object(tmp_path):
    for name in ("one", "none"):
        path = write_coco(tmp_path / name) / "annotations" / "instances_train.json"
        content = json.loads(path.read_text())
        kept = [each for each in content["annotations"] if name == "one" and each["image_id"] == 1]
        path.write_text(json.dumps({**content, "annotations": kept}))
    together(tmp_path, WATCHED)
    assert [(tmp_path / f"one{rank}").read_text() for rank in range(2)] == ["finished"] * 2
    said = [(tmp_path / f"none{rank}").read_text() for rank in range(2)]
    assert said[0] == said[1]
    assert said[0].startswith("the first 6 steps had no object")


FAULT = """
import os
from pathlib import Path
from harness.runs import run as engine
from harness.core.errors import UserError
from tests.support.runs import request, run, unshared_protocol

rank, said = os.environ["RANK"], "nothing"
engine.checked = lambda images, *_: images  # as if it broke after it was looked at
try:
    run(request(Path("results"), "center", unshared_protocol(), data="coco:data"))
except UserError as error:
    said = str(error)
Path(f"said{rank}").write_text(said)
threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
Path(f"threads{rank}").write_text(" ".join(threads))
"""


def test_the_main_process_tells_of_an_image_that_the_other_cannot_read(tmp_path):
    images = sorted((write_coco(tmp_path / "data") / "val").iterdir())
    images[4].write_bytes(images[4].read_bytes()[:300])  # the second batch of four, so that of the second process
    together(tmp_path, FAULT)
    assert (tmp_path / "said1").read_text() == "nothing"
    told = (tmp_path / "said0").read_text()
    assert told.startswith("image data/val/4.png cannot be decoded: ")
    assert "; the training is kept in results/work/center-small-test-s0-" in told
    # A thread of the group that is left when Python ends aborts the process now and then.
    assert not any("gloo" in (tmp_path / f"threads{rank}").read_text() for rank in range(2))


BROKEN = """
import torch
from harness.cli import main
from harness.runs import run as engine

torch.set_num_threads(1)
engine.checked = lambda images, *_: images  # as if it broke after it was looked at
main("run -a center --data coco:data --protocol small.toml --device cpu --threads 1 --workers 0".split())
"""


def test_an_image_of_the_second_process_is_named_once_in_a_line(tmp_path):
    """The first one, which waits for it, has nothing to say."""
    protocol, data = unshared_protocol(), write_coco(tmp_path / "data")
    (tmp_path / "small.toml").write_text(toml_of(protocol))
    train, _ = open_splits(f"coco:{data}", protocol)
    first, second = (
        [index for batch in train_batches(train, protocol, seed=0, rank=rank, world=2) for index in batch.indices]
        for rank in range(2)
    )
    index = next(index for step, index in enumerate(second) if index not in first[: step + 1])
    path = data / train.name(index)
    path.write_bytes(path.read_bytes()[:300])
    errors = together(tmp_path, BROKEN, code=1)  # torchrun's own
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: image data/{train.name(index)} cannot be decoded: ")
    assert "peer" not in errors
    assert errors.count("Traceback") == 1  # torchrun's own
    assert "ChildFailedError" in errors


def test_two_processes_give_the_losses_of_one(tmp_path):
    data = f"coco:{write_coco(tmp_path / 'data')}"
    together(tmp_path, SCRIPT, str(tmp_path / "two"), data, *NAMES)
    records = {record.assigner: record for record in ResultsStore(tmp_path / "two").load_all()[0]}
    for name in NAMES:
        one, two = run(request(tmp_path / "one", name, unshared_protocol(), data=data)), records[name]
        assert two.run_id == one.record.run_id
        first, second = trace_of(one.work_dir), trace_of(tmp_path / "two" / "work" / two.run_id)
        assert len(first) == len(second) == 6
        positives = [line["statistics"]["positives_per_box"] for line in first]
        assert any(positives)
        assert not all(positives)  # some steps have no box at all, more have none on one side
        for a, b in zip(first, second, strict=True):
            assert b["losses"] == pytest.approx(a["losses"], rel=1e-4, abs=1e-6)
            assert b["statistics"] == pytest.approx(a["statistics"], rel=1e-3, abs=1e-5)
        assert two.metrics["AP"] == pytest.approx(one.record.metrics.AP, abs=0.5)
