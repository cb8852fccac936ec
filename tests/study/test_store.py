import json
from dataclasses import replace

import pytest
import torch

from archsearch.diffusion import evaluate, trainer
from archsearch.errors import ArchsearchError, InputError
from archsearch.study.rundir import RunDir
from archsearch.study.scoring import Scorer
from archsearch.unet.config import UNetConfig


@pytest.fixture
def proxy(scorer: Scorer) -> UNetConfig:
    return scorer.setting.proxy(scorer.setting.space.base)


def test_an_equal_key_is_answered_from_the_store(scorer: Scorer, proxy: UNetConfig) -> None:
    first = scorer.score(proxy)
    again = scorer.score(proxy)
    assert not first.from_store
    assert again.from_store
    assert again.scores == first.scores


def test_the_same_key_gives_the_same_score_to_the_last_digit(
    scorer: Scorer, proxy: UNetConfig
) -> None:
    first = scorer.score(proxy)
    (scorer.run.scores / f"{first.key}.json").unlink()
    again = scorer.score(proxy)
    assert not again.from_store
    assert again.scores == first.scores
    assert again.details["train_loss"] == first.details["train_loss"]


def test_another_seed_is_another_key_and_another_score(scorer: Scorer, proxy: UNetConfig) -> None:
    scores = [scorer.score(proxy, seed) for seed in (0, 1)]
    assert scores[0].key != scores[1].key
    assert scores[0].scores["val_loss"] != scores[1].scores["val_loss"]


def test_whatever_a_score_depends_on_changes_its_key(
    scorer: Scorer, proxy: UNetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another(**changes: object) -> Scorer:
        parts = {
            "run": scorer.run,
            "setting": scorer.setting,
            "data": scorer.data,
            "device": scorer.device,
        } | changes
        return Scorer(**parts)  # type: ignore[arg-type]

    spec = scorer.setting.spec
    recipe = replace(
        scorer.setting,
        spec=spec.model_copy(
            update={"proxy": spec.proxy.model_copy(update={"learning_rate": 0.5})}
        ),
    )
    search = replace(
        scorer.setting,
        spec=spec.model_copy(update={"search": spec.search.model_copy(update={"seed": 9})}),
    )
    digests = [
        scorer.digest(proxy),
        scorer.digest(proxy, seed=1),
        scorer.digest(UNetConfig.model_validate(proxy.to_dict() | {"conv": "separable"})),
        another(
            data=replace(scorer.data, fingerprint="other pictures"),
            run=RunDir(scorer.run.path / "other"),
        ).digest(proxy),
        another(setting=recipe).digest(proxy),
        another(setting=search).digest(proxy),
        another(device=torch.device("cuda")).digest(proxy),
    ]
    for module in (trainer, evaluate):
        monkeypatch.setattr(module, "VERSION", 1000)
        digests.append(scorer.digest(proxy))
    assert len(set(digests)) == len(digests)


def test_samples_seen_are_the_budget_and_time_is_told(scorer: Scorer, proxy: UNetConfig) -> None:
    scored = scorer.score(proxy)
    assert scored.details["samples"] == 32
    assert scored.details["train_seconds"] > 0
    assert scored.details["capped"] is False


def test_a_capped_training_says_so(scorer: Scorer, proxy: UNetConfig) -> None:
    spec = scorer.setting.spec
    capped = spec.model_copy(update={"proxy": spec.proxy.model_copy(update={"max_seconds": 1e-6})})
    scorer.setting = scorer.setting.__class__(**{**scorer.setting.__dict__, "spec": capped})
    scored = scorer.score(proxy)
    assert scored.details["capped"] is True
    assert scored.details["samples"] == 8


def test_a_training_that_diverges_ends_with_that_name(scorer: Scorer, proxy: UNetConfig) -> None:
    spec = scorer.setting.spec
    wild = spec.model_copy(
        update={"proxy": spec.proxy.model_copy(update={"learning_rate": 1e30, "warmup": 0.0})}
    )
    scorer.setting = scorer.setting.__class__(**{**scorer.setting.__dict__, "spec": wild})
    scored = scorer.score(proxy)
    assert scored.outcome == "diverged"
    assert "diverged at sample" in scored.details["reason"]
    assert scored.scores == {}


def test_weights_come_back_and_are_made_again_where_they_are_gone(
    scorer: Scorer, proxy: UNetConfig
) -> None:
    key = scorer.score(proxy).key
    kept = scorer.load(proxy, key).state_dict()
    (scorer.run.weights / f"{key}.safetensors").unlink()
    made = scorer.load(proxy, key).state_dict()
    assert all(torch.equal(kept[name], made[name]) for name in kept)


def test_weights_of_another_network_are_refused(scorer: Scorer, proxy: UNetConfig) -> None:
    key = scorer.score(proxy).key
    other = proxy.model_copy(update={"stages": proxy.stages[:1]})
    with pytest.raises(ArchsearchError, match="does not hold the weights"):
        scorer.load(UNetConfig.model_validate(other.to_dict()), key)


def test_sampled_scores_are_kept_with_what_they_were_computed_under(
    scorer: Scorer, proxy: UNetConfig
) -> None:
    key = scorer.score(proxy).key
    values = scorer.sampled(proxy, key, ("kid_effnet",))
    assert {"kid_effnet", "kid_effnet_floor"} <= values.keys()
    record = json.loads((scorer.run.scores / f"{key}.sampled.json").read_text())["scores"][
        "kid_effnet"
    ]
    assert record["under"]["sampling"]["steps"] == 2
    assert record["networks"]["effnet"]["name"] == "efficientnet-lite0"
    assert scorer.sampled(proxy, key, ("kid_effnet",)) == values


def test_a_run_is_of_one_set_of_data(run: RunDir, scorer: Scorer) -> None:
    changed = replace(scorer.data, fingerprint="another picture in the folder")
    with pytest.raises(InputError, match="the data have changed since this run began"):
        Scorer(run, run.setting(), changed, scorer.device)
    Scorer(run, run.setting(), scorer.data, scorer.device)
