"""The page in a real browser: it sorts, asks nobody for anything, fits, prints, and runs no script but its own."""

import shutil

import pytest

from harness.data import open_data
from harness.protocol.protocol import load_protocol
from harness.records.identity import data_record
from harness.report import collect, render
from tests.report.stores import HOSTILE, fill

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; the dev extras have it")

NAMES = ("chromium", "google-chrome", "chromium-browser", "google-chrome-stable")
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
BOARD = "#board-1 table.board"  # the sharpest; that of the hostile title has one run
PATIENCE = 240_000  # ms to wait for the browser; a bound, not a measurement


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        found = next(filter(None, map(shutil.which, NAMES)), None)
        try:
            made = driver.chromium.launch(executable_path=found, args=list(QUIET), timeout=PATIENCE)
        except playwright.Error as error:
            pytest.skip(f"no Chromium that starts: {str(error).splitlines()[0]}")
        yield made
        made.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A report with two boards, pictures, and names that want to be scripts."""
    root = tmp_path_factory.mktemp("results")
    protocol = load_protocol("tiny")
    data = data_record("shapes", *(open_data("shapes", protocol.data, role=role) for role in ("train", "val")))
    store = fill(root, {"center": (48.0, 49.0, 47.5), "atss": (50.0, 51.5, 50.2), "uniform_center": (30.0,)}, data=data)
    fill(root, {"iqdet": (44.0, 45.0)}, data=data, options={"note": HOSTILE})
    val = data.val.model_copy(update={"checksum": "ff"})
    hostile = data.model_copy(update={"title": HOSTILE, "classes": [HOSTILE], "val": val})
    fill(root, {"paa": (20.0,)}, data=hostile, options={"a_rather_long_option_of_an_assigner": "with_a_long_value" * 4})
    path = root / "report.html"
    path.write_text(render(collect(store, pictures=True)), "utf-8")
    return path


@pytest.fixture(scope="module")
def opened(browser, file):
    """The page, and what it said and asked for since it was opened."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page.set_default_timeout(PATIENCE)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    yield page, said, asked
    page.close()


def column(page, name):
    return page.locator(f"{BOARD} thead th").filter(has_text=name)


def order(page):
    rows = page.locator(f"{BOARD} tbody tr")
    return [row.get_attribute("data-entry").partition("[")[0] for row in rows.all()]


def test_sorting_by_click(opened):
    page, *_ = opened
    assert order(page) == ["atss", "center", "uniform_center"]
    head = column(page, "AP50")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert order(page) == ["atss", "center", "uniform_center"]
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert order(page) == ["uniform_center", "center", "atss"]
    assert page.locator(f"{BOARD} th[aria-sort]").count() == 1


def test_sorting_by_keyboard(opened):
    page, *_ = opened
    head = column(page, "step")
    column(page, "APl").get_by_role("button").focus()
    page.keyboard.press("Tab")
    assert head.get_by_role("button").evaluate("node => getComputedStyle(node).outlineStyle") != "none"
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert order(page)[0] == "center"  # that came first takes the least
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "descending"
    assert order(page)[0] == "uniform_center"
    column(page, "assigner").get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert order(page) == ["atss", "center", "uniform_center"]


def test_a_dash_is_last_either_way(opened):
    page, *_ = opened
    button = column(page, "APs").get_by_role("button")
    before = order(page)
    for _ in range(2):
        button.click()
        assert order(page) == before  # no run has small objects, so all are equal


def test_the_theme_follows_the_system_and_the_button(opened):
    page, *_ = opened
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    assert dark != light
    page.locator("#theme").click()
    assert page.evaluate(ground) == light
    page.locator("#theme").click()
    page.emulate_media(color_scheme="light")
    assert page.evaluate(ground) == dark
    page.locator("#theme").click()
    assert len(page.screenshot()) > 10_000


@pytest.mark.parametrize("width", [380, 1280])
def test_the_page_never_scrolls_sideways(opened, width):
    page, *_ = opened
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert len(page.screenshot(full_page=True)) > 10_000


def test_it_prints_with_nothing_cut(opened):
    page, *_ = opened
    page.set_viewport_size({"width": 1030, "height": 700})  # A4 across, within its margins
    page.emulate_media(media="print")
    right = page.evaluate(
        "Math.max(...[...document.querySelectorAll('td,th')].map(n => n.getBoundingClientRect().right))"
    )
    assert right <= 1031
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    page.emulate_media(media="screen")


def test_a_row_under_the_pointer_lights_up_in_the_charts(opened):
    page, *_ = opened
    page.set_viewport_size({"width": 1280, "height": 900})
    page.locator(f'{BOARD} tbody tr[data-entry="atss"]').hover()
    assert set(page.locator("svg.chart g.lit").evaluate_all("nodes => nodes.map(n => n.dataset.entry)")) == {"atss"}


def test_names_run_no_script(opened):
    page, *_ = opened
    assert page.evaluate("window.hacked") is None
    assert sum("<script>" in text for text in page.locator("h2").all_inner_texts()) == 1
    assert page.locator("img[onerror]").count() == 0


def test_it_reads_without_javascript(browser, file):
    page = browser.new_page(java_script_enabled=False)
    page.set_default_timeout(PATIENCE)
    page.goto(file.as_uri())
    assert page.locator(f"{BOARD} tbody tr").count() == 3
    assert page.locator("button:visible").count() == 0  # none that would do nothing
    page.close()


def test_no_complaint_and_no_request_but_the_file(opened, file):
    """Last: of everything that the tests above did."""
    _, said, asked = opened
    assert said == []
    assert [url for url in asked if not url.startswith("data:image/png;base64,")] == [file.as_uri()]
