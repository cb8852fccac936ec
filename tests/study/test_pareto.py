"""What ``archsearch pareto`` and ``status`` show a reader who has a terminal of 80 columns."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.cells import cell_len
from rich.console import Console

from archsearch import catalog
from archsearch.errors import InputError
from archsearch.files import write_json
from archsearch.study.results import Results, changed_knobs
from archsearch.study.trials import Trials

from ..conftest import Cli
from .conftest import STUDY, WriteStudy, started

POINT = {
    "outer_width": 320, "outer_down": 1, "outer_up": 2, "outer_layers": "none",
    "middle_width": 640, "middle_attention": "ca+ff", "inner_width": 864,
    "inner_down_depth": 3, "inner_up_depth": 2, "inner_conv": "separable", "expansion": 6,
    "activation": "silu", "kv": "shared", "normalizer": "relu",
}  # fmt: skip
"""MobileDiffusion-Lite in the space ``quickstart``."""
SMALLER = POINT | {"outer_width": 128, "middle_attention": "none", "kv": "separate"}
SMALL = POINT | {"expansion": 3, "inner_width": 640}


def tell(trials: Trials, loss: float, point: dict[str, Any] | None = None) -> int:
    """One more trial with this loss: the next in the queue, or one at a point."""
    if point is None:
        asked = trials.ask()
        assert asked is not None
    else:
        asked = trials.ask_at(trials.setting.space.labelled(point))
    trials.tell(asked.trial, {"val_loss": loss}, {"train_seconds": 2.0})
    return asked.number


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The preset, one that is cheaper and better, and one that is cheaper still. The last tests
    here add trials of their own.
    """
    study = STUDY | {
        "space": "quickstart",
        "objectives": {"val_loss": "minimize", "latency_ms": "minimize"},
        "report": [],
        "deployment": {"tables": ["cpu-onnxruntime-fp32"]},
        "search": {"trials": 40, "confirm_seeds": 1},
    }
    folder = tmp_path_factory.mktemp("pareto")
    (folder / "small.yaml").write_text(yaml.safe_dump(study))
    found = started(folder / "small.yaml", folder / "run")[1]
    for loss, point in ((0.22, None), (0.21, SMALL), (0.27, SMALLER)):
        tell(found.trials, loss, point)
    found.write()
    return found


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    narrow = Console(width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(sys.modules["archsearch.cli.app"], "console", narrow)


@pytest.mark.usefixtures("terminal")
def test_the_front_is_read_at_80_columns(results: Results, cli: Cli) -> None:
    code, out, _ = cli("pareto", results.run.path)
    assert code == 0
    assert max(map(cell_len, out.splitlines())) <= 80
    lines = [line.split() for line in out.splitlines()]
    networks = [words[0] for words in lines if words and words[0] in NAMES]
    assert networks[:3] == ["#2", "#1", "mobilediffusion-lite"], "the dominated preset is a row too"
    words = " ".join(out.split())
    assert "#1 inner_width 864 → 640, expansion 6 → 3" in words
    assert (
        "#2 outer_width 320 → 128, outer_layers none → unused, middle_attention ca+ff → none, "
        "kv shared → separate" in words
    )
    assert "mobilediffusion-lite is not on the front: #1 is as good or better" in words
    assert "Does the front beat mobilediffusion-lite at equal or lower latency" in words
    assert not any(trial.digest in out for trial in results.complete()), "no hashes"


NAMES = ("#1", "#2", "mobilediffusion-lite")


@pytest.mark.usefixtures("terminal")
def test_wide_shows_every_score_and_every_knob(results: Results, cli: Cli) -> None:
    _, out, _ = cli("pareto", results.run.path, "--wide")
    assert results.front()[0].digest in out
    assert f"{int(results.front()[0].scores['macs']):,}" in out
    knobs = " ".join(out.split())
    assert "activation silu" in knobs, "the same in both"
    assert "expansion 6 → 3" in knobs


@pytest.mark.usefixtures("terminal")
def test_effects_are_read_at_80_columns(
    results: Results, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = cli("effects", results.run.path)
    assert code == 0
    lines = out.splitlines()
    assert max(map(cell_len, lines)) <= 80
    heads = next(line.split() for line in lines if line.split()[:1] == ["knob"])
    assert heads == ["knob", "val_loss", "verdict", "latency"]
    assert lines[-1] == "Too wide for this terminal: MACs, params. --output writes all."
    rows = [line for line in lines if " ± " in line and " × " in line]
    table = results.beliefs().effects()
    assert len(rows) == len(table), "a row a line: nothing is broken"
    for line, row in zip(rows, table.to_dict("records"), strict=True):
        assert line.strip().startswith(f"{row['knob']} {row['reference']} → {row['choice']} ")
        assert row["val_loss verdict"] in line
        assert line.rstrip().endswith(f"× {row['latency_ms ratio']:.2f}")
    wider = Console(width=120, force_terminal=True, color_system=None)
    monkeypatch.setattr(sys.modules["archsearch.cli.app"], "console", wider)
    heads = next(s.split() for s in cli("effects", results.run.path)[1].splitlines() if "knob" in s)
    assert heads[-3:] == ["latency", "MACs", "params"], "all costs where there is room"


def test_a_space_without_presets_compares_with_its_base(
    write_study: WriteStudy, tmp_path: Path, cli: Cli
) -> None:
    found = started(write_study(search={"enqueue": "none"}), tmp_path / "run")[1]
    tell(found.trials, 0.3, {"outer": 64, "inner": 64, "layers": "none"})
    _, out, _ = cli("pareto", found.run.path)
    assert "differ from the base of the space" in out
    assert "#0 inner 128 → 64, layers ca → none" in " ".join(out.split())


def test_knobs_that_a_condition_switches_off_have_no_value() -> None:
    assert changed_knobs({"a": 1, "c": 2}, {"a": 1, "b": 3}) == {
        "b": (3, "unused"),
        "c": ("unused", 2),
    }
    assert changed_knobs({"a": None}, {"a": 1}) == {"a": (1, None)}, "null is a value"


def test_one_trial_is_told_of_by_its_number(results: Results, cli: Cli) -> None:
    run = results.run.path
    code, out, _ = cli("status", f"{run}#1")
    assert code == 0
    assert "point.inner_width" in out
    assert f"arch show '{run}#1'" in out or f"arch show {run}#1" in out
    for command in (("status",), ("arch", "show")):
        code, _, err = cli(*command, f"{run}#99")
        assert code == 2
        assert "there is no trial 99; its trials are 0 to 2" in err
        for number in ("²", "9" * 99):
            code, _, err = cli(*command, f"{run}#{number}")
            assert code == 2
            assert "after # comes the number of a trial" in err
    code, _, err = cli("arch", "show", run)
    assert code == 2
    assert f"name one by its trial, {run}#0 say" in err


def test_members_of_the_front_go_by_names_too(results: Results, cli: Cli) -> None:
    run, picks = results.run.path, results.pareto()["picks"]
    assert picks == {"knee": 2, "min-latency": 2, "best-quality": 1}
    for how, number in picks.items():
        assert picks[how] == results.pick(how).number
        found = catalog.load_architecture(f"{run}#{how}")
        assert found.name == f"{run.name}#{number}"
        assert found.config == results.trials.network(number)
        assert cli("status", f"{run}#{how}")[1] == cli("status", f"{run}#{number}")[1]
    written = run.parent / "knee.json"
    assert cli("export", f"{run}#knee", "--format", "json", "--output", written)[0] == 0
    assert catalog.load_architecture(str(written)).config == results.trials.network(picks["knee"])
    assert "is not a run" in cli("status", "nowhere#knee")[2]


def test_a_name_that_the_front_lacks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").touch()
    with pytest.raises(InputError, match="the run has no front yet"):
        catalog.load_architecture(f"{tmp_path}#knee")
    with pytest.raises(InputError, match=r"after # .* but got 'kneee'\. Did you mean 'knee'\?"):
        catalog.load_architecture(f"{tmp_path}#kneee")
    for picks in ({"knee": 4}, {"min-latency": None}, [], None):
        write_json(tmp_path / "pareto.json", {"schema": 1, "front": [], "picks": picks})
        with pytest.raises(InputError, match="names no such member of the front"):
            catalog.load_architecture(f"{tmp_path}#min-latency")


def test_a_refused_trial_has_no_network_and_says_why(results: Results, cli: Cli) -> None:
    trials = results.trials
    asked = trials.study.ask()
    trials.end(asked.number, "infeasible: limits", "latency_ms 900 > 400")
    begun = trials.study.ask().number
    results.write()
    _, _, err = cli("arch", "show", f"{results.run.path}#{asked.number}")
    assert (
        "trial 3 was refused before it had an architecture (infeasible: limits: latency_ms 900 > "
        "400)" in " ".join(err.split())
    )
    _, _, err = cli("arch", "show", f"{results.run.path}#{begun}")
    assert f"trial {begun} has no architecture (running)" in err
    trials.end(begun, "failed", "for the test")


@pytest.mark.usefixtures("terminal")
def test_status_says_what_became_of_each_trial(results: Results, cli: Cli) -> None:
    trials = results.trials
    refused, cut = trials.ask(), trials.ask()
    assert refused is not None
    assert cut is not None
    trials.end(refused.number, "diverged", "the loss is no number")
    trials.give_back(cut.number)
    assert tell(trials, 0.3) == cut.number + 1
    code, out, _ = cli("status", results.run.path)
    assert code == 0
    assert max(map(cell_len, out.splitlines())) <= 80
    words = " ".join(out.split())
    assert "diverged; the loss is no number" in words
    assert f"interrupted; runs again as trial {cut.number + 1}" in words
    assert f"trial {cut.number} run again" in words
