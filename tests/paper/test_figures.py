"""The paper's Figures 4 and 5: what is collected, what is drawn, what is refused."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.colors import to_hex
from PIL import Image

from harness.cli import main
from harness.core.errors import UserError
from harness.drawing.charts import encoded
from harness.paper.figures import Components, IouCurve, components, curves, figure_4, most_eccentric
from harness.records.details import Trace
from harness.records.store import ResultsStore
from harness.runs.trained import load_trained
from tests.support.fakes import MemorySet, objects

SVG = "{http://www.w3.org/2000/svg}"


def trace(steps, values):
    return Trace(step=list(steps), statistics={"iou_of_positives": list(values)})


def test_curves_are_means_over_seeds_where_all_have_a_value():
    made = curves(
        {
            "atss": [trace([1, 3, 5], [0.2, 0.4, 0.6]), trace([1, 3, 5], [0.4, None, 0.7])],
            "iqdet": [trace([1, 3], [0.5, 0.9])],
            "silent": [Trace(step=[1])],
        }
    )
    assert [curve.name for curve in made] == ["iqdet", "atss"]  # best end first
    assert made[1] == IouCurve("atss", 2, (1, 5), (pytest.approx(0.3), pytest.approx(0.65)))


def some(count=40, level=2):
    rng = np.random.default_rng(0)
    mu, sigma = rng.normal(0, 0.3, (count, 2)), rng.uniform(0.2, 1.0, (count, 2))
    return Components(mu, sigma, rng.integers(0, level, count), rng.uniform(0, 1, count), 10)


def elements(svg, tag):
    return list(ElementTree.fromstring(svg).iter(f"{SVG}{tag}"))


def test_every_component_is_a_point_at_its_place():
    found = some()
    found.mu[0] = (0.0, -1.0)
    found.sigma[:] = 0.5
    found.mu[1] = (9.0, 0.0)
    figure = figure_4(found, [], "a run")
    means, widths, _ = figure.axes
    dots, spreads = means.collections[0], widths.collections[0]
    assert len(dots.get_offsets()) == len(spreads.get_offsets()) == 40
    (box,) = means.lines
    top, middle = box.get_ydata().min(), (box.get_xdata().min() + box.get_xdata().max()) / 2
    assert dots.get_offsets()[0].tolist() == [middle, top]  # of the box's upper edge,
    assert means.yaxis_inverted()  # which is up as in the image
    assert dots.get_offsets()[1].tolist() == [means.get_xlim()[1], 0.0]  # put on the rim
    assert {to_hex(ink) for ink in dots.get_facecolors()} == {"#0072b2", "#d55e00"}
    assert dots.get_facecolors()[:, 3] == pytest.approx(0.12 + 0.5 * found.share)
    assert [text.get_text() for text in widths.get_legend().get_texts()] == ["P3", "P4"]
    assert "no learning curve at hand" in encoded(figure, "svg").decode()


def test_many_components_are_thinned():
    figure = figure_4(some(9000), [], "a run")
    assert all(4000 <= len(axes.collections[0].get_offsets()) <= 4500 for axes in figure.axes[:2])


def test_lines_are_named_and_escaped():
    lines = [IouCurve("iqdet[<&>]", 3, (0, 10), (0.5, 0.9)), IouCurve("atss", 1, (0, 10), (0.4, 0.4))]
    svg = encoded(figure_4(some(), lines, "<a & b>"), "svg").decode()
    words = [text.text for text in elements(svg, "text")]
    assert {"iqdet[<&>] (3 seeds)", "atss", "Figure 4: <a & b>"} <= {*words}
    assert elements(svg, "title")[0].text == "Figure 4: <a & b>"


# --- from real runs ------------------------------------------------------------------------------------------------


@pytest.fixture
def results(undisturbed):
    return undisturbed("iqdet").work_dir.parents[1]


def test_components_are_of_every_usable_level_of_every_box(undisturbed, results):
    from harness.data import open_data

    outcome = undisturbed("iqdet")
    run_id = outcome.record.run_id
    trained = load_trained(ResultsStore(results), run_id, "cpu", with_assigner=True)
    images = open_data("shapes", trained.protocol.data, role="val")
    found = components(trained, images)
    assert found.boxes == sum(len(images.annotations(index)) for index in range(len(images)))
    assert len(found.level) % 2 == 0  # two components each
    assert len(found.level) >= 2 * found.boxes
    assert found.share.reshape(-1, 2).sum(axis=1) == pytest.approx(1.0)
    assert (found.sigma > 0).all()
    assert (np.abs(found.mu) < 10).all()


def call(*words):
    return CliRunner().invoke(main, ["figure", *map(str, words), "--device", "cpu"])


def test_figure_4_of_a_run(results, tmp_path):
    result = call(4, "--results", results, "--output", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [Path(path).name for path in told["pictures"]] == ["figure-4.svg", "figure-4.png"]
    assert [curve["name"] for curve in told["curves"]] == ["iqdet"]
    assert all(0 <= value <= 1 for value in told["curves"][0]["iou_of_positives"])
    dots = f"{len(told['components'])} components of {told['boxes']} boxes"
    assert dots in (tmp_path / "figure-4.svg").read_text()
    with Image.open(tmp_path / "figure-4.png") as image:
        assert image.width > 2 * image.height
    first = (tmp_path / "figure-4.svg").read_bytes()
    call(4, "--results", results, "--output", tmp_path)
    assert (tmp_path / "figure-4.svg").read_bytes() == first


def test_figure_5_of_a_run(results, tmp_path):
    result = call(5, "--results", results, "--output", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert 0 < len(told["images"]) <= 4
    assert (
        elements((tmp_path / "figure-5.svg").read_text(), "image")[0].get("href").startswith("data:image/png;base64,")
    )
    with Image.open(tmp_path / "figure-5.png") as image:
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 20


def test_figure_5_of_the_most_eccentric_objects(results, tmp_path):
    result = call(5, "--results", results, "--output", tmp_path, "--eccentric", "--json")
    assert result.exit_code == 0, result.output
    plain = call(5, "--results", results, "--output", tmp_path)
    assert plain.exit_code == 0, plain.output
    assert {*json.loads(result.stdout)["images"]} <= {f"shapes/{index:06d}" for index in range(4)}
    assert (tmp_path / "figure-5-eccentric.png").exists()
    with Image.open(tmp_path / "figure-5.png") as image:
        assert image.height > image.width / 3  # below the samples of each image, what was learnt


def test_the_most_eccentric_images_come_first():
    images = MemorySet([
        objects([[0, 0, 9, 9]], eccentricity=[0.1]), objects(),
        objects([[0, 0, 9, 9], [0, 0, 5, 5]], eccentricity=[0, 1]), objects([[0, 0, 9, 9]], eccentricity=[0.5]),
    ])  # fmt: skip
    assert most_eccentric(images, 2) == [2, 3]
    assert most_eccentric(images, 9) == [2, 3, 0]
    with pytest.raises(UserError, match="memory does not say"):
        most_eccentric(MemorySet([objects([[0, 0, 9, 9]])]), 2)


def test_figure_4_needs_a_learned_distribution(undisturbed):
    outcome = undisturbed("center")
    store = outcome.work_dir.parents[1]
    result = call(4, "--results", store)
    assert result.exit_code == 2
    assert "no run of iqdet or qd or uniform" in result.output
    result = call(4, "--results", store, "--run", outcome.record.run_id)
    assert result.exit_code == 2
    assert "is of center, which learns no quality distribution" in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["3"], "no figure '3'"),
        (["4", "--eccentric"], "of figure 5"),
        (["4", "--results", "nowhere"], "train one with: harness run --assigner iqdet"),
        (["5", "--run", "x", "--results", "nowhere"], "no run 'x'"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    result = call(*words)
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.count("\n") == 1
