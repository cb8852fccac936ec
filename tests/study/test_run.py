"""``archsearch run`` as a user meets it: processes, Ctrl-C, kills, the same folder again."""

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import yaml

from archsearch.api import Study
from archsearch.data.prepare import Prepared
from archsearch.study.notes import is_finished, notes_of, outcome
from archsearch.study.results import Results
from archsearch.study.rundir import RunDir, open_run
from archsearch.study.setting import load_setting

from .conftest import WriteStudy, outcomes


@pytest.fixture
def study(write_study: WriteStudy) -> WriteStudy:
    """The small study without sampled scores, whose references would take most of the time."""
    return partial(write_study, report=[])


def archsearch(*arguments: object, **options: object) -> "subprocess.Popen[str]":
    """Start a command that hears Ctrl-C, also where these tests run in the background of a shell,
    which has it ignored.
    """
    command = [sys.executable, "-m", "archsearch", *map(str, arguments)]
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
            **options,
        )  # type: ignore[call-overload,no-any-return]
    finally:
        signal.signal(signal.SIGINT, heard)


def finish(process: "subprocess.Popen[str]", timeout: float = 300) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def found_in(folder: Path) -> Results:
    """What the run in a folder has found so far."""
    return Study.open(folder).results


def test_a_run_leaves_everything_the_contract_names(study: WriteStudy, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, out, err = finish(archsearch("run", study(), "--output", folder))
    assert code == 0, err
    for name in (
        "study.db",
        "study.yaml",
        "trials.csv",
        "pareto.json",
        "pareto.csv",
        "space.yaml",
        "environment.json",
    ):
        assert (folder / name).is_file(), name
    assert {path.name for path in (folder / "plots").iterdir()} == {
        "val_loss-macs.png",
        "val_loss-params.png",
        "hypervolume.png",
        "samples.png",
    }
    assert "Results:" in out
    assert "trial 0" in err
    found = json.loads((folder / "pareto.json").read_text())
    losses = {member["trial"]: member["scores"]["val_loss"] for member in found["front"]}
    noise = found["noise"]
    assert noise["score"] == "val_loss"
    assert noise["repetitions"] == 2 * noise["networks"]  # two seeds each
    assert noise["networks"] == (
        1 if len(losses) == 1 else 2
    )  # of the ends of the front, since no preset lies in the space
    for member in found["front"]:
        mine = member["scores"]["val_loss"]
        within = [
            t
            for t, loss in losses.items()
            if t != member["trial"] and abs(loss - mine) <= noise["least_difference"]
        ]
        assert member["not_told_from"] == within
    _, out, _ = finish(archsearch("pareto", folder))
    assert (
        f"seed deviation {noise['seed_deviation']:.2g}, from {noise['repetitions']} trainings"
        in out
    )
    code, out, _ = finish(
        archsearch(
            "export", folder, "--knee", "--format", "json", "--output", tmp_path / "knee.json"
        )
    )
    assert code == 0
    study_of = Study.open(folder)
    knee = study_of.results.pick("knee")
    assert (
        json.loads((tmp_path / "knee.json").read_text())
        == study_of.network(knee.number).to_dict()
        == study_of.pick("knee").to_dict()
    )
    code, out, _ = finish(archsearch("status", folder, "--json"))
    assert json.loads(out)["finished"] == 3
    code, out, _ = finish(archsearch("arch", "show", f"{folder}#{knee.number}", "--json"))
    assert json.loads(out)["digest"] == knee.digest


def test_the_run_of_another_study_is_refused_by_key(study: WriteStudy, tmp_path: Path) -> None:
    open_run(tmp_path / "run", load_setting(study()))
    code, _, err = finish(
        archsearch("run", study(proxy={"samples": 64}), "--output", tmp_path / "run")
    )
    assert code == 2
    assert "proxy.samples (32 → 64)" in err
    assert "Traceback" not in err


def test_a_folder_that_is_no_run_is_left_alone(study: WriteStudy, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    code, _, err = finish(archsearch("run", study(), "--output", tmp_path / "mine"))
    assert code == 2
    assert "is not a run" in err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "damage", [b"", b"not a database at all, but long enough to be read as one" * 20]
)
def test_a_damaged_database_is_named(study: WriteStudy, tmp_path: Path, damage: bytes) -> None:
    path = study()
    run = open_run(tmp_path / "run", load_setting(path))
    run.database.write_bytes(damage)
    code, _, err = finish(archsearch("status", tmp_path / "run"))
    assert code == 2
    assert "study.db" in err
    assert "Traceback" not in err


def test_a_truncated_study_file_is_named(study: WriteStudy, tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", load_setting(study()))
    run.study.write_text(run.study.read_text()[:200])
    code, _, err = finish(archsearch("status", tmp_path / "run"))
    assert code == 2
    assert "study.yaml" in err
    assert "Traceback" not in err


def test_a_full_disk_ends_the_work_by_name_and_loses_nothing(
    study: WriteStudy, tmp_path: Path, data: Prepared
) -> None:
    """No file may grow beyond 40 kB, as on a disk that fills up; then there is room again."""
    path, folder = study(), tmp_path / "run"

    def fill_up() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    code, _, err = finish(archsearch("run", path, "--output", folder, preexec_fn=fill_up))
    assert code == 1
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in err
    code, _, err = finish(archsearch("run", path, "--output", folder))
    assert code == 0, err
    assert len(found_in(folder).complete()) == 3


@pytest.mark.parametrize("name", ["is this a run? yes", "50 % & #1;a=b"])
def test_whatever_a_folder_is_called_everything_stays_inside(
    study: WriteStudy, tmp_path: Path, name: str
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    path = study(search={"trials": 1, "confirm_seeds": 1})
    code, _, err = finish(archsearch("run", path, "--output", name, cwd=work))
    assert code == 0, err
    assert [item.name for item in work.iterdir()] == [name]
    assert (work / name / "study.db").stat().st_size > 0
    assert outcomes(found_in(work / name)) == ["complete"]
    assert len(found_in(work / name).store.records()) == 1


def test_a_folder_that_cannot_be_made_is_named(study: WriteStudy) -> None:
    code, _, err = finish(archsearch("run", study(), "--output", "/dev/null/run"))
    assert code == 2
    assert "/dev/null" in err
    assert "Traceback" not in err


def _wait_for_running(run: RunDir, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if run.database.is_file() and (run.path / "logs").is_dir():
            running = found_in(run.path).trials.running()
            if any("samples_seen" in notes_of(trial) for trial in running):
                return
        time.sleep(0.5)
    raise AssertionError(f"no trial ran: {finish(process)}")


def test_a_run_goes_on_from_its_own_study_file_and_under_another_name(
    study: WriteStudy, tmp_path: Path
) -> None:
    path, folder = study(search={"confirm_seeds": 1}), tmp_path / "run"
    assert finish(archsearch("run", path, "--output", folder, "--trials", 1))[0] == 0
    code, _, err = finish(
        archsearch("run", folder / "study.yaml", "--output", folder, "--trials", 2)
    )
    assert code == 0, err
    renamed = path.rename(tmp_path / "renamed.yaml")
    code, _, err = finish(archsearch("run", renamed, "--output", folder, "--trials", 3))
    assert code == 0, err
    assert len(found_in(folder).complete()) == 3


def test_two_workers_share_a_run(study: WriteStudy, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    path = study(search={"trials": 6, "confirm_seeds": 1})
    code, _, err = finish(archsearch("run", path, "--output", folder, "--workers", 2))
    assert code == 0, err
    results = found_in(folder)
    assert outcomes(results) == ["complete"] * 6
    assert len({trial.digest for trial in results.complete()}) == 6
    for number in (0, 1):
        assert (folder / "logs" / f"worker-{number}.log").read_text() == ""


def test_a_space_whose_base_is_a_file_runs(study: WriteStudy, tmp_path: Path) -> None:
    path, folder = study(), tmp_path / "run"
    space = tmp_path / "search_spaces" / "small.yaml"
    data = yaml.safe_load(space.read_text())
    (tmp_path / "search_spaces" / "mine.json").write_text(json.dumps(data["base"]))
    space.write_text(yaml.safe_dump(data | {"base": "mine.json"}))
    open_run(folder, load_setting(path))
    assert RunDir(folder).setting().space.base == load_setting(path).space.base
    open_run(folder, load_setting(path))


def test_a_study_beside_its_name_is_not_taken_for_its_space(
    study: WriteStudy, tmp_path: Path
) -> None:
    path = study()
    path.write_text(
        path.read_text().replace(str(tmp_path / "search_spaces" / "small.yaml"), "small")
    )
    code, _, err = finish(archsearch("run", "small.yaml", "--dry-run", cwd=tmp_path))
    assert code == 0, err


def test_a_run_cut_off_while_its_folder_was_made_can_begin_again(
    study: WriteStudy, tmp_path: Path
) -> None:
    setting = load_setting(study())
    run = open_run(tmp_path / "run", setting)
    run.study.unlink()
    open_run(tmp_path / "run", setting)
    assert run.study.is_file()


@pytest.mark.slow
def test_workers_do_not_outlive_the_run(study: WriteStudy, tmp_path: Path) -> None:
    process = archsearch("run", study(proxy={"samples": 16000}), "--output", tmp_path / "run")
    _wait_for_running(RunDir(tmp_path / "run"), process)
    workers = psutil.Process(process.pid).children()
    process.kill()
    finish(process)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert workers
    assert not alive


@pytest.mark.slow
def test_what_draws_is_imported_before_there_is_anything_to_interrupt(
    study: WriteStudy, tmp_path: Path
) -> None:
    # An import that Ctrl-C cuts off cannot be repeated, and results are written after Ctrl-C.
    code = (
        "import sys; from archsearch import api; from archsearch.study import worker\n"
        "def work(*_): sys.exit(7 if 'archsearch.report.figures' in sys.modules else 8)\n"
        "worker.run_workers = work\n"
        "api.Study(*sys.argv[1:]).run(workers=1)\n"
    )
    command = [sys.executable, "-c", code, str(study()), str(tmp_path / "run")]
    assert subprocess.run(command, check=False).returncode == 7


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ctrl-c", "kill"])
def test_a_run_cut_off_in_the_middle_loses_nothing(
    study: WriteStudy, tmp_path: Path, how: str
) -> None:
    path, folder = study(proxy={"samples": 1600}), tmp_path / "run"
    process = archsearch("run", path, "--output", folder, start_new_session=True)
    run = RunDir(folder)
    _wait_for_running(run, process)
    if how == "ctrl-c":
        os.killpg(process.pid, signal.SIGINT)
        code, _, err = finish(process)
        assert code == 130, err
        assert "interrupted; running trials are queued again; to go on: archsearch run" in err
        ended = outcomes(found_in(folder))
        assert {"interrupted", "waiting"} <= set(ended)
        assert "running" not in ended
    else:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        finish(process)
    code, _, err = finish(archsearch("run", path, "--output", folder))
    assert code == 0, err
    trials = found_in(folder).trials
    assert trials.finished() == 3
    first = next(trial for trial in trials.all() if outcome(trial) == "interrupted")
    if first.params:
        assert any(t.params == first.params for t in trials.all() if is_finished(t))


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_trial_runs_again(
    study: WriteStudy, tmp_path: Path
) -> None:
    path, folder = study(proxy={"samples": 1600}), tmp_path / "run"
    process = archsearch("run", path, "--output", folder)
    _wait_for_running(RunDir(folder), process)
    for child in psutil.Process(process.pid).children():
        child.kill()
    code, _, err = finish(process)
    assert code == 0, err
    assert found_in(folder).trials.finished() == 3


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_nothing_in_the_working_folder_is_run(
    engine: str, study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    path, trap = study(), tmp_path / "trap"
    trap.mkdir()
    for name in ("statistics", "random", "yaml", "sitecustomize"):
        (trap / f"{name}.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    monkeypatch.chdir(trap)
    command = ("run", path, "--output", "what? :fire:", "--engine", engine, "--trials", 2)
    code, out, err = finish(archsearch(*command, "--workers", 1), timeout=500)
    assert code == 0, err
    assert not (tmp_path / "sprung").exists()
    assert found_in(trap / "what? :fire:").trials.finished() == 2
    assert sorted(each.name for each in trap.iterdir() if each.suffix != ".py") == ["what? :fire:"]
    suggested = shlex.split(out.partition("Next: ")[2].splitlines()[0])
    assert Path(suggested[2]) == Path("what? :fire:")


@pytest.mark.slow
def test_the_same_study_runs_on_ray(study: WriteStudy, tmp_path: Path) -> None:
    path = study()
    for engine in ("local", "ray"):
        code, _, err = finish(
            archsearch("run", path, "--output", tmp_path / engine, "--engine", engine), timeout=500
        )
        assert code == 0, err
    found = []
    for engine in ("local", "ray"):
        finished = found_in(tmp_path / engine).complete()
        found.append([(trial.point, trial.scores) for trial in finished])
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_proxy_is_exported_with_its_trained_weights(study: WriteStudy, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert finish(archsearch("run", study(), "--output", folder))[0] == 0
    target = tmp_path / "proxy.mlpackage"
    code, _, err = finish(
        archsearch(
            "export", folder, "--best-quality", "--proxy", "--format", "coreml", "--output", target
        )
    )
    assert code == 0, err
    assert (target / "Manifest.json").is_file()
    best = f"{folder}#{found_in(folder).pick('best-quality').number}"
    target = tmp_path / "pipeline"
    code, _, err = finish(
        archsearch("export", best, "--proxy", "--format", "pipeline", "--output", target)
    )
    assert (code, err) == (0, "")
    assert f"`{best}`" not in (card := (target / "card.md").read_text())
    assert "Its weights are those that were trained" in card
