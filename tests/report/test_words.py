"""What is said of a board follows from its runs."""

import pytest

from harness.comparison.board import boards
from harness.protocol.protocol import load_protocol
from harness.report.words import caveats, findings, headline, listing, ranks
from tests.report.stores import details_of
from tests.support.fakes import changed, make_record


def board_of(aps, *, details=False, **changes):
    records = [
        make_record(load_protocol("tiny"), assigner=name, seed=seed, ap=ap, **changes)
        for name, values in aps.items()
        for seed, ap in enumerate(values)
    ]
    found = {record.run_id: details_of(record) for record in records} if details else {}
    (board,) = boards(records, found)
    return board


NEAR = {"a": (50.0, 50.4, 49.6), "b": (49.9, 50.6, 49.3)}
FAR = (30.0, 30.5, 29.6)


@pytest.mark.parametrize(
    ("aps", "said"),
    [
        ({"a": (None,)}, "No run here has an AP."),
        ({"a": (40.0,)}, "a alone has run; there is nothing to compare it with yet."),
        ({"a": (41.0,), "b": (40.0,)}, "a has the highest mean, but no gap can be tested yet: too few shared seeds."),
        (NEAR, "No assigner is told apart from another at this number of seeds."),
        ({**NEAR, "c": FAR}, "a leads; b is not told apart from it."),
        ({"a": NEAR["a"], "c": FAR}, "a leads, ahead of every other assigner."),
        ({"a": NEAR["a"], "c": FAR, "d": (20.0,)}, "a leads, ahead of all that it can be tested against."),
        ({"a": (60.0,), "b": NEAR["b"], "c": FAR}, "a has the highest mean, but cannot be tested against the others."),
    ],
)
def test_headline(aps, said):
    assert headline(board_of(aps)) == said


def test_many_ties_are_counted():
    many = {name: tuple(value + 0.01 * place for value in (50.0, 51.0, 49.0)) for place, name in enumerate("abcde")}
    noisy = {
        name: (values[0], values[1] + place % 2, values[2] - place % 3)
        for place, (name, values) in enumerate(many.items())
    }
    board = board_of({**noisy, "z": (10.0, 11.0, 9.0)})
    assert headline(board).endswith("tied with 4 of 5 others.")


def test_ties_share_their_ranks():
    board = board_of({**NEAR, "c": FAR})
    assert dict(zip([entry.name for entry in board.entries], ranks(board), strict=True)) == {
        "a": (1, 2), "b": (1, 2), "c": (3, 3),
    }  # fmt: skip


def test_findings_name_who_is_behind_tied_and_untested():
    said = " ".join(findings(board_of({**NEAR, "c": FAR, "d": (20.0,)})))
    assert "Behind a by more than noise: c." in said
    assert "Tied with it: b." in said
    assert "Not tested against it, for want of shared seeds: d." in said
    assert "smallest true gap" in said


def test_caveats_come_from_the_runs():
    said = " ".join(caveats(board_of({"a": (50.0, 51.0), "b": (40.0,)})))
    assert "One seed only, so no interval over seeds: b." in said
    assert "different seeds" in said
    assert "3 of 3 runs lack their details" in said
    assert "5 validation images" in said
    assert "different machines" not in said


def test_details_at_hand_are_no_caveat():
    assert "details" not in " ".join(caveats(board_of(NEAR, details=True)))


def test_rough_times_and_several_machines_are_told():
    protocol = load_protocol("tiny")
    records = [make_record(protocol, seed=seed) for seed in (0, 1)]
    records[1] = changed(records[1], cost={"step_ms": 50.0}, environment={"device": "another"})
    said = " ".join(caveats(boards(records, {})[0]))
    assert "a processor and another" in said or "another" in said
    assert "12 to 50 ms" in said


@pytest.mark.parametrize(("names", "words"), [([], None), (["a"], "a"), (["a", "b"], "a and b"), ("abc", "a, b and c")])
def test_listing(names, words):
    if words is not None:
        assert listing(names) == words
