"""What a sweep is asked for, what it will cost, what a search found: pure functions of texts and records."""

from __future__ import annotations

import string
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import UserError
from harness.protocol.protocol import load_protocol
from harness.records.identity import UNKNOWN, RunSpec, question_of
from harness.sweeps.cost import Cost, Costs, Spread, paired_spread
from harness.sweeps.execute import sensitivity
from harness.sweeps.plan import Choice, PlannedRun, choose, share_training, tunings
from harness.sweeps.request import expand, read_sweep, sweep_request
from tests.support.fakes import DATA, changed, data_part, make_record

WORDS = st.text(string.ascii_lowercase + string.digits + "_.-", min_size=1, max_size=6)
ASSIGNERS = st.tuples(WORDS, st.dictionaries(WORDS, st.lists(WORDS, min_size=1, max_size=3, unique=True), max_size=3))
SPACE = st.sampled_from(["", " "])


@given(st.lists(ASSIGNERS, min_size=1, max_size=3), SPACE)
def test_a_list_of_assigners_is_expanded(asked, space):
    def written(name, options):
        inside = f",{space}".join(f"{key}{space}={space}{','.join(values)}" for key, values in options.items())
        return f"{name}[{inside}]" if options else name

    text = f"{space},{space}".join(written(*one) for one in asked)
    wanted = [
        (name, dict(zip(options, values, strict=True)))
        for name, options in asked
        for values in product(*options.values())
    ]
    assert expand(text) == wanted


def test_a_part_without_a_sign_of_equality_belongs_to_the_key_before_it():
    assert expand("iqdet[positives=8,12,peak=sigmoid],atss") == [
        ("iqdet", {"positives": "8", "peak": "sigmoid"}),
        ("iqdet", {"positives": "12", "peak": "sigmoid"}),
        ("atss", {}),
    ]


@pytest.mark.parametrize(
    "text", ["iqdet[8]", "iqdet[=8]", "iqdet[positives=8", "atss,iqdet[positives=8,paa", "a[b=1]c"]
)
def test_a_malformed_list_is_refused(text):
    with pytest.raises(UserError, match="key=value"):
        expand(text)


def test_assigners_of_the_same_options_are_one():
    choices = choose(("center,center[radius=1.5]", "center[radius=2,1.5]", " center "))
    assert [choice.name for choice in choices] == ["center", "center[radius=2.0]"]
    assert choices[1].typed == {"radius": "2"}
    assert choices[1].options["radius"] == 2.0


def test_toml_says_the_same_as_flags(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(
        'assigners = ["atss,center", "paa"]\nseeds = 2\nprotocol = "tiny"\nrerun = "failed"\n'
        '[set]\nschedule.steps = 7\ndata.train_split = "2007"\ndata.scale_jitter = [0.8, 1.2]\n'
        "[tune]\nlr = [0.5, 1, 2]\nloss.box_weight = 3\n"
    )
    request = sweep_request(read_sweep(path), "sweep")
    assert request.assigners == ("atss,center", "paa")
    assert request.seeds == (0, 1)
    assert request.overrides == ("schedule.steps=7", 'data.train_split="2007"', "data.scale_jitter=[0.8, 1.2]")
    assert request.tune == {"schedule.lr": (0.5, 1.0, 2.0), "loss.box_weight": (3.0,)}
    assert request.rerun == "failed"
    assert load_protocol("tiny", request.overrides).data.train_split == "2007"
    listed = sweep_request({"assigners": ["atss"], "set": ["schedule.steps=7"], "seeds": [4, 2, 4]}, "sweep")
    assert (listed.overrides, listed.seeds) == (("schedule.steps=7",), (4, 2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"assigner": ["atss"]}, "unknown key 'assigner', did you mean 'assigners'"),
        ({}, "no assigners"),
        ({"assigners": []}, "no assigners"),
        ({"assigners": "atss"}, "assigners"),
        ({"assigners": ["atss"], "seeds": 0}, "seeds: must be a count"),
        ({"assigners": ["atss"], "seeds": True}, "seeds: must be a count"),
        ({"assigners": ["atss"], "seeds": [0, -1]}, "seeds: must be a count"),
        ({"assigners": ["atss"], "seeds": 10**9}, "seeds: must be a count"),
        ({"assigners": ["atss"], "rerun": "sometimes"}, "rerun: Input should be 'never', 'failed' or 'always'"),
        ({"assigners": ["atss"], "tune": {"lr": [0]}}, "tune: lr must list factors"),
        ({"assigners": ["atss"], "tune": {"lr": [float("nan")]}}, "tune: lr must list factors"),
        ({"assigners": ["atss"], "tune": {"lr": [10**400]}}, "tune: lr must list factors"),
        ({"assigners": ["atss"], "tune": {"lr": []}}, "tune: lr must list factors"),
        ({"assigners": ["atss"], "tune": ["lr"]}, "tune: must be a table"),
        ({"assigners": ["atss"], "protocol": 3}, "protocol"),
    ],
)
def test_a_mistake_in_a_request_is_named(values, message):
    with pytest.raises(UserError) as mistake:
        sweep_request(values, "sweep my.toml")
    assert str(mistake.value).startswith("sweep my.toml: ")
    assert message in str(mistake.value)
    assert "\n" not in str(mistake.value)


@pytest.mark.parametrize("content", [None, "seeds = = 3", b"\xff"])
def test_a_file_that_cannot_be_used_is_named(tmp_path, content):
    path = tmp_path / "my.toml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"sweep file .*my\.toml"):
        read_sweep(path)


def test_every_factor_of_a_key_meets_every_factor_of_the_others():
    made = tunings("tiny", ("schedule.lr=0.1", "schedule.steps=8"), {"schedule.lr": (1, 0.1), "schedule.steps": (1, 2)})
    assert [(t.protocol.schedule.lr, t.protocol.schedule.steps) for t in made] == [
        (0.1, 8),
        (0.1, 16),
        (0.01, 8),
        (0.01, 16),
    ]
    assert made[0].protocol == load_protocol("tiny", ("schedule.lr=0.1", "schedule.steps=8"))
    assert made[3].overrides == ("schedule.lr=0.01", "schedule.steps=16")
    assert len({t.protocol.digest for t in made}) == 4
    assert [t.factors for t in tunings("tiny", (), {})] == [{}]


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"schedule.lrr": (2,)}, "did you mean 'schedule.lr'"),
        ({"schedule.optimizer": (2,)}, "has no number 'schedule.optimizer'"),
        ({"data.crop": (2,)}, "has no number 'data.crop'"),
        ({"schedule.ema": (2,)}, "schedule.ema is 0"),
        ({"schedule.steps": (0.01,)}, "schedule.steps is 60 and must stay whole"),
        ({"evaluation.nms_iou": (2,)}, "evaluation.nms_iou"),
    ],
)
def test_a_number_that_cannot_be_tuned_is_named(tune, message):
    with pytest.raises(UserError) as mistake:
        tunings("tiny", (), tune)
    assert message in str(mistake.value)


def planned(protocol, assigner="center"):
    (tuning,) = [t for t in tunings("tiny", (), {}) if t]
    spec = RunSpec(protocol, DATA, assigner, {}, 0)
    return PlannedRun(Choice(assigner, {}, {}, typed={}), tuning, spec, "", "missing", frozenset())


def test_costs_are_medians_of_the_nearest_records():
    tiny = load_protocol("tiny")
    tuned, longer = load_protocol("tiny", ("schedule.lr=9.0",)), load_protocol("tiny", ("schedule.steps=61",))

    def record(assigner, seconds, memory, device="here", protocol=tiny, seed=0):
        made = make_record(protocol, assigner=assigner, seed=seed, environment={"device": device})
        return changed(made, cost={"train_s": seconds, "peak_memory_mb": memory, "eval_ms_per_image": 200.0})

    costs = Costs([], "here")
    assert costs.of(planned(tiny)) is None
    costs.add(record("center", 1000.0, 1.0, protocol=load_protocol("tiny", ("model.channels=8",))))
    assert costs.of(planned(tiny)) is None  # another network is other work
    assert costs.seconds([planned(tiny)]) is None
    costs.add(record("center", 1000.0, 1.0, protocol=longer))
    costs.add(record("center", 90.0, None, device="elsewhere"))
    # Five images at 200 ms are another second.
    assert costs.of(planned(tiny)) == Cost(91.0, None, "1 run of center on elsewhere")
    costs.add(record("atss", 50.0, 500.0))
    assert costs.of(planned(tiny)) == Cost(51.0, 500.0, "1 run of other assigners")
    for seconds, memory, protocol in ((10.0, 100.0, tiny), (30.0, 300.0, tuned), (20.0, None, tiny)):
        costs.add(record("center", seconds, memory, protocol=protocol))
    # Another learning rate is the same work.
    for protocol in (tiny, tuned):
        assert costs.of(planned(protocol)) == Cost(21.0, 200.0, "3 runs of center")
    assert costs.of(planned(longer)).seconds == 1001.0
    assert costs.seconds([planned(tiny), planned(tiny, "atss")]) == 21.0 + 51.0


def test_where_no_run_did_the_work_images_of_the_same_work_are_counted():
    tiny = load_protocol("tiny")  # 60 steps of 8 images; DATA has 5 images to evaluate
    once = load_protocol("tiny", ("schedule.steps=1", "schedule.batch_size=2", "model.pretrained=true"))
    made = make_record(once, environment={"device": "here"})
    made = changed(made, cost={"step_ms": 3000.0, "eval_ms_per_image": 200.0, "peak_memory_mb": 7.0})
    costs = Costs([made], "here")
    assert costs.of(planned(tiny)) == Cost(60 * 8 * 1.5 + 5 * 0.2, None, "per image as in 1 run of center")
    unnamed = PlannedRun(*(getattr(planned(tiny), name) for name in ("choice", "tuning")),
                         RunSpec(tiny, UNKNOWN, "center", {}, 0), "", "missing", frozenset())  # fmt: skip
    assert costs.of(unnamed).seconds == 60 * 8 * 1.5  # of data that are not named only training is known
    mirrored = costs.of(planned(load_protocol("tiny", ("evaluation.test_flip=true",))))
    assert mirrored == Cost(60 * 8 * 1.5, None, "training alone, per image as in 1 run of center")


def test_evaluations_while_training_are_part_of_the_cost():
    often = load_protocol("tiny", ("evaluation.every=20",))
    made = make_record(often, environment={"device": "here"})
    made = changed(made, cost={"train_s": 10.0, "eval_ms_per_image": 200.0})
    assert Costs([made], "here").of(planned(often)).seconds == 13.0  # after 20, 40 and all 60 steps


def test_a_run_with_the_weights_of_another_costs_its_evaluation():
    tiny, mirrored = load_protocol("tiny"), load_protocol("tiny", ("evaluation.test_flip=true",))
    scaled = load_protocol("tiny", ("evaluation.test_flip=true", "evaluation.test_scales=[64,128]"))
    assert tiny.data.short_edge == 128
    made = changed(
        make_record(tiny, environment={"device": "here"}), cost={"train_s": 50.0, "eval_ms_per_image": 200.0}
    )
    costs = Costs([], "here")

    def evaluated(protocol):
        return costs.of(replace(planned(protocol), weights_of="another"))

    assert evaluated(mirrored) is None
    costs.add(made)
    # Five images at 200 ms; mirrored they are twice the pixels, and a fourth more at half the edge.
    assert evaluated(tiny) == Cost(1.0, None, "per image as in 1 run of center")
    assert evaluated(mirrored) == Cost(2.0, None, "per tested pixel as in 1 run of center")
    assert evaluated(scaled) == Cost(2.5, None, "per tested pixel as in 1 run of center")
    told = make_record(mirrored, environment={"device": "here"})
    costs.add(changed(told, cost={"train_s": 50.0, "eval_ms_per_image": 300.0}))
    assert evaluated(mirrored) == Cost(1.5, None, "per image as in 1 run of center")
    assert costs.of(planned(mirrored)).seconds == 51.5  # one that trains


def test_training_is_shared_in_the_order_of_the_plan():
    tiny, flipped = load_protocol("tiny"), load_protocol("tiny", ("evaluation.test_flip=true",))
    often = load_protocol("tiny", ("evaluation.every=20",))
    first, second = planned(tiny), planned(flipped)

    def givers(*runs, rerun="never"):
        return [run.weights_of for run in share_training(runs, rerun)]

    assert givers(first, second) == [None, first.run_id]
    assert givers(second, first) == [None, second.run_id]
    assert givers(first, first, planned(often), planned(flipped, "atss")) == [None] * 4
    other_seed = replace(second, spec=replace(second.spec, seed=1))
    assert givers(first, other_seed) == [None, None]
    # What has a checkpoint goes on from there; what is not to be run leaves no weights.
    assert givers(first, replace(second, state="interrupted")) == [None, None]
    assert givers(replace(first, state="interrupted"), second) == [None, first.run_id]
    for state in ("done", "failed"):
        assert givers(replace(first, state=state), second) == [None, None]
    assert givers(replace(first, state="failed"), second, rerun="failed") == [None, first.run_id]
    assert givers(first, replace(second, weights_of="of the store")) == [None, "of the store"]


def test_the_spread_is_pooled_over_pairs_that_share_two_seeds():
    tiny, other = load_protocol("tiny"), load_protocol("tiny", ("schedule.lr=9.0",))
    asked = {question_of(RunSpec(tiny, DATA, "", {}, 0)).key}

    def entry(assigner, *aps, protocol=tiny, **changes):
        return [make_record(protocol, assigner=assigner, seed=seed, ap=ap, **changes) for seed, ap in enumerate(aps)]

    center, atss = entry("center", 30.0, 31.0, 32.0), entry("atss", 31.0, 31.0, 34.0)
    assert paired_spread([], asked) is None
    assert paired_spread([*center, *entry("atss", 3.0)], asked) is None
    assert paired_spread([*center, *entry("atss", 1.0, 9.0, protocol=other)], asked) is None
    assert paired_spread([*center, *atss], asked) == Spread(1.0, 1, 2)  # gaps of 1, 0 and 2
    old = entry("atss", 99.0, created="2025-01-01T00:00:00Z")  # an earlier attempt does not count
    assert paired_spread([*old, *center, *atss, *entry("paa", 5.0, None)], asked) == Spread(1.0, 1, 2)
    # Against `paa` the gaps are 20, 20, 20 and 21, 20, 22.
    three = paired_spread([*center, *atss, *entry("paa", 10.0, 11.0, 12.0)], asked)
    assert (three.pairs, three.df) == (3, 6)
    assert three.sd == pytest.approx((4 / 6) ** 0.5)


def searched(aps, tune=None, assigner="center", **changes):
    """Records of a search: AP by point and seed, in the order of the factors."""
    found = tunings("tiny", (), tune or {"schedule.lr": (0.5, 1, 2)})
    return [
        make_record(tuning.protocol, assigner=assigner, seed=seed, ap=ap, **changes)
        for tuning, row in zip(found, aps, strict=True)
        for seed, ap in enumerate(row)
    ]


def test_sensitivity_tells_best_spread_and_edge():
    records = [
        *searched([(30.0, 32.0), (34.0, 36.0), (31.0, 31.0)]),
        *searched([(40.0,), (41.0,), (45.0, None)], assigner="atss"),
        *searched([(50.0,), (), ()], assigner="paa"),  # one point is no search
    ]
    (search,) = sensitivity(records)
    assert (search.keys, search.protocol, search.data) == (("schedule.lr",), "tiny", "memory")
    assert search.points == ((0.0015,), (0.003,), (0.006,))
    assert [curve.name for curve in search.curves] == ["atss", "center"]
    atss, center = search.curves
    assert [center.mean(point) for point in search.points] == [31.0, 35.0, 31.0]
    assert (center.best, center.spread, search.at_edge(center)) == ((0.003,), 4.0, ())
    assert (atss.best, atss.spread, search.at_edge(atss)) == ((0.006,), 5.0, ("schedule.lr",))
    assert sensitivity(records, ["schedule.lr"]) == [search]
    assert sensitivity(records, ["loss.box_weight"]) == []
    assert sensitivity([]) == []


def test_two_numbers_are_searched_together_where_asked():
    tune = {"schedule.lr": (1, 2), "loss.box_weight": (1, 2, 3)}
    records = searched([(1.0,), (2.0,), (3.0,), (4.0,), (9.0,), (6.0,)], tune)
    (search,) = sensitivity(records, [*tune])
    (curve,) = search.curves
    assert curve.best == (0.006, 2.0)
    assert curve.spread == 8.0
    assert search.at_edge(curve) == ("schedule.lr",)
    # One at a time, with the other held: a search for each value of the other.
    assert [(s.keys, len(s.points)) for s in sensitivity(records)] == [(("loss.box_weight",), 3)] * 2 + [
        (("schedule.lr",), 2)
    ] * 3


def test_other_data_steps_and_protocols_are_no_search():
    records = searched([(30.0,), (), ()])
    elsewhere = data_part(val={"checksum": "33"})
    records += searched([(), (31.0,), ()], data=elsewhere)
    assert sensitivity(records) == []
    longer = searched([(30.0,), (31.0,)], {"schedule.steps": (1, 2)})
    assert sensitivity(longer) == []  # more training is no tuning, unless asked for
    assert len(sensitivity(longer, ["schedule.steps"])) == 1
