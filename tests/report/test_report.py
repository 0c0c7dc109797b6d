"""The page: complete, offline, escaped, the same for the same results."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner
from PIL import Image

from harness.cli import main
from harness.comparison.board import boards
from harness.protocol.protocol import load_protocol
from harness.records.store import ResultsStore
from harness.report import collect, render
from harness.report.content import repeat_command
from tests.report.stores import APS, HOSTILE, fill, write_insight
from tests.support.fakes import data_part
from tests.support.runs import environment

VOID = {"meta", "img", "br", "wbr", "hr", "link", "input"}


class Page(HTMLParser):
    """Elements of a page, its text, and whether every tag is closed."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.words, self._open = [], [], []
        self.feed(html)
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(store, *, pictures=False):
    return render(collect(store, pictures=pictures))


def test_every_part_that_there_is_data_for(tmp_path):
    store = fill(tmp_path)
    content = collect(store, pictures=False)
    (section,) = content.sections
    assert [name for name, _ in section.parts] == ["board", "gaps", "cost", "sizes", "curves", "errors", "runs"]
    page = Page(render(content))
    assert "paa leads; atss is not told apart from it." in page.text
    anchors = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    links = {attributes["href"] for attributes in page.all("a")}
    assert all(link.startswith("#") and link[1:] in anchors for link in links)


def test_a_board_without_details_lacks_what_comes_from_them(tmp_path):
    (section,) = collect(fill(tmp_path, details=False), pictures=False).sections
    assert not {"curves", "errors", "agreement", "samples"} & {name for name, _ in section.parts}


def test_the_same_results_give_the_same_bytes(tmp_path):
    assert page_of(fill(tmp_path)) == page_of(ResultsStore(tmp_path))


def test_the_page_is_alone(tmp_path):
    html = page_of(fill(tmp_path))
    page = Page(html)
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    assert not page.all("link")
    assert "@import" not in html
    loaded = [value for _, a in page.elements for name, value in a.items() if name in ("src", "href", "action", "data")]
    assert all(value.startswith(("#", "data:image/png")) for value in loaded)
    assert not re.findall(r"url\(|fetch\(|XMLHttpRequest|import\b", html)


def test_every_number_of_the_board_and_a_reason_for_every_dash(tmp_path):
    store = fill(tmp_path, {**APS, "iqdet": (None,)})
    (section,) = collect(store, pictures=False).sections
    (first, *_, last) = section.board.rows
    words = dict(zip([column.words for column in section.board.columns], first.cells, strict=True))
    assert (first.name, last.name) == ("paa", "iqdet")
    assert words["AP, 95 % interval"].words == "50.1"
    assert words["seeds"].words == "3"
    assert words["step ms"].words == "100"
    assert words["rank"].words == "1\u20132"
    assert all(cell.title for cell in last.cells if cell.words == "\u2013")
    assert sum(cell.words == "\u2013" for cell in last.cells) >= 8


def test_gaps_mark_what_is_told_apart_by_more_than_colour(tmp_path):
    (section,) = collect(fill(tmp_path), pictures=False).sections
    (paa, atss) = section.gaps.rows
    assert [cell.words for cell in paa.cells] == ["+0.5", "+10.1 *"]
    assert [cell.words for cell in atss.cells] == ["", "+9.5 *"]
    assert "p = " in paa.cells[0].title


def test_declared_extras_stand_on_a_board_of_their_own(tmp_path):
    store = fill(tmp_path)
    fill(tmp_path, {"paa": (55.0, 56.0)}, options={"radius": 9.0}, declares={"score_voting": True})
    fair, extended = collect(store, pictures=False).sections
    assert (fair.kind, extended.kind) == ("fair", "extended")
    assert [row.name for row in extended.board.rows] == ["paa[radius=9.0]"]
    assert "declared extras" in [column.words for column in extended.board.columns]
    assert extended.board.rows[0].cells[1].words == "score voting: yes"
    assert "declared extras" not in [column.words for column in fair.board.columns]


def test_what_is_hostile_stays_text(tmp_path):
    data = data_part(title=HOSTILE, classes=[HOSTILE, "b"])
    store = fill(tmp_path, options={"note": HOSTILE}, data=data, command=f"harness run {HOSTILE}")
    html = page_of(store)
    page = Page(html)
    assert HOSTILE in page.text.replace(" ] ", "]")
    assert not page.all("img")
    assert len(page.all("script")) == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert html.count("<script") == html.count("</script") == 1


def test_agreement_is_shown_and_a_broken_file_is_told(tmp_path):
    store = fill(tmp_path)
    (board,) = boards(store.load_all()[0], {})
    name = f"{board.question.protocol_hash}-{board.question.data_hash}.json"
    write_insight(store, name, ["paa", "atss", HOSTILE])
    (section,) = collect(store, pictures=False).sections
    assert [cell.words for cell in section.agreement.matrix.rows[0].cells] == ["", "0.25", "0.25"]
    assert section.agreement.matrix.rows[0].cells[1].share == 0.25
    assert "12 boxes in 2 images" in section.agreement.note
    assert "<img" not in page_of(store)

    (tmp_path / "insight" / name).write_text('{"assigners": []}')
    content = collect(store, pictures=False)
    assert content.sections[0].agreement is None
    assert len(content.problems) == 1
    assert name in content.problems[0]


def test_a_search_over_the_protocol_is_shown(tmp_path):
    store = fill(tmp_path, {"paa": (40.0,), "atss": (41.0,)})
    fill(tmp_path, {"paa": (44.0,), "atss": (40.0,)}, protocol=load_protocol("tiny", ("schedule.lr=0.01",)))
    (table,) = collect(store, pictures=False).sensitivity
    assert [row.name for row in table.rows] == ["paa", "atss"]
    assert [cell.words for cell in table.rows[0].cells] in (["40.0", "44.0"], ["44.0", "40.0"])
    assert "paa 4.0" in table.note
    assert 'id="sensitivity"' in page_of(store)


def test_a_file_that_is_no_record_is_named_on_the_page(tmp_path):
    store = fill(tmp_path)
    (tmp_path / "runs" / "broken.json").write_text("{")
    assert "broken.json" in Page(page_of(store)).text


def test_the_command_for_a_whole_board(tmp_path):
    protocol = load_protocol("tiny")
    shapes = data_part(kind="shapes", title="shapes")
    whole = fill(tmp_path / "a", data=shapes)
    (board,) = boards(whole.load_all()[0], {})
    assert repeat_command(board) == f"harness sweep -a paa,atss,center --seeds 3 -p {protocol.name}"
    uneven = fill(tmp_path / "b", {"paa": (1.0, 2.0), "atss": (1.0,)}, data=shapes)
    (board,) = boards(uneven.load_all()[0], {})
    assert repeat_command(board) == ""
    elsewhere = fill(tmp_path / "c")  # whose data have a folder that nobody knows
    (board,) = boards(elsewhere.load_all()[0], {})
    assert repeat_command(board) == ""


def keep_pictures(store, run_id, names=("shapes/000001", "shapes/000007")):
    """As a run leaves them."""
    folder = store.folder(run_id).path / "samples"
    folder.mkdir(parents=True)
    listed = []
    for number, name in enumerate(names):
        Image.new("P", (40, 30), number).save(folder / f"{number}.png")
        listed.append({"image": name, "file": f"{number}.png", "width": 40, "height": 30})
    (folder / "samples.json").write_text(json.dumps(listed))
    return folder


def test_pictures_that_runs_left_behind(tmp_path):
    store = fill(tmp_path, {"center": (30.0, 31.0), "atss": (20.0,), "paa": (10.0,)})
    ids = {record.assigner: record.run_id for record in store.load_all()[0] if record.seed == 0}
    keep_pictures(store, ids["center"])
    broken = keep_pictures(store, ids["paa"])
    (broken / "samples.json").write_text("[{")
    (section,) = collect(store, pictures=True).sections
    first, second = section.samples.rows
    assert [sample.name for sample in first] == ["center"] == [sample.name for sample in second]
    assert first[0].detector == "seed 0"
    atss, paa = section.samples.lacking
    assert f"harness eval {ids['atss']} --details" in atss
    assert "lists no pictures" in paa
    page = Page(render(collect(store, pictures=True)))
    assert len(page.all("img")) == 2
    assert all(attributes["src"].startswith("data:image/png;base64,") for attributes in page.all("img"))
    assert all(attributes["alt"] for attributes in page.all("img"))


def test_a_run_leaves_its_pictures(undisturbed):
    outcome = undisturbed("iqdet")
    folder = outcome.work_dir / "samples"
    listed = json.loads((folder / "samples.json").read_text())
    assert len(listed) == 2
    for row in listed:
        with Image.open(folder / row["file"]) as image:
            assert image.size == (row["width"], row["height"])
    (section,) = collect(ResultsStore(outcome.work_dir.parents[1]), pictures=True).sections
    assert [len(row) for row in section.samples.rows] == [1, 1]


def test_the_report_reads_and_computes_nothing(tmp_path):
    """Neither torch nor a detector, not even where pictures are shown."""
    store = fill(tmp_path, {"center": (30.0, 31.0), "atss": (20.0, 21.0)})
    keep_pictures(store, store.load_all()[0][0].run_id)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from harness.records.store import ResultsStore\n"
        "from harness.report import collect, render\n"
        f"render(collect(ResultsStore(Path({str(tmp_path)!r})), pictures=True))\n"
        "heavy = {'torch', 'timm', 'torchvision', 'detector'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- the verb -------------------------------------------------------------------------------------------------------


def ask(*words):
    return CliRunner().invoke(main, ["report", *(str(word) for word in words)])


def test_the_verb_writes_beside_the_records_and_tells_in_json(tmp_path):
    fill(tmp_path)
    done = ask("--results", tmp_path, "--no-pictures", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["output"] == str(tmp_path / "report.html")
    assert told["bytes"] == (tmp_path / "report.html").stat().st_size
    assert told["boards"][0]["headline"].startswith("paa leads")
    assert told["left_out"] == []
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_the_verb_writes_where_it_is_told_to(tmp_path):
    fill(tmp_path)
    done = ask("--results", tmp_path, "--no-pictures", "--output", tmp_path / "elsewhere" / "page.html")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "elsewhere" / "page.html").read_text("utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(("words", "said"), [([], "no runs under"), (["--output", "page.pdf"], "must end in .html")])
def test_the_verbs_mistakes_take_one_line(tmp_path, words, said):
    done = ask("--results", tmp_path, *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_help_has_examples():
    done = ask("--help")
    assert done.exit_code == 0
    assert "harness report --open" in done.output
