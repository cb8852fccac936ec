"""What a report of a large study takes: seconds to make it, its size, seconds until a browser shows
it, and milliseconds until the page answers the pointer. The study's losses are made up: this
measures speed, and nobody sees its page.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from archsearch import Study
from archsearch.report.page import write

MOVES = 200


def told_study(folder: Path, trials: int, pictures: int = 110) -> Study:
    """A study of the quickstart's space with ``trials`` told scores, and noise for pictures."""
    overrides = {
        "search.sampler": {"name": "random"},
        "search.rungs.count": 1,
        "search.minutes": None,
        "search.trials": trials,
    }
    study = Study("quickstart", folder, overrides)
    rng = np.random.default_rng(0)
    for _ in range(trials):
        asked = study.ask()
        latency = asked.candidate.costs.scores["latency_ms"]
        study.tell(asked, {"val_loss": float(0.2 + 40 / latency + 0.01 * rng.random())})
    losses = [(trial.values[0], trial.number) for trial in study.results.trials.complete()]
    shown = {member.number for member in study.results.shown()}
    for number in [*shown, *(number for _, number in sorted(losses)[:pictures])]:
        sheet = rng.integers(0, 255, (64, 256, 3), dtype=np.uint8)
        picture = Image.fromarray(sheet).resize((768, 192), Image.Resampling.NEAREST)
        picture.save(study.run_dir.trial(number) / "samples.png")
    return study


def measure_page(path: Path) -> dict[str, Any]:
    """First paint, readiness, and what a move of the pointer costs, in headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.add_init_script(
            "window.longTasks = []; new PerformanceObserver((list) => list.getEntries().forEach("
            "(each) => longTasks.push(each.duration))).observe({type: 'longtask', buffered: true})"
        )
        page.goto(path.as_uri())
        page.wait_for_selector("#front-chart canvas")
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        ready = page.evaluate("performance.now()")
        page.locator("#front-chart").scroll_into_view_if_needed()
        page.wait_for_timeout(1000)
        page.evaluate("longTasks.length = 0")
        box = page.locator("#front-chart canvas").bounding_box()
        assert box is not None
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        before = _busy(session)
        rng = np.random.default_rng(0)
        for across, down in rng.uniform(0.1, 0.9, (MOVES, 2)):
            page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
            page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        busy = _busy(session) - before
        long = page.evaluate("longTasks")
        browser.close()
    return {
        "first_paint_seconds": round(paint / 1000, 3),
        "plot_drawn_seconds": round(ready / 1000, 3),
        "moves": MOVES,
        "main_thread_ms_per_move": round(1000 * busy / MOVES, 1),
        "tasks_longer_than_50_ms": len(long),
        "longest_task_ms": max(long, default=None),
    }


def _busy(session: Any) -> float:
    """Seconds that the page's main thread has worked."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(each["value"] for each in metrics if each["name"] == "TaskDuration"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--keep", type=Path, help="Folder of the study; one that is there is used.")
    arguments = parser.parse_args()
    memory = Path("/dev/shm")  # thousands of transactions: a disk would take a quarter of an hour
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as temporary:
        folder = arguments.keep or Path(temporary) / "run"
        if not (folder / "study.yaml").is_file():
            told_study(folder, arguments.trials)
        started, worked = time.monotonic(), time.process_time()
        path = write(Study.open(folder))
        seconds, worked = time.monotonic() - started, time.process_time() - worked
        found = {
            "trials": len(Study.open(folder).results.trials.all()),
            "seconds": round(seconds, 2),
            "processor_seconds": round(worked, 2),
            "megabytes": round(path.stat().st_size / 1e6, 2),
            "peak_memory_gb": round(
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2
            ),
            **measure_page(path),
        }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
