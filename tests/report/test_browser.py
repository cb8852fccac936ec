"""The report in a real browser, by mouse, by keyboard, on a phone's window, in the dark: it
answers, asks nobody for anything, keeps its own policy, and a screen reader can read it.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from archsearch import Study
from archsearch.report.page import write

from .conftest import small_study, tell_after

pytest.importorskip("altair")
pytest.importorskip("vl_convert")
pytest.importorskip("playwright")
pytest.importorskip("axe_playwright_python")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

pytestmark = pytest.mark.slow

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's chromium; `make test-all` sees to it that there is one."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    assert found, "chromium is not installed: make chromium"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def report(told_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "a report & more.html"
    return write(Study.open(told_run), path)


@pytest.fixture(scope="module")
def report_of_after(told_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run whose front was scored in few steps, distilled and adapted."""
    folder = tmp_path_factory.mktemp("after")
    study = Study.open(Path(shutil.copytree(told_run, folder / "run")))
    tell_after(study)
    return write(study, folder / "report.html")


class Opened:
    """A page, and everything about it that must not happen."""

    def __init__(self, browser: Browser, path: Path, size: dict[str, int], scheme: str) -> None:
        self.wrong: list[str] = []
        context = browser.new_context(
            viewport=size,  # type: ignore[arg-type]
            color_scheme=scheme,  # type: ignore[arg-type]
            permissions=["clipboard-read", "clipboard-write"],
        )
        self.page: Page = context.new_page()
        self.page.add_init_script(
            "document.addEventListener('securitypolicyviolation', (event) => "
            "console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`))"
        )
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self._requested(request.url, path))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("#trials-table tbody tr")

    def _requested(self, url: str, path: Path) -> None:
        if url != path.as_uri() and not url.startswith("data:"):
            self.wrong.append(f"request: {url}")

    def close(self) -> None:
        self.page.context.close()
        assert self.wrong == []


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    opened = Opened(browser, report, WIDE, "light")
    yield opened.page
    opened.close()


def pinned(page: Page) -> list[str]:
    """Names of the networks that stand beside each other, without their letters."""
    heads = page.locator("#compare-body thead th").all_inner_texts()
    return [re.sub(r"^[A-D]\s*|\s*Unpin\s*$", "", head) for head in heads]


def unpin_all(page: Page) -> None:
    page.get_by_role("button", name="Unpin all").click()
    expect(page.locator("#compare-body")).to_have_text("No network is pinned.")


def network(page: Page, table: str, name: str) -> Locator:
    return page.locator(f"#{table}").get_by_role("button", name=name, exact=True)


def test_the_first_look_compares_the_choice_with_the_preset(page: Page) -> None:
    assert pinned(page)[0] == "mobilediffusion-lite"
    choice = page.locator("#choose-words").inner_text()
    assert f"is {pinned(page)[1]}:" in choice
    expect(page.locator("#looking h2")).to_have_text(pinned(page)[1])


def test_a_click_in_the_plot_pins_the_network_nearest(page: Page) -> None:
    unpin_all(page)
    page.locator("#front-chart").scroll_into_view_if_needed()
    box = page.locator("#front-chart canvas").bounding_box()
    assert box
    hit: list[str] = []
    for down in range(20, int(box["height"]), 40):  # the nearest may be 30 pixels off
        for across in range(60, int(box["width"]), 40):
            page.mouse.click(box["x"] + across, box["y"] + down)
            beside = [name for name in pinned(page) if name not in hit]
            if beside:
                expect(page.locator("#looking h2")).to_have_text(beside[0])
                hit += beside
                break  # a click beside it would unpin it again
        if len(hit) == 2:
            break
    assert pinned(page) == hit
    assert len(hit) == 2


def test_two_networks_are_pinned_by_keyboard_and_compared(page: Page) -> None:
    unpin_all(page)
    first = page.locator("#trials-table button.network").first
    first.focus()
    expect(page.locator("#looking h2")).to_have_text(first.inner_text())
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    names = page.locator("#trials-table button.network").all_inner_texts()
    assert pinned(page) == [names[0], names[2]]
    expect(page.locator("#said")).to_have_text(f"{names[2]} is pinned as B.")
    page.get_by_label("MACs", exact=True).check()
    body = page.locator("#compare-body").inner_text()
    assert "MACs by stage" in body
    assert "feed-forward" in body
    page.get_by_role("button", name=f"Unpin {names[0]}").click()
    assert pinned(page) == [names[2]]


def test_a_fifth_network_is_refused_in_words(page: Page) -> None:
    unpin_all(page)
    for button in page.locator("#trials-table button.network").all()[:5]:
        button.click()
    assert len(pinned(page)) == 4
    expect(page.locator("#said")).to_have_text("Four networks are pinned already. Unpin one first.")


def test_a_limit_narrows_the_front_and_changes_the_command(page: Page) -> None:
    rows = page.locator("#front-table tbody tr")
    before = rows.count()
    assert before > 2
    slider = page.locator("#limit-latency_ms")
    slider.focus()
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("#front-table caption")).to_contain_text("within your limits")
    assert rows.count() < before
    assert "≤" in str(slider.get_attribute("aria-valuetext"))
    command = page.locator("#choose-command").inner_text()
    number = re.search(r"--trial (\d+) --format yaml", command)
    assert number
    expect(page.locator("#choose-words")).to_contain_text(f"is #{number[1]}:")
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#said")).to_have_text("The command is copied.")
    assert page.evaluate("navigator.clipboard.readText()") == command
    page.get_by_role("button", name="Set back").click()
    expect(rows).to_have_count(before)


def test_weights_move_the_choice_to_the_ends_of_the_front(page: Page) -> None:
    first, last = (
        page.locator("#front-table button.network").nth(place).inner_text() for place in (0, -1)
    )
    for zero, chosen in (("val_loss", first), ("latency_ms", last)):
        page.get_by_role("button", name="Set back").click()
        slider = page.locator(f"#weight-{zero}")
        slider.focus()
        page.keyboard.press("Home")
        expect(page.locator("#choose-words")).to_contain_text(f"is {chosen}:")


def test_the_table_is_sorted_and_filtered(page: Page) -> None:
    table = page.locator("#trials-table")
    head = table.get_by_role("button", name="latency_ms", exact=True)
    for order in ("ascending", "descending"):
        head.click()
        expect(table.get_by_role("columnheader", name="latency_ms", exact=True)).to_have_attribute(
            "aria-sort", order
        )
    column = [text.strip() for text in table.locator("thead th").all_inner_texts()]
    at = next(place for place, text in enumerate(column) if text.startswith("latency_ms"))
    cells = table.locator(f"tbody tr > :nth-child({at + 1})").all_inner_texts()
    values = [float(re.sub(r"[^\d.]", "", cell)) for cell in cells if cell != "–"]
    assert values == sorted(values, reverse=True)
    assert len(values) > 10
    page.get_by_label("Show").select_option("diverged")
    expect(page.locator("#trials-count")).to_have_text("1 to 1 of 1 trials")
    expect(table).to_contain_text("<script>alert(1)</script> & <b>bold</b>")
    page.get_by_label("Show").select_option("")
    page.get_by_label("Filter").fill("inner_conv=separable #1")
    expect(page.locator("#trials-count")).not_to_contain_text("of 17 trials")
    page.get_by_label("Filter").fill("nothing like it")
    expect(page.locator("#trials-count")).to_have_text("No trial is like that.")


def test_the_plot_takes_other_axes(page: Page) -> None:
    page.locator("#front-x").select_option("params")
    page.locator("#front-y").select_option("macs")
    expect(page.locator("#front-chart[aria-label*='params across, macs up']")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_screen_reader_can_read_it_at_every_size(
    browser: Browser, report: Path, size: dict[str, int], scheme: str
) -> None:
    opened = Opened(browser, report, size, scheme)
    page = opened.page
    for chart in page.locator(".chart").all():
        chart.scroll_into_view_if_needed()
        expect(chart.locator("canvas")).to_be_visible()
    page.locator("#trials-table button.network").nth(2).focus()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    opened.close()


def test_a_run_without_scores_is_a_page_too(browser: Browser, tmp_path: Path) -> None:
    study = small_study(tmp_path)
    study.ask()
    opened = Opened(browser, write(Study.open(study.folder)), WIDE, "light")
    expect(opened.page.locator("#front")).to_contain_text("No trial has scores yet.")
    expect(opened.page.locator("#trials-count")).to_have_text("1 to 2 of 2 trials")
    opened.close()


def test_runs_stand_in_one_plot(browser: Browser, told_run: Path, tmp_path: Path) -> None:
    other = Study.open(shutil.copytree(told_run, tmp_path / "other"))
    path = write(Study.open(told_run), tmp_path / "both.html", [other])
    opened = Opened(browser, path, WIDE, "dark")
    opened.page.locator("#runs-chart").scroll_into_view_if_needed()
    expect(opened.page.locator("#runs-chart canvas")).to_be_visible()
    opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_quality_by_number_of_steps_is_drawn(
    browser: Browser, report_of_after: Path, scheme: str
) -> None:
    opened = Opened(browser, report_of_after, WIDE, scheme)
    page = opened.page
    page.locator("#after-chart").scroll_into_view_if_needed()
    expect(page.locator("#after-chart canvas")).to_be_visible()
    expect(page.locator("#after-score option")).to_have_text([re.compile("^kid_effnet: ")])
    assert Axe().run(page, "#after").violations_count == 0
    opened.close()
