"""A search that another program leads, in JSON lines."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archsearch.api import Study
from archsearch.errors import InputError
from archsearch.study.drive import Driver
from archsearch.study.setting import Setting

from .conftest import Sitting, WriteStudy, outcomes

POINT = {"outer": 64, "inner": 128, "layers": "sa+ca+ff"}
DOCS = Path(__file__).parents[2] / "docs"
Drive = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def study(write_study: WriteStudy, tmp_path: Path, setting: Setting) -> Study:
    """Wide networks break its limit."""
    widest = setting.space.build({"outer": 256, "inner": 256, "layers": ["sa", "ca", "ff"]})
    limit = setting.priced(widest).scores["params"] - 1
    return Study(write_study(report=[], limits={"params": limit}), tmp_path / "run")


@pytest.fixture
def drive(study: Study) -> Drive:
    """Send requests, objects or lines as they are, and end the input."""

    def drive(*requests: Any) -> list[dict[str, Any]]:
        lines = [r if isinstance(r, str | bytes) else json.dumps(r) for r in requests]
        return list(study.drive(lines))

    return drive


def test_the_studys_own_sampler_is_asked_as_ever(
    study: Study, drive: Drive, tmp_path: Path
) -> None:
    asks = [{"ask": {}}, {"tell": {"trial": 0, "scores": {"val_loss": 0.2}}}, {"ask": {}}]
    first, told, second = drive(*asks)
    plain = Study(study.setting.document.path, tmp_path / "plain")
    asked = plain.ask()
    assert first["trial"] == 0
    assert first["digest"] == asked.candidate.network.digest
    assert first["costs"] == asked.candidate.costs.scores
    assert told == {"trial": 0, "scores": {**first["costs"], "val_loss": 0.2}}
    plain.tell(asked, {"val_loss": 0.2})
    assert plain.ask().candidate.network.digest == second["digest"]


def test_a_point_is_a_trial_of_its_own(study: Study, drive: Drive) -> None:
    asked, told, front = drive(
        {"ask": {"point": POINT}},
        {"tell": {"trial": 0, "scores": {"val_loss": 0.2}}},
        {"front": {}},
    )
    network = study.space.build(study.space.labelled(POINT))
    assert (asked["trial"], asked["point"], asked["digest"]) == (0, POINT, network.digest)
    assert told["scores"]["val_loss"] == 0.2
    (member,) = front["front"]
    assert (member["point"], member["scores"]) == (POINT, told["scores"])
    assert study.network(0) == network
    assert list(study.trials().outcome) == ["complete"]


def test_points_given_between_do_not_disturb_what_waits(study: Study) -> None:
    """A queued trial is not taken for the point that was given, nor lost."""
    study.results.trials.study.enqueue_trial(POINT, user_attrs={"queued": POINT})
    other = {**POINT, "outer": 128}
    given, waiting = study.ask(other), study.ask()
    assert given.trial.params == other
    assert waiting.trial.params == POINT
    assert (given.number, waiting.number) == (1, 0)


def test_a_search_with_points_in_it_repeats(study: Study, write_study: WriteStudy) -> None:
    path, found = study.setting.document.path, []
    for folder in ("once", "again"):
        repeated = Study(path, study.folder.parent / folder)
        asked = [repeated.ask(), repeated.ask(POINT), repeated.ask(), repeated.ask()]
        found.append([each.candidate.network.digest for each in asked])
    assert found[0] == found[1]


def test_a_trial_that_is_told_without_scores_is_trained(
    drive: Drive, study: Study, small_data: None, sittings: list[Sitting]
) -> None:
    _, told = drive({"ask": {"point": POINT}}, {"tell": {"trial": 0}})
    (record,) = study.records().to_dict("records")
    assert told["scores"]["val_loss"] == record["val_loss"]
    assert len(sittings) == 1
    _, again = drive({"ask": {"point": POINT}}, {"tell": {"trial": 1}})
    assert again["scores"] == told["scores"]  # answered from the store
    assert len(sittings) == 1


def test_an_infeasible_point_costs_no_trial(study: Study, drive: Drive) -> None:
    (answer,) = drive({"ask": {"point": {"outer": 256, "inner": 256, "layers": "sa+ca+ff"}}})
    told = answer["infeasible"]
    assert told["outcome"] == "infeasible: limits"
    largest = study.spec.limits["params"].max
    assert largest
    assert told["params"] > largest
    assert re.fullmatch(r"params [\d,.e+]+ > [\d,.e+]+", told["reason"])
    assert study.results.trials.all() == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "The line is not JSON"),
        (b"\xff\xfe{", "The line is not JSON"),
        ("[" * 100_000, "The line is not JSON"),
        ("3", "JSON, but not a request"),
        ({"ask": {}, "tell": {}}, "an object with one key"),
        ({"aks": {}}, "'aks' is not a request. Did you mean 'ask'?"),
        ({"ask": 3}, "ask must be an object, but got 3"),
        ({"ask": {"pint": {}}}, "ask.pint: is not a known key. Did you mean 'point'?"),
        ({"ask": {"point": 3}}, "ask.point must be an object of labels, but got 3"),
        (
            {"ask": {"point": {**POINT, "outr": 64}}},
            "ask.point: 'outr' is no dimension of the space. Did you mean 'outer'? Allowed "
            "are: outer, inner, layers.",
        ),
        (
            {"ask": {"point": {**POINT, "outer": 65}}},
            "ask.point: 'outer' must be one of 64, 128, 256, but got 65.",
        ),
        ({"ask": {"point": {**POINT, "outer": [64]}}}, "but got [64]"),
        ({"ask": {"point": {"outer": 64}}}, "'inner' has no value. Allowed are: 64, 128, 256."),
        ({"tell": {}}, "but got null. These are: 0."),
        ({"tell": {"trial": True}}, "but got true"),
        ({"tell": {"trial": [0]}}, "but got [0]"),
        ({"tell": {"trial": 7, "scores": {"val_loss": 1}}}, "but got 7. These are: 0."),
        ({"tell": {"trial": 0, "scores": 3}}, "tell.scores must be an object, but got 3"),
        ({"tell": {"trial": 0, "scores": {"kid_effnet": 1}}}, "val_loss is an objective, but was"),
        ({"tell": {"trial": 0, "scores": {"val_los": 1}}}, "Did you mean 'val_loss'?"),
        ('{"tell": {"trial": 0, "scores": {"val_loss": NaN}}}', "a finite number, but got NaN"),
        ({"tell": {"trial": 0, "scores": {"val_loss": 10**400}}}, "must be a finite number"),
        ({"tell": {"trial": 0, "scores": {"val_loss": "low"}}}, 'but got "low"'),
        ({"tell": {"trial": 0, "scores": {"val_loss": True}}}, "but got true"),
        ({"tell": {"trial": 0, "outcome": "bad"}}, "one of diverged, infeasible: memory, killed"),
        ({"tell": {"trial": 0, "score": {}}}, "Did you mean 'scores'?"),
        ({"front": {"n": 3}}, "front.n: is not a known key. It takes none."),
    ],
)
def test_a_wrong_line_is_answered_and_ends_nothing(drive: Drive, line: Any, words: str) -> None:
    tell = {"tell": {"trial": 0, "scores": {"val_loss": 0.2}}}
    asked, wrong, told = drive({"ask": {}}, "  ", line, tell)  # a blank line is passed over
    assert asked["trial"] == 0
    assert words in wrong["error"]
    assert wrong["line"] == 3
    assert told["trial"] == 0


@given(st.lists(st.one_of(st.text(), st.binary()), max_size=4))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_line_that_is_not_blank_has_one_answer(
    study: Study, lines: list[str | bytes]
) -> None:
    answers = list(Driver(study.results).answers(lines))
    assert len(answers) == sum(bool(line.strip()) for line in lines)
    assert all("error" in answer for answer in answers)
    json.dumps(answers)


def test_a_training_that_came_to_nothing_can_be_told(study: Study, drive: Drive) -> None:
    tell = {"tell": {"trial": 0, "outcome": "diverged", "reason": "loss of 1e9"}}
    assert drive({"ask": {}}, tell)[1] == {
        "trial": 0, "outcome": "diverged", "reason": "loss of 1e9",
    }  # fmt: skip
    assert study.results.trials.finished() == 1


def test_what_was_not_told_is_given_back_at_the_end(study: Study, drive: Drive) -> None:
    (asked,) = drive({"ask": {"point": POINT}})
    assert asked["trial"] == 0
    assert outcomes(study.results) == ["interrupted", "waiting"]
    assert not study.store.claims.is_held("trial 0")
    (again,) = drive({"ask": {}})
    assert (again["trial"], again["point"]) == (1, POINT)


def test_the_dimensions_are_told(study: Study, drive: Drive) -> None:
    (told,) = drive({"space": {}})
    assert told["space"]["layers"] == {"values": ["none", "ca", "sa+ca+ff"], "when": None}
    assert told["objectives"] == {"val_loss": "minimize", "macs": "minimize"}
    assert told["limits"] == study.spec.to_dict()["limits"]


def test_a_point_is_asked_for_from_python(study: Study) -> None:
    assert study.ask(POINT).candidate.point == {**POINT, "layers": ["sa", "ca", "ff"]}
    with pytest.raises(InputError, match="'outer' must be one of 64, 128, 256, but got 1"):
        study.ask({**POINT, "outer": 1})


def test_the_client_of_the_documentation_runs(study: Study, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "api.md").read_text(), re.DOTALL)
    (client,) = (block for block in blocks if '"drive"' in block)
    assert len(client.splitlines()) <= 20
    command = [sys.executable, "-c", client, study.setting.document.path, tmp_path / "driven"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    opened = Study.open(tmp_path / "driven")
    assert opened.results.trials.finished() == 5
    assert len(json.loads(done.stdout)) == len(opened.front())
    assert (tmp_path / "driven" / "pareto.csv").is_file()


def test_a_study_that_is_wrong_is_refused_before_the_first_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "archsearch", "drive", "nowhere.yaml"]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
