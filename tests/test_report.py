"""The run folder: records that survive a kill, a page that stands alone."""

import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from jaxsrc.errors import UserError
from jaxsrc.report import Report, records


class Tags(HTMLParser):
    """Every tag with its attributes; raises nothing, so the balance is checked here."""

    VOID = ("meta", "img", "br", "hr", "link", "line", "circle", "polyline", "rect")

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.sources += [v for k, v in attributes if k in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def filled(folder) -> Report:
    report = Report(folder, quiet=True)
    report.start(["run: x", "device: <cpu>"], {"jax": "1"})
    report.stage("one", 0)
    for step in (1, 2, 3):
        report.step(step, 3, {"loss": 1.0 / step}, 0.1 * step, 10.0, 0.0)
    report.table("scores & more", ["method", "score"], [["copy <input>", 0.25], ["ours", 12]])
    Image.new("RGB", (8, 6), "red").save(folder / "shot.png")
    report.picture("a picture", folder / "shot.png", 3)
    return report


def test_the_page_stands_alone_and_escapes_what_it_shows(tmp_path):
    page = filled(tmp_path).close("finished").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert all(s.startswith("data:") for s in tags.sources) and tags.sources
    assert "<script" not in page and "http://" not in re.sub(r'xmlns="[^"]*"', "", page)
    for shown in ("scores &amp; more", "copy &lt;input&gt;", "0.25", "device: &lt;cpu&gt;", "a picture"):
        assert shown in page


def test_the_folder_explains_itself(tmp_path):
    filled(tmp_path).close("finished")
    guide = (tmp_path / "README.txt").read_text()
    for name in ("metrics.jsonl", "report.html", "report.json", "tensorboard", "pictures"):
        assert name in guide and (tmp_path / name).exists()
    assert str(tmp_path) in guide


def test_a_line_cut_short_by_a_kill_is_passed_over_and_rewinding_drops_what_comes_again(tmp_path):
    report = filled(tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    assert [r["step"] for r in records(tmp_path)] == [1, 2, 3]
    report.rewind(2)
    assert [r["step"] for r in records(tmp_path)] == [1, 2]
    assert (tmp_path / "metrics.jsonl").read_text().endswith("}\n")


def test_a_second_report_in_the_folder_keeps_tables_and_pictures(tmp_path):
    filled(tmp_path).close("finished")
    again = Report(tmp_path, quiet=True)
    again.table("another", ["a"], [[1]])
    page = again.close("evaluated").read_text()
    assert "scores &amp; more" in page and "another" in page and "a picture" in page
    assert json.loads((tmp_path / "report.json").read_text())["status"] == "evaluated"
    assert Report(tmp_path, quiet=True).trained


@pytest.mark.parametrize("content", ["[]", '{"notes": 3, "tables": []}', "{", '{"status": 1, "environment": null}'])
def test_a_damaged_report_is_begun_anew(tmp_path, content):
    (tmp_path / "report.json").write_text(content)
    (tmp_path / "metrics.jsonl").write_text('3\n{"a": 1}\n{"step": 1, "t": 0.1, "loss": 2.0}\n')
    report = filled(tmp_path)
    assert not report.trained and [r["step"] for r in records(tmp_path)] == [1, 1, 2, 3]
    assert "scores &amp; more" in report.close("finished").read_text()


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "pictures").write_text("mine")
    with pytest.raises(UserError, match=r"expected a folder, got a file at .*pictures; move it"):
        Report(tmp_path, quiet=True)


def test_plain_lines_where_there_is_no_terminal(tmp_path, capsys):
    report = Report(tmp_path)
    report.start(["run: x"], {})
    report.progress(100, 0)
    report.step(100, 100, {"loss": 0.5}, 9.0, 12.0, 75.0)
    said = capsys.readouterr().out
    assert "step 100/100: loss 0.5; 12.00 steps/s, 1 min 15 s left" in said
