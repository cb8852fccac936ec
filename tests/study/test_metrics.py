"""Which stored scores of a trained network still count."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from archsearch.diffusion import quantise
from archsearch.diffusion import sample as sampler
from archsearch.errors import InputError
from archsearch.metrics import evaluate
from archsearch.metrics.networks import Networks
from archsearch.metrics.registry import METRICS
from archsearch.study import results, scoring
from archsearch.study import scoring as scoring_module
from archsearch.study.rundir import RunDir
from archsearch.study.scoring import Scorer
from archsearch.study.spec import StudySpec
from archsearch.unet.config import UNetConfig
from tests.study.conftest import STUDY

KEY = "0123456789abcdef"
SCORES = {
    "kid_effnet": {"kid_effnet": 1.0, "kid_effnet_floor": 0.5},
    "alignment": {"alignment": 0.2},
    "val_loss_int8": {"val_loss_int8": 0.3},
}
Patch = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture
def spec() -> StudySpec:
    return StudySpec.model_validate(STUDY)


@pytest.fixture
def filled(run: RunDir, spec: StudySpec) -> RunDir:
    """A store with three scores of a training."""
    scoring.add(run.sampled(KEY), KEY, spec, None, Networks(spec.metrics), SCORES)
    return run


def another(name: str) -> Patch:
    return lambda patch: patch.setitem(METRICS, name, replace(METRICS[name], version=1000))


def plugin(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(METRICS, "of_a_package", METRICS["fd_effnet"])


def test_are_read_as_they_were_put(filled: RunDir, spec: StudySpec) -> None:
    assert scoring.read(filled.sampled(KEY), spec) == SCORES
    assert scoring.read(filled.sampled(KEY), spec, networks=Networks(spec.metrics)) == SCORES
    assert scoring.read(filled.sampled(KEY), spec, names=("alignment", "fid")) == {
        "alignment": SCORES["alignment"]
    }
    assert results.sampled_scores(filled, KEY, spec)["kid_effnet_floor"] == 0.5


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (another("kid_effnet"), {"alignment", "val_loss_int8"}),
        (another("cmmd"), set(SCORES)),
        (plugin, set(SCORES)),
        (lambda patch: patch.setattr(quantise, "VERSION", 1000), {"kid_effnet", "alignment"}),
        (lambda patch: patch.setattr(sampler, "VERSION", 1000), {"val_loss_int8"}),
        (lambda patch: patch.setattr(evaluate, "VERSION", 1000), {"val_loss_int8"}),
    ],
)
def test_a_version_concerns_its_own_scores(
    filled: RunDir, spec: StudySpec, monkeypatch: pytest.MonkeyPatch, change: Patch, kept: set[str]
) -> None:
    change(monkeypatch)
    assert scoring.read(filled.sampled(KEY), spec).keys() == kept


@pytest.mark.parametrize(
    "section",
    [{"metrics": {"images": 9}}, {"metrics": {"images": 8, "seed": 1}}, {"sampling": {"steps": 3}}],
)
def test_settings_concern_the_scores_of_pictures(
    filled: RunDir, section: dict[str, object]
) -> None:
    assert scoring.read(filled.sampled(KEY), StudySpec.model_validate(STUDY | section)).keys() == {
        "val_loss_int8"
    }


def test_a_file_that_is_not_used_does_not_matter(filled: RunDir, spec: StudySpec) -> None:
    given = spec.model_copy(
        update={"metrics": spec.metrics.model_copy(update={"clip": "/nowhere/clip"})}
    )
    assert scoring.read(filled.sampled(KEY), given, networks=Networks(given.metrics)) == SCORES


def test_another_network_is_told_where_there_is_one_to_compare_with(
    filled: RunDir, spec: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Networks.key
    monkeypatch.setattr(
        Networks,
        "key",
        lambda self, name: plain(self, name) | ({"version": "9"} if name == "text" else {}),
    )
    assert scoring.read(filled.sampled(KEY), spec, networks=Networks(spec.metrics)).keys() == {
        "kid_effnet",
        "val_loss_int8",
    }
    assert (
        scoring.read(filled.sampled(KEY), spec) == SCORES
    )  # results are looked at without any network


def test_what_is_added_leaves_the_others(
    filled: RunDir, spec: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    another("kid_effnet")(monkeypatch)
    scoring.add(
        filled.sampled(KEY),
        KEY,
        spec,
        None,
        Networks(spec.metrics),
        {"kid_effnet": {"kid_effnet": 7.0}},
    )
    assert scoring.read(filled.sampled(KEY), spec) == SCORES | {"kid_effnet": {"kid_effnet": 7.0}}


def test_a_file_from_before_is_read_under_its_versions(run: RunDir, spec: StudySpec) -> None:
    """Schema 1: all scores side by side; the file that fid was computed with is not known."""
    versions = {"kid_effnet": 1, "fid": METRICS["fid"].version, "alignment": 1000, "int8": 1}
    under = {
        "key": KEY,
        "sampling": {"steps": 2, "guidance": 3.0},
        "metrics": {"images": 8, "seed": 0, "clip": None},
    }
    flat = {
        "kid_effnet": 1.0,
        "kid_effnet_low": 0.9,
        "alignment": 0.1,
        "fid": 3.0,
        "val_loss_int8": 0.3,
        "val_loss_int8_low": 0.2,
    }
    run.sampled(KEY).write_text(
        json.dumps({"schema": 1, "under": under | {"versions": versions}, "scores": flat})
    )
    assert scoring.read(run.sampled(KEY), spec) == {
        "kid_effnet": {"kid_effnet": 1.0, "kid_effnet_low": 0.9},
        "fid": {"fid": 3.0},
        "val_loss_int8": {"val_loss_int8": 0.3, "val_loss_int8_low": 0.2},
    }
    assert scoring.read(run.sampled(KEY), spec, networks=Networks(spec.metrics)).keys() == {
        "kid_effnet",
        "val_loss_int8",
    }
    run.sampled(KEY).write_text(json.dumps({"schema": 1, "under": {}, "scores": flat}))
    assert scoring.read(run.sampled(KEY), spec) == {}


def test_a_missing_network_is_said_only_where_scores_are_computed(
    run: RunDir, spec: StudySpec
) -> None:
    given = spec.model_copy(
        update={"metrics": spec.metrics.model_copy(update={"clip": "/nowhere/clip"})}
    )
    record = {
        "under": scoring.conditions(given, "cmmd"),
        "networks": {"clip": {}},
        "values": {"cmmd": 1.0},
    }
    run.sampled(KEY).write_text(json.dumps({"schema": 2, "key": KEY, "scores": {"cmmd": record}}))
    assert scoring.read(run.sampled(KEY), given) == {"cmmd": {"cmmd": 1.0}}
    with pytest.raises(InputError, match=r"metrics\.clip: /nowhere/clip"):
        scoring.read(run.sampled(KEY), given, networks=Networks(given.metrics))


def test_a_scorer_computes_again_what_no_longer_holds_and_nothing_else(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy: UNetConfig = scorer.setting.proxy(scorer.setting.space.base)
    key = scorer.score(proxy).key
    first = scorer.sampled(proxy, key, ("kid_effnet", "alignment"))
    another("kid_effnet")(monkeypatch)
    asked: list[tuple[str, ...]] = []
    networks = []

    def measure(
        model: object, data: object, spec: object, names: tuple[str, ...], *rest: object
    ) -> dict[str, dict[str, float]]:
        asked.append(names)
        networks.append(rest[-1])
        return {name: {name: 7.0} for name in names}

    monkeypatch.setattr(scoring_module, "measure", measure)
    assert scorer.sampled(proxy, key, ("alignment",)) == {
        k: v for k, v in first.items() if k.startswith("alignment")
    }
    assert asked == []
    again = scorer.sampled(proxy, key, ("kid_effnet", "alignment"))
    assert (asked, again["kid_effnet"], again["alignment"]) == (
        [("kid_effnet",)],
        7.0,
        first["alignment"],
    )
    scorer.sampled(proxy, key, ("fd_effnet",))
    assert networks[0] is networks[1]  # loaded once, however many trials
