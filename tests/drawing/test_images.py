"""The renderer: what lies where in a picture, and that a picture is there whole or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from harness.core.errors import UserError
from harness.drawing.images import (
    BLACK,
    BOX_COLOURS,
    LEVEL_COLOURS,
    VERMILION,
    LegendEntry,
    Panel,
    enlargement,
    heat_colour,
    level_colour,
    save_png,
    sheet,
)


def ground(height=40, width=50, value=90):
    return np.full((height, width, 3), value, np.uint8)


def pixel(panel, x, y):
    """The colour of a finished picture at a place of the image."""
    return panel.finished().getpixel((round(x * panel.factor), round(y * panel.factor)))


def near(colour, other, within=40):
    return max(abs(a - b) for a, b in zip(colour, other, strict=True)) <= within


@pytest.mark.parametrize(("size", "factor"), [((128, 128), 7), ((64, 500), 2), ((480, 640), 1), ((5000, 3000), 1)])
def test_small_images_are_enlarged_by_whole_factors_and_none_is_made_smaller(size, factor):
    assert enlargement(*size) == factor


def test_an_undrawn_panel_is_the_enlarged_image_itself():
    image = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    panel = Panel(image, side=100)
    assert panel.factor == 5
    np.testing.assert_array_equal(np.asarray(panel.finished()), image.repeat(5, axis=0).repeat(5, axis=1))


def test_a_window_shows_its_part_in_the_coordinates_of_the_whole():
    image = ground()
    image[20:30, 10:20] = (255, 0, 0)
    panel = Panel(image, side=100, window=(10, 20, 20, 30))
    panel.box((12, 22, 18, 28), "", VERMILION)
    picture = np.asarray(panel.finished())
    assert picture.shape == (100, 100, 3)
    assert near(picture[20, 50], VERMILION)
    assert tuple(picture[50, 50]) == (255, 0, 0)


def test_a_box_has_its_colour_on_its_sides_and_leaves_its_inside():
    panel = Panel(ground())
    panel.box((10, 10, 40, 30), "", VERMILION, width=4)
    for x, y in ((10, 20), (40, 20), (25, 10), (25, 30)):
        assert near(pixel(panel, x, y), VERMILION)
    assert pixel(panel, 25, 20) == (90, 90, 90)


@pytest.mark.parametrize("level", [0, 2, 4, 7])
def test_a_dot_is_filled_by_its_label_within_a_ring_of_its_level(level):
    for label, colour in ((1.0, level_colour(level)), (0.0, BLACK)):
        panel = Panel(ground())
        panel.dot(25, 20, level, label)
        assert near(pixel(panel, 25, 20), colour, 4)
    half = Panel(ground())
    half.dot(25, 20, level, 0.5)
    expected = [(a + b) / 2 for a, b in zip(BLACK, level_colour(level), strict=True)]
    assert near(pixel(half, 25, 20), expected, 4)


def test_coarser_levels_have_larger_dots():
    def area(level):
        panel = Panel(ground())
        panel.dot(25, 20, level, 1.0)
        return (np.asarray(panel.finished()) != 90).any(axis=-1).sum()

    assert area(0) < area(2) < area(4)


def test_labels_outside_0_to_1_are_shown_as_the_nearest():
    panel = Panel(ground())
    panel.dot(25, 20, 0, 1.7)
    assert near(pixel(panel, 25, 20), level_colour(0), 4)


def test_colours_are_told_apart():
    for colours in (BOX_COLOURS, LEVEL_COLOURS):
        assert len(set(colours)) == len(colours)
        for index, colour in enumerate(colours):
            assert all(not near(colour, other, 30) for other in colours[index + 1 :])


def test_heat_runs_from_dark_to_bright_and_lies_on_its_own_window():
    luma = [np.dot(heat_colour(share), (0.299, 0.587, 0.114)) for share in np.linspace(0, 1, 9)]
    assert luma == sorted(luma)
    values = np.zeros((40, 50))
    values[10:20, 10:20] = 1.0
    panel = Panel(ground(), window=(5, 5, 45, 35))
    panel.heat(values)
    picture = panel.finished()
    inside = picture.getpixel((10 * panel.factor, 10 * panel.factor))
    outside = picture.getpixel((35 * panel.factor, 25 * panel.factor))
    assert inside[1] > outside[1] + 80


def test_plates_stand_beside_one_another():
    def plates(corners):
        panel = Panel(ground())
        for box in corners:
            panel.box(box, "ring 0.90", VERMILION)
        return (np.asarray(panel.finished()) == VERMILION).all(axis=-1).sum()

    same = [(10, 10, 40, 30)]
    assert plates(same * 2) > plates(same) + 500  # the second plate is not under the first


def test_words_on_a_box_at_the_border_stay_in_the_picture():
    panel = Panel(ground())
    panel.box((0, 0, 50, 40), "", VERMILION)
    bare = np.asarray(panel.finished())
    named = Panel(ground())
    named.box((0, 0, 50, 40), "a name", VERMILION)
    assert (np.asarray(named.finished()) != bare).any()


def test_a_region_is_hatched_and_ellipses_are_outlines():
    panel = Panel(ground())
    panel.hatch((5, 5, 25, 25))
    inside = np.asarray(panel.finished())[6 * panel.factor : 24 * panel.factor, 6 * panel.factor : 24 * panel.factor]
    share = (inside != 90).any(axis=-1).mean()
    assert 0.05 < share < 0.6
    rings = Panel(ground())
    rings.component((25, 20), (5, 4), 0, 1.0)
    assert pixel(rings, 25, 20) == (90, 90, 90)
    for x in (30, 35):  # one and two standard deviations
        assert pixel(rings, x, 20) != (90, 90, 90)


def test_a_sheet_holds_panels_title_and_legend():
    panels = [Panel(ground(), title="left", side=200), Panel(ground(), title="right", side=200)]
    legend = [LegendEntry(lambda pen, x, y: pen.dot(x, y, 0, 1.0), f"entry number {number}") for number in range(12)]
    short = sheet([panels], "a title", legend[:1])
    assert short.width >= 2 * 200
    assert short.height > 160
    long = sheet([panels], "a title", legend)
    assert long.width == short.width
    assert long.height > short.height  # the legend goes on in further lines
    assert sheet([panels], "a title that is longer than the picture below it " * 3, []).width > short.width


def test_a_picture_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.png"
    save_png(path, Image.new("RGB", (4, 3), (1, 2, 3)))
    with Image.open(path) as image:
        assert (image.size, image.format) == ((4, 3), "PNG")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="cannot write"):
        save_png(tmp_path / "file" / "a.png", Image.new("RGB", (4, 3)))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.png", "file", "new"]
