from pathlib import Path

import pytest
from pydantic import ValidationError

from archsearch.data.prepare import Prepared
from archsearch.errors import InputError
from archsearch.metrics.registry import METRICS, check_settings
from archsearch.metrics.spec import MetricSettings
from tests.metrics.conftest import build_metric


def test_unknown_metric_is_named_with_what_is_allowed(data: Prepared) -> None:
    with pytest.raises(
        InputError,
        match=r"'kid_effnt' is not known; allowed are .*fid.* Did you mean 'kid_effnet'\?",
    ):
        build_metric("kid_effnt", data, MetricSettings())


@pytest.mark.parametrize(
    ("name", "key", "file"),
    [
        ("fid", "metrics.inception", "inception-2015-12-05.pt"),
        ("kid", "metrics.inception", "inception-2015-12-05.pt"),
        ("clip_score", "metrics.clip", "CLIPModel"),
        ("cmmd", "metrics.clip", "CLIPModel"),
    ],
)
def test_a_file_the_user_must_bring_is_asked_for(
    data: Prepared, name: str, key: str, file: str
) -> None:
    with pytest.raises(InputError, match=rf"{key}.*{file}.*--set {key}=/path"):
        build_metric(name, data, MetricSettings())
    with pytest.raises(InputError, match=rf"^here: {name} needs .*{file}.* Give it with --that"):
        check_settings(name, MetricSettings(), at="here", give="--that")
    needs = METRICS[name].needs_file
    assert needs is not None
    assert file in needs


def test_only_these_need_a_file() -> None:
    needing = {name for name, info in METRICS.items() if info.needs_file}
    assert needing == {"fid", "kid", "cmmd", "clip_score", "clip_score_recombined"}
    assert needing == {name for name, info in METRICS.items() if info.needs_setting}


def test_the_axes_and_prompts_are_told_apart() -> None:
    assert {name for name, info in METRICS.items() if info.axis == "text"} == {
        f"{name}{suffix}" for name in ("alignment", "clip_score") for suffix in ("", "_recombined")
    }
    assert all(
        (info.prompts == "recombined") == name.endswith("_recombined")
        for name, info in METRICS.items()
    )


@pytest.mark.parametrize("wrong", [{"images": 1}, {"seed": -1}, {"seed": 2**63}, {"unknown": 1}])
def test_settings_refuse(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        MetricSettings.model_validate(wrong)


def test_settings_round_trip() -> None:
    settings = MetricSettings(inception=Path("x.pt"), clip="y")
    assert MetricSettings.model_validate_json(settings.model_dump_json()) == settings
