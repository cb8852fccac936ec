"""The report's page: its figures are the study's, its bytes are the same each time, it shows words
and runs nothing of them, and it comes whatever is missing.
"""

import base64
import hashlib
import io
import json
import re
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from archsearch import Study
from archsearch.errors import InputError
from archsearch.report import page
from archsearch.report.contents import gather, plain
from archsearch.study.results import sentence

from ..conftest import Cli
from .conftest import EVIL, small_study, tell_after, tell_trials

pytest.importorskip("altair")
pytest.importorskip("vl_convert")


class Page(HTMLParser):
    """The elements of a page, the blocks in it, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: list[tuple[str, dict[str, str | None], str]] = []
        self.words, self.within_block = "", False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.within_block = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.within_block = False

    def handle_data(self, data: str) -> None:
        if self.within_block:
            self.blocks.append((*self.tags[-1], data))
        else:
            self.words += data

    def json(self, name: str) -> Any:
        """The data block of that name."""
        return json.loads(
            "".join(data for _, attrs, data in self.blocks if attrs.get("id") == name)
        )

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", self.words)


@pytest.fixture(scope="module")
def html(told_run: Path) -> str:
    return page.render(Study.open(told_run))


@pytest.fixture(scope="module")
def read(html: str) -> Page:
    return Page(html)


# What it says


def test_the_figures_are_those_of_the_study(told_run: Path, read: Page) -> None:
    study, contents = Study.open(told_run), read.json("contents")
    shown = {trial["number"]: trial for trial in contents["trials"]}
    for trial in study.results.complete():
        assert shown[trial.number]["scores"]["latency_ms"] == plain(trial.scores["latency_ms"])
        assert shown[trial.number]["believed"] == plain(trial.believed)
        assert shown[trial.number]["chance"] == plain(trial.chance)
    front = [member.number for member in study.results.front()]
    assert {n for n, trial in shown.items() if trial.get("front")} == set(front)
    assert [row["difference"] for row in _of(contents["effects"], "val_loss")] == plain(
        study.effects()["val_loss"].tolist()
    )
    assert contents["hypervolume"]["value"] == plain(study.progress()["hypervolume"]["value"])


def _of(effects: list[dict[str, Any]], quality: str) -> list[dict[str, Any]]:
    return [effect["qualities"][quality] for effect in effects]


def test_a_network_costs_what_its_stages_cost(told_run: Path, read: Page) -> None:
    contents = read.json("contents")
    for number, bill in contents["bills"].items():
        scores = contents["trials"][int(number)]["scores"]
        for part in ("stages", "kinds"):
            params, macs, _ = map(sum, zip(*(row["costs"] for row in bill[part]), strict=True))
            assert (params, macs) == (scores["params"], scores["macs"])


def test_the_answers_are_those_of_the_run(told_run: Path, read: Page) -> None:
    (answer,) = Study.open(told_run).results.answers()
    words = sentence(answer).replace("? Yes: ", "? ").replace("? Not clearly: ", "? ")
    assert all(part.strip() in read.text for part in words.partition("? ")[::2])
    assert "The search is not at its end: 17 of 100 trials finished" in read.text


def test_pictures_are_shown_in_their_own_size_with_their_captions(
    told_run: Path, read: Page
) -> None:
    pictures = read.json("contents")["pictures"]
    shown = Study.open(told_run).results.shown()
    assert set(pictures) == {str(member.number) for member in shown}
    picture = pictures[str(shown[0].number)]
    with Image.open(io.BytesIO(base64.b64decode(picture["png"]))) as image:
        assert image.size == (256, 64) == (picture["width"], picture["height"])
    assert picture["captions"][0] == "red heart"


def test_what_has_no_scores_is_named_with_its_reason(read: Page) -> None:
    assert "diverged" in read.text
    assert f"the loss is nan {EVIL}" in read.text


def test_nothing_is_said_of_what_was_not_done_after_the_search(read: Page) -> None:
    assert read.json("contents")["after"] is None
    assert "After the search" not in read.text
    assert "after" not in [attrs.get("id") for _, attrs in read.tags]


# What it may do


def test_the_same_run_gives_the_same_bytes(told_run: Path, html: str) -> None:
    assert page.render(Study.open(told_run)) == html


def test_words_are_shown_and_not_run(html: str, read: Page) -> None:
    assert "<b>bold" not in html
    assert "<script>alert" not in html
    assert EVIL in unescape(read.text)
    assert EVIL in read.json("contents")["trials"][16]["reason"]
    assert [attrs for tag, attrs in read.tags if tag == "script" and "src" in attrs] == []


def test_the_policy_allows_the_blocks_of_the_page_and_nothing_else(read: Page) -> None:
    (policy,) = (
        str(attrs["content"])
        for tag, attrs in read.tags
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.partition(" ")[::2] for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "unsafe" not in policy
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        blocks = [data for kind, attrs, data in read.blocks if kind == tag and "type" not in attrs]
        assert blocks
        hashes = [hashlib.sha256(block.encode()).digest() for block in blocks]
        allowed = [f"'sha256-{base64.b64encode(each).decode()}'" for each in hashes]
        assert rules[rule].split() == allowed
    assert not any("style" in attrs or "onclick" in attrs for _, attrs in read.tags)
    sources = [attrs[key] for _, attrs in read.tags for key in ("src", "href") if key in attrs]
    assert all(str(source).startswith(("#", "data:")) for source in sources)


def test_the_page_is_small(html: str) -> None:
    assert len(html.encode()) < 2_500_000


def test_headings_follow_each_other(read: Page) -> None:
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


# What may be missing


def test_a_run_without_scores_has_a_page_that_says_so(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    study.ask()
    text = Page(page.render(Study.open(study.folder))).text
    assert "No trial has scores yet" in text
    assert "0 of 100 trials finished, 1 trial under way" in text


@pytest.mark.slow
def test_one_objective_is_enough(tmp_path: Path) -> None:
    study = small_study(tmp_path, objectives={"val_loss": "minimize"})
    tell_trials(study, 3, lambda latency, number: 0.3 - number / 100)
    contents = gather(Study.open(study.folder))
    assert sum(trial["front"] for trial in contents["trials"]) == 1
    assert "val_loss is the only objective" in " ".join(contents["notes"])


def test_damaged_files_are_named_and_left_out(run_copy: Path) -> None:
    study = Study.open(run_copy)
    first, second, third = (trial.number for trial in study.results.shown()[:3])
    (study.run_dir.trial(first) / "samples.png").write_bytes(b"\x89PNG torn")
    (study.run_dir.trial(second) / "metrics.json").write_text('{"measured": {')
    (study.run_dir.trial(third) / "config.json").write_text("{")
    notes = " ".join(gather(Study.open(run_copy))["notes"])
    assert f"The pictures of trial {first} are not shown" in notes
    assert f"What was measured of trial {second} is not shown" in notes
    assert f"The costs of trial {third} by stage are not shown" in notes


def test_without_pictures_it_says_so(run_copy: Path) -> None:
    for sheet in run_copy.glob("trials/*/samples.png"):
        sheet.unlink()
    assert "There are no sample pictures" in " ".join(gather(Study.open(run_copy))["notes"])


def test_what_is_no_number_is_shown_as_unknown() -> None:
    value = {"a": [float("nan"), float("inf"), 0.12345678, 3.0, True, None], "b": (1,)}
    assert plain(value) == {"a": [None, None, 0.1234568, 3, True, None], "b": [1]}


# Several runs


@pytest.mark.slow
def test_runs_stand_beside_each_other(told_run: Path, run_copy: Path) -> None:
    read = Page(page.render(Study.open(told_run), [Study.open(run_copy)]))
    comparison = read.json("contents")["comparison"]
    first, second = comparison["runs"]
    assert first["hypervolume"] == second["hypervolume"] > 0
    assert {point["run"] for point in comparison["points"]} == set(comparison["names"])
    assert len(set(comparison["names"])) == 2


@pytest.mark.slow
def test_runs_that_do_not_compare_are_refused_in_a_sentence(told_run: Path, tmp_path: Path) -> None:
    other = small_study(tmp_path, proxy_samples=800)
    tell_trials(other, 2, lambda latency, number: 0.3)
    text = Page(page.render(Study.open(told_run), [Study.open(other.folder)])).text
    assert "of these runs cannot be compared" in text


# After the search


@pytest.mark.slow
def test_what_was_done_after_the_search_has_a_part_of_its_own(run_copy: Path) -> None:
    study = Study.open(run_copy)
    tell_after(study)
    read = Page(page.render(Study.open(run_copy)))
    after, found = read.json("contents")["after"], study.after_search()
    assert found is not None
    assert [row["cost"] for row in after["steps"]] == plain([r["cost"] for r in found["steps"]])
    assert after["orders"] == plain(found["orders"])
    assert "the latency is that of the UNet's passes alone" in read.text
    assert "distilled: progressive distillation, from 16 steps, 320 pictures" in read.text
    assert "mobilediffusion8distillation1,2329.010.321unchecked" in read.text
    assert any(attrs.get("href") == "#after" for _, attrs in read.tags)
    assert "steps" in read.json("drawings")["specs"]


# The command and the notebook


def test_the_command_writes_the_page(run_copy: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("report", run_copy)[:2] == (0, f"{run_copy / 'report.html'}\n")
    assert (run_copy / "report.html").read_text().startswith("<!doctype html>")
    code, _, err = cli("report", tmp_path / "nothing")
    assert code == 2
    assert "is not a run" in err


def test_without_the_extra_it_is_named(told_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("altair", "vl_convert"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(InputError, match=r"archsearch\[report\]"):
        page.render(Study.open(told_run))
    with pytest.raises(InputError, match=r"archsearch\[report\]"):
        Study.open(told_run).plot_front()


def test_a_notebook_gets_charts_and_a_table(told_run: Path) -> None:
    study = Study.open(told_run)
    html = study._repr_html_()
    assert "Does the front beat mobilediffusion-lite" in html
    assert html.count("<tr") == 1 + len(study.results.front())
    front = study.plot_front().to_dict()
    drawn = {
        row["name"]
        for layer in front["layer"]
        if layer["mark"].get("style") in ("member", "preset")
        for row in front["datasets"][layer["data"]["name"]]
    }
    assert drawn >= {member.name for member in study.results.front()}
    assert study.plot_effects().to_dict()["layer"]
    assert study.plot_hypervolume().to_dict()["hconcat"]
    assert study.plot_importances().to_dict()["mark"]
    with pytest.raises(InputError, match="no trial has the score 'latency'"):
        study.plot_front("latency")


def test_a_study_that_has_not_begun_writes_nothing_for_a_notebook(tmp_path: Path) -> None:
    study = Study("quickstart", tmp_path / "run")
    assert "not begun yet" in study._repr_html_()
    assert not study.folder.exists()
