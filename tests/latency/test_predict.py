import pytest

from archsearch.errors import InputError
from archsearch.latency.keys import keys_of
from archsearch.latency.predict import MissingEntryError, missing_keys, predict
from archsearch.latency.table import Correction, LatencyTable
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import plan
from archsearch.unet.presets import mobilediffusion_lite, sd15

SUM = 0.03125 + 0.25 + 0.5 + 1.0 + 0.125 + 0.25 + 1.0 + 0.0625


def test_prediction_is_the_corrected_sum(golden: LatencyTable, tiny: UNetConfig) -> None:
    prediction = predict(tiny, golden)
    assert prediction.latency_ms == pytest.approx(1.05 * SUM + 0.25)
    assert [path for path, _, _ in prediction.by_unit] == [path for path, _ in plan(tiny).placed()]
    assert sum(ms for _, _, ms in prediction.by_unit) == pytest.approx(SUM)
    assert predict(plan(tiny), golden) == prediction
    assert predict(tiny, golden.replace(correction=Correction())).latency_ms == pytest.approx(SUM)


def test_missing_entries_are_all_named(golden: LatencyTable, tiny: UNetConfig) -> None:
    with pytest.raises(MissingEntryError, match=r"cpu-onnxruntime-fp32 lacks \d+ .*: time\(channels=320.*; and \d+ more") as caught:
        predict(sd15(), golden)
    assert isinstance(caught.value, InputError)
    assert set(caught.value.missing) == set(keys_of([sd15()]))
    one_less = golden.replace(entries=[entry for entry in golden.entries if entry.unit.kind != "output"])
    with pytest.raises(MissingEntryError, match=r"lacks 1 .*: output\(in_channels=32, out_channels=4, size=8, norm_groups=8\)\. M"):
        predict(tiny, one_less)
    assert [unit.kind for unit in missing_keys([tiny], one_less)] == ["output"]
    assert missing_keys([tiny], golden) == []


def test_keys_are_unique_sorted_and_stable() -> None:
    configs = [sd15(), mobilediffusion_lite(), sd15()]
    keys = keys_of(iter(configs))
    assert len(keys) == len(set(keys))
    assert keys == keys_of(reversed(configs))
    assert set(keys) == {unit for config in configs for _, unit in plan(config).placed()}
    assert [key.kind for key in keys][:2] == ["input", "input"]
