"""The live page as a browser shows it."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from archsearch import Study
from tests.study.conftest import own_cache, put

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

__all__ = ["own_cache"]  # a fixture

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        # As root, as in a container, chromium has no sandbox of its own.
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def address(run_copy: Path) -> Iterator[str]:
    """What `archsearch dashboard` prints; it ends as Ctrl-C lets it end."""
    command = [sys.executable, "-m", "archsearch", "dashboard", str(run_copy), "--port", "0"]
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, heard)
    with process:
        assert process.stdout is not None
        name, _, found = process.stdout.readline().partition(": ")
        assert name == "quickstart"
        yield found.strip()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130


def scrolled(page: Any) -> int:
    frame = page.locator("#report iframe:not(.coming)").element_handle().content_frame()
    found: int = frame.evaluate("Math.round(window.scrollY)")
    return found


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_a_run_is_shown_as_it_goes_on(
    browser: Any, address: str, run_copy: Path, width: int, scheme: str
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.set_default_timeout(120_000)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    origin = address.partition("?")[0]
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((origin, "data:", "blob:")) else said.append(request.url)
        ),
    )

    def violations() -> list[str]:
        found = axe.Axe().run(page).response["violations"]
        return [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in found]

    page.goto(address)
    page.get_by_text("17 of 100").wait_for()  # the diverged one is finished too
    assert page.url == origin
    assert page.locator("#state").text_content() == "not running"
    assert page.get_by_role("button", name="Stop…").is_disabled()
    report = page.frame_locator("#report iframe:not(.coming)")
    report.get_by_role("heading", name="What was searched and found").wait_for()
    assert violations() == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width

    # A training begins, and is seen growing.
    study = Study.open(run_copy)
    asked = study.ask()
    asked.trial.set_user_attr("key", KEY)
    log = run_copy / "training" / f"{KEY}-{study.spec.budgets[0]}" / "log.csv"
    log.parent.mkdir(parents=True)
    rows = ["samples,loss,learning_rate,gradient_norm,seconds", "8,0.9,1,1,2", "88,0.7,1,1,22"]
    log.write_text("\n".join(rows) + "\n")
    card = page.get_by_role("listitem").filter(has_text=f"Trial {asked.number}")
    curve = "Loss of the training, from 0.9 to {} after {} pictures"
    card.get_by_role("img", name=curve.format(0.7, 88)).wait_for()
    with log.open("a") as file:
        file.write("168,0.6,1,1,42\n")
    card.get_by_role("img", name=curve.format(0.6, 168)).wait_for()
    assert violations() == []

    # It ends: the report is loaded anew, and stays where it was read.
    frame = page.locator("#report iframe:not(.coming)").element_handle().content_frame()
    frame.evaluate("window.scrollTo(0, 900)")
    place = scrolled(page)
    assert place > 600
    page.wait_for_timeout(500)
    source = page.locator("#report iframe").first.get_attribute("src")
    study.tell(asked, {"val_loss": 0.2})
    put(study.store, "some", [0.3])
    page.locator(f"#report iframe:not(.coming):not([src='{source}'])").wait_for()
    page.get_by_text("18 of 100").wait_for()
    assert abs(scrolled(page) - place) < 20
    page.get_by_text("Nothing is trained at the moment.").wait_for()

    # What goes on with a run asks before, and is told why not.
    page.get_by_role("button", name="Go on…").click()
    page.get_by_text("18 of 100 trials are finished.").wait_for()
    assert page.get_by_label("Finished trials in all").input_value() == "100"
    assert page.get_by_label("Minutes in all").is_hidden()
    assert violations() == []
    page.get_by_label("Finished trials in all").fill("7")
    page.get_by_role("button", name="Start it").click()
    page.get_by_text("7 in all is not more than the 18 that are finished").wait_for()
    assert not (run_copy / "logs" / "run.log").exists()
    refused = [words for words in said if "409" not in words]  # chromium tells of the refusal
    context.close()
    assert refused == []
