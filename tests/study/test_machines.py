"""Several machines at one study: processes with folders of their own, one PostgreSQL, one place for
artifacts. All of them are on this machine, but they share nothing else.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from archsearch.api import Study
from archsearch.study.notes import notes_of, outcome

from ..servers import Server
from .conftest import WriteStudy

pytestmark = pytest.mark.slow


def machine(study: Path, folder: Path, *options: object) -> "subprocess.Popen[str]":
    """Start a run."""
    command = [sys.executable, "-m", "archsearch", "run", study, "--output", folder, "--workers", 1]
    return subprocess.Popen(
        [str(word) for word in (*command, *options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )


def finish(process: "subprocess.Popen[str]") -> None:
    _, err = process.communicate(timeout=900)
    assert process.returncode == 0, err


def test_four_machines_share_a_study(
    write_study: WriteStudy, postgres: Server, tmp_path: Path
) -> None:
    path = write_study(report=[], search={"trials": 8, "confirm_seeds": 2})
    places = ("--storage", postgres.database(), "--artifacts", f"file://{tmp_path}/kept")
    folders = [tmp_path / f"machine-{number}" for number in range(4)]
    processes = [machine(path, folder, *places) for folder in folders]
    for process in processes:
        finish(process)

    trials = Study.open(folders[0]).results.trials
    assert [outcome(trial) for trial in trials.all()] == ["complete"] * 8
    assert len({notes_of(trial)["digest"] for trial in trials.all()}) == 8

    trained = Counter(log.parent.name for f in folders for log in f.glob("training/*/log.csv"))
    records = Study.open(folders[0]).records()
    assert set(trained) == {f"{row.key}-{row.budget}" for row in records.itertuples()}
    assert set(trained.values()) == {1}  # no key in two folders

    fronts = []
    for folder in folders:
        command = [sys.executable, "-m", "archsearch", "pareto", str(folder), "--json"]
        fronts.append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))
    assert len(fronts[0]["front"]) > 0
    assert fronts[0]["noise"]["seed_deviation"] is not None
    assert all(front == fronts[0] for front in fronts)
    for folder in folders:
        study = Study.open(folder)
        for member in study.results.front():
            assert study.network(member.number).digest == member.digest
            assert study.results.weights(member.number).is_file()
            for name in ("metrics.json", "samples.png"):
                assert (folder / "trials" / str(member.number) / name).is_file()


def test_a_machine_that_is_lost_loses_nothing(
    write_study: WriteStudy, postgres: Server, tmp_path: Path
) -> None:
    path = write_study(report=[], proxy={"samples": 1600}, search={"confirm_seeds": 1})
    places = ("--storage", postgres.database(), "--artifacts", tmp_path / "kept")
    lost, left = tmp_path / "lost", tmp_path / "left"
    process = machine(path, lost, *places, "--trials", 50)
    deadline = time.monotonic() + 240
    while not list(lost.glob("training/*/log.csv")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.5)

    second = machine(path, lost, *places)  # the folder is taken
    _, err = second.communicate(timeout=240)
    assert second.returncode == 2
    assert f"is being run by process {process.pid} on " in err

    trials = Study.open(lost).results.trials
    while not [t for t in trials.running() if 0 < notes_of(t).get("samples_seen", 0) < 800]:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    for child in [process, *psutil.Process(process.pid).children(recursive=True)]:
        child.kill()
    process.communicate()
    (cut_off,) = trials.running()
    total = trials.finished() + 1
    finish(machine(path, left, *places, "--trials", total))
    ended = Study.open(left).results.trials
    assert ended.finished() == total
    assert outcome(ended.all()[cut_off.number]) == "interrupted"
    assert ended.complete()[-1].params == cut_off.params
    finish(machine(path, lost, *places, "--trials", total))  # the dead hold no folder
    assert Study.open(lost).front().equals(Study.open(left).front())
