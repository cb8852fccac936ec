"""Runs beside each other: hypervolumes, coverage, quality at equal cost, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import archsearch
from archsearch import files
from archsearch.cost.price import price
from archsearch.errors import InputError
from archsearch.study import setting as setting_module
from archsearch.study.compare import compare
from archsearch.study.results import Results
from archsearch.study.rundir import DATA
from archsearch.study.setting import Setting

from ..conftest import Cli
from .conftest import WriteStudy, WriteTable, started

Search = Callable[..., Results]


@pytest.fixture
def search(write_study: WriteStudy, tmp_path: Path) -> Search:
    """A run whose ``count`` trials were told a loss that falls with the MACs, times ``worse``."""

    def search(name: str, count: int = 4, worse: float = 1.0, **changes: Any) -> Results:
        results = started(write_study(**changes), tmp_path / name)[1]
        for _ in range(count):
            asked = results.trials.ask()
            assert asked is not None
            scores = asked.candidate.costs.scores
            loss = worse * 1e7 / scores["macs"] + 0.1
            results.trials.tell(asked.trial, {"val_loss": loss}, {"train_seconds": 2.0})
        return results

    return search


def test_a_run_equals_itself(search: Search) -> None:
    one = search("one")
    found = compare([one, one])
    assert found.runs[0] == found.runs[1]
    assert found.runs[0].hypervolume > 0
    assert found.coverage == ((1.0, 1.0), (1.0, 1.0))
    assert found.differences == ()
    assert all(line.best[0] == line.best[1] for line in found.at_cost)
    assert found.runs[0].hypervolume == pytest.approx(
        one.hypervolume_history().hypervolume.iloc[-1]
    )


def test_what_is_worse_everywhere_dominates_less(search: Search) -> None:
    good, bad = search("good"), search("bad", worse=2.0)
    found = compare([good, bad])
    assert found.runs[0].hypervolume > found.runs[1].hypervolume
    assert found.coverage == ((1.0, 1.0), (0.0, 1.0))
    assert (found.quality, found.cost) == ("val_loss", "macs")
    assert [line.at for line in found.at_cost] == [
        "25% of all costs", "50% of all costs", "75% of all costs", "100% of all costs",
    ]  # fmt: skip
    for line in found.at_cost:
        assert None not in line.best
        assert line.best[0] < line.best[1]
        assert line.trials[0] == line.trials[1]  # the same networks, in the same order
    assert [run.trials for run in found.runs] == [4, 4]
    assert [run.train_seconds for run in found.runs] == [8.0, 8.0]


def test_what_leads_the_search_elsewhere_is_said_and_refuses_nothing(search: Search) -> None:
    one = search("one")
    other = search("other", search={"seed": 5, "trials": 7}, limits={"params": 10**9})
    found = compare([one, other])
    assert {each.key: each.values for each in found.differences} == {
        "search.trials": (3, 7),
        "search.seed": (0, 5),
        "limits.params": (None, 1e9),
    }
    assert all(each.matters_to == () for each in found.differences)


def test_qualities_of_different_trainings_do_not_compare(search: Search, cli: Cli) -> None:
    one, other = search("one"), search("other", proxy={"samples": 64}, data={"tokens": 8})
    with pytest.raises(InputError) as told:
        compare([one, other])
    message = str(told.value)
    assert "val_loss of these runs cannot be compared" in message
    assert "proxy.samples: 32 against 64" in message
    assert "data.tokens: 4 against 8" in message
    assert "The costs alone (macs) compare: --costs." in message
    found = compare([one, other], costs_only=True)
    assert list(found.objectives) == ["macs"]
    assert (found.quality, found.at_cost) == (None, ())
    assert {each.key for each in found.differences} == {"proxy.samples", "data.tokens"}
    code, _, err = cli("compare", one.run.path, other.run.path)
    assert code == 2
    assert "Traceback" not in err
    assert cli("compare", one.run.path, other.run.path, "--costs")[0] == 0


def test_data_may_lie_elsewhere_but_must_be_the_same(search: Search) -> None:
    one, other = search("one"), search("other")
    for run, fingerprint in ((one, "a"), (other, "a")):
        files.write_json(run.run.path / DATA, {"schema": 1, "fingerprint": fingerprint})
    assert compare([one, other]).differences == ()
    files.write_json(other.run.path / DATA, {"schema": 1, "fingerprint": "b"})
    with pytest.raises(InputError, match="fingerprint of the data: a against b"):
        compare([one, other])


def test_latencies_of_different_tables_do_not_compare(
    search: Search, write_table: WriteTable
) -> None:
    objectives = {"val_loss": "minimize", "latency_ms": "minimize"}
    runs = []
    for name, ms in (("fast", 1.0), ("slow", 2.0)):
        tables = [str(write_table("phone", ms=ms, folder=f"{name}-table"))]
        runs.append(search(name, deployment={"tables": tables}, objectives=objectives))
    for costs_only in (False, True):
        with pytest.raises(InputError, match=r"latency_ms of these .* latency tables\.phone"):
            compare(runs, costs_only)
    again = search(
        "again",
        deployment={"tables": [str(write_table("phone", ms=1.0, folder="again-table"))]},
        objectives=objectives,
    )
    assert compare([runs[0], again]).differences == ()


def test_studies_of_costs_alone_compare_whatever_their_training(search: Search) -> None:
    objectives = {"params": "minimize", "macs": "minimize"}
    one = search("one", objectives=objectives)
    other = search("other", objectives=objectives, proxy={"samples": 64})
    assert compare([one, other]).coverage[0][0] == 1.0


def test_other_objectives_and_empty_runs_are_refused(search: Search, cli: Cli) -> None:
    one = search("one")
    with pytest.raises(InputError, match="two or more runs are needed, but got 1"):
        compare([one])
    with pytest.raises(InputError, match=r"its objectives are val_loss .minimize., params"):
        compare([one, search("b", objectives={"val_loss": "minimize", "params": "minimize"})])
    with pytest.raises(InputError, match="has no finished trial yet"):
        compare([one, search("empty", count=0)])
    losses = search("c", objectives={"val_loss": "minimize"})
    with pytest.raises(InputError, match="no objective that is a cost"):
        compare([losses, losses], costs_only=True)
    assert compare([losses, losses]).at_cost == ()
    assert cli("compare", one.run.path)[0] == 2
    assert cli("compare", one.run.path, "nowhere")[0] == 2


def test_the_command_prints_and_draws(search: Search, cli: Cli, tmp_path: Path) -> None:
    one, other = search("one"), search("other", worse=1.5, search={"seed": 3})
    picture = tmp_path / "both.png"
    code, out, _ = cli("compare", one.run.path, other.run.path, "--plot", picture)
    assert code == 0
    for words in ("hypervolume", "Coverage", "Best val_loss", "differs: search.seed: 0 | 3"):
        assert words in out
    assert "costs by their logarithm" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    code, out, _ = cli("compare", one.run.path, other.run.path, "--json")
    shown = json.loads(out)
    found = archsearch.compare(one.run.path, other.run.path)
    assert shown == json.loads(json.dumps(found.to_dict()))
    assert [len(row) for row in shown["coverage"]] == [2, 2]
    code, _, err = cli("compare", one.run.path, other.run.path, "--plot", tmp_path / "both.gif")
    assert code == 2
    assert "must end in .png" in err
    assert len(archsearch.compare(one.run.path, other.run.path, one.run.path).runs) == 3


def test_qualities_are_compared_at_the_cost_of_presets(
    search: Search, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = list(setting.space.points())
    networks = sorted((setting.space.build(p) for p in points), key=lambda n: price(n).macs)
    presets = {"least": lambda: networks[0], "most": lambda: networks[-1]}
    monkeypatch.setattr(setting_module, "PRESETS", presets)
    found = compare([search("one"), search("other", worse=3.0)])
    at = {line.at: line for line in found.at_cost}
    assert at["least"].cost == price(networks[0]).macs
    assert at["least"].trials == (0, 0)  # nothing but the preset costs so little
    assert at["most"].cost == at["100% of all costs"].cost
    assert at["most"].best == at["100% of all costs"].best


def test_latencies_that_rest_on_estimates_are_said_to(
    search: Search, write_table: WriteTable, cli: Cli
) -> None:
    tables = {"tables": [str(write_table("phone", leave_out=9))], "on_missing": "predict"}
    objectives = {"val_loss": "minimize", "latency_ms": "minimize"}
    one = search("one", 8, deployment=tables, objectives=objectives)
    (notes, _) = (run.cost_notes for run in compare([one, one]).runs)
    assert any(note.startswith("phone: ") for note in notes)
    _, out, _ = cli("compare", one.run.path, one.run.path)
    assert f"≈ latencies of {one.run.path} rest on: phone: " in out
