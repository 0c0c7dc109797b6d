"""Under one protocol and seed nothing differs but the assigner, and the record proves it."""

import pytest

from assigners import registry
from harness.comparison.board import boards
from harness.comparison.pair import compare
from harness.data import open_data
from harness.data.loader import train_batches
from harness.runs.run import run
from tests.support.runs import request, small_protocol

FEW = small_protocol(schedule={"steps": 2})


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("equal")
    names = [entry.name for entry in registry.catalogue()]
    return {name: run(request(folder, assigner=name, protocol=FEW)).record for name in names}


def test_every_assigner_starts_from_the_same_weights_and_sees_the_same_batches(records):
    assert len(records) >= 8
    for name in ("initial_weights", "batches"):
        assert len({getattr(record.equal, name) for record in records.values()}) == 1
    (comparison,) = compare(boards(records.values(), {}), "atss", "iqdet")
    assert comparison.equal == {"initial_weights": True, "batches": True}


def test_another_seed_differs_in_both(records, tmp_path):
    other = run(request(tmp_path, assigner="center", protocol=FEW, seed=1)).record
    for name in ("initial_weights", "batches"):
        assert getattr(other.equal, name) != getattr(records["center"].equal, name)


@pytest.mark.parametrize(
    "change", [{"horizontal_flip": 1.0}, {"color_jitter": 0.5}, {"scale_jitter": (0.5, 0.9), "crop": True}]
)
def test_the_digest_sees_what_augmentation_does(change):
    def digests(protocol):
        images = open_data("shapes", protocol.data, role="train")
        return [batch.digest for batch in train_batches(images, protocol, seed=0)]

    assert digests(FEW) == digests(FEW)
    assert digests(FEW) != digests(small_protocol(data=change, schedule={"steps": 2}))
