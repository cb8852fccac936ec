"""What networks take by a table, and which entries the networks of a space need."""

import math
import statistics
from pathlib import Path

import pytest

from archsearch.catalog import find
from archsearch.cost.price import macs, params
from archsearch.errors import InputError
from archsearch.latency.predict import (
    MissingEntryError,
    Predictor,
    draw_distinct,
    estimate,
    load_table,
    needing,
    predict,
    unit_ms,
    units_of,
)
from archsearch.latency.table import Correction, LatencyTable, keys_of, measured_as
from archsearch.search_space.space import Space, load_space
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import plan
from archsearch.unet.presets import mobilediffusion_lite, preset, sd15
from archsearch.unet.units import Residual, TimeProjection

PROJECTED = 0.0625
SUM = 0.03125 + 0.25 + 0.5 + PROJECTED + 1.0 + 0.125 + 0.25 + 1.0 + 0.0625


def test_prediction_is_the_corrected_sum(golden: LatencyTable, tiny: UNetConfig) -> None:
    prediction = predict(tiny, golden)
    assert prediction.latency_ms == pytest.approx(1.05 * SUM + 0.25)
    assert (prediction.provenance, prediction.estimated, prediction.mark) == ("predicted", (), "")
    assert sum(unit_ms(unit, golden) for _, unit in plan(tiny).placed()) == pytest.approx(SUM)
    assert predict(plan(tiny), golden) == prediction
    assert predict(tiny, golden.replace(correction=Correction())).latency_ms == pytest.approx(SUM)


def test_the_units_of_a_prediction_add_up_to_it(golden: LatencyTable, tiny: UNetConfig) -> None:
    times = Predictor(golden).by_unit(tiny)
    assert sum(times[unit] for _, unit in plan(tiny).placed()) == pytest.approx(SUM)
    with pytest.raises(MissingEntryError, match=r"and \d+ more"):
        Predictor(golden).by_unit(sd15())
    published = load_table(find("table", "iphone-15-pro.published"))
    assert Predictor(published).by_unit(mobilediffusion_lite()) == {}


def test_tables_of_the_first_version_predict_as_they_did(
    first_path: Path, tiny: UNetConfig
) -> None:
    """There a residual block had its projection of time inside."""
    assert predict(tiny, LatencyTable.load(first_path)).latency_ms == pytest.approx(
        1.05 * (SUM - PROJECTED) + 0.25
    )


def test_a_residual_block_is_measured_apart_from_its_time() -> None:
    """So the widths of time embeddings do not multiply the entries of residual blocks."""
    block = Residual(64, 32, 8, "full", 128, 8)
    assert measured_as(block) == (Residual(64, 32, 8, "full", 0, 8), TimeProjection(128, 32))
    for count in (params, lambda unit: macs(unit).total):
        assert count(block) == sum(count(part) for part in measured_as(block))


def test_failed_units_are_missing_with_their_reason(golden: LatencyTable, tiny: UNetConfig) -> None:
    stages = [*tiny.to_dict()["stages"], {"channels": 32, "down": [{}], "up": [{}]}]
    deep = UNetConfig.model_validate(tiny.to_dict() | {"stages": stages})
    with pytest.raises(
        MissingEntryError,
        match=r"downsample\(channels=32, size=8\) \(failed: operator not supported\)",
    ):
        predict(deep, golden)


def test_a_missing_unit_is_estimated_if_asked_for_and_marked(
    golden: LatencyTable, tiny: UNetConfig
) -> None:
    one_less = golden.replace(
        entries=[
            entry for entry in golden.entries if entry.unit != Residual(32, 32, 8, "full", 0, 8)
        ]
    )
    exact, estimated = predict(tiny, golden), predict(tiny, one_less, "predict")
    assert estimated.estimated == (Residual(32, 32, 8, "full", 0, 8),)
    assert estimated.mark == "1 of its units estimated"
    assert estimated.latency_ms == pytest.approx(exact.latency_ms, rel=0.2)
    no_output = golden.replace(
        entries=[entry for entry in golden.entries if entry.unit.kind != "output"]
    )
    with pytest.raises(
        MissingEntryError, match=r"lacks 1 .*: output"
    ):  # nothing of its kind to go by
        predict(tiny, no_output, "predict")


def test_estimates_are_never_nothing(golden: LatencyTable, tiny: UNetConfig) -> None:
    quick = [
        entry.model_copy(update={"p10": 1e-9, "p50": 1e-9, "p90": 1e-9}) for entry in golden.entries
    ]
    table = golden.replace(
        entries=[entry for entry in quick if entry.unit != Residual(32, 32, 8, "full", 0, 8)]
    )
    assert predict(tiny, table, "predict").latency_ms > 0


def test_a_correction_that_leaves_nothing_is_refused(
    golden: LatencyTable, tiny: UNetConfig
) -> None:
    with pytest.raises(InputError, match=r"correction: gives -\d+\.?\d* ms for a sum of 3\.\d+ ms"):
        predict(tiny, golden.replace(correction=Correction(offset=-1000.0)))


def test_estimates_of_the_shipped_table_are_near_what_was_measured() -> None:
    """Every fifth entry estimated from the others; benchmarks/estimate_error.py takes all."""
    table = load_table(find("table", "cpu-onnxruntime-fp32"))
    assert isinstance(table, LatencyTable)
    guesses = [
        (estimate(entry.unit, table, leave_out=entry.unit), entry.p50)
        for entry in table.entries[::5]
    ]
    errors = [abs(math.log((guess or 0) / measured)) for guess, measured in guesses]
    assert statistics.median(errors) < 0.15


def test_missing_entries_are_all_named(golden: LatencyTable, tiny: UNetConfig) -> None:
    with pytest.raises(
        MissingEntryError, match=r"cpu-onnxruntime-fp32 lacks \d+ .*: input\(in.*; and \d+ more"
    ) as caught:
        predict(sd15(), golden)
    assert isinstance(caught.value, InputError)
    assert set(caught.value.missing) == set(keys_of([sd15()]))
    one_less = golden.replace(
        entries=[entry for entry in golden.entries if entry.unit.kind != "output"]
    )
    with pytest.raises(
        MissingEntryError,
        match=r"lacks 1 .*: output\(in_channels=32, out_channels=4, size=8, norm_groups=8\)\. M",
    ):
        predict(tiny, one_less)
    units = [unit for _, unit in plan(tiny).placed()]
    assert [unit.kind for unit in one_less.lacks(units)] == ["output"]
    assert golden.lacks(units) == []


def test_keys_are_unique_sorted_and_stable() -> None:
    configs = [sd15(), mobilediffusion_lite(), sd15()]
    keys = keys_of(iter(configs))
    assert len(keys) == len(set(keys))
    assert keys == keys_of(reversed(configs))
    assert set(keys) == {
        part
        for config in configs
        for _, unit in plan(config).placed()
        for part in measured_as(unit)
    }
    assert [key.kind for key in keys][:2] == ["input", "input"]


KEYS_ALLOWED = 1_500


@pytest.fixture(scope="module")
def wide() -> Space:
    return load_space("mobilediffusion")


def test_the_whole_space_has_an_affordable_table(wide: Space) -> None:
    units = units_of(wide)
    assert len(units) <= KEYS_ALLOWED
    assert len(units) == len(set(units))
    for name in ("mobilediffusion", "mobilediffusion-lite"):
        assert set(keys_of([preset(name)])) <= set(units)


@pytest.mark.parametrize("space", ["quickstart", "lite-inner", "mobilediffusion"])
@pytest.mark.parametrize("table", ["cpu-onnxruntime-fp32"])
def test_the_shipped_table_covers_the_shipped_spaces(space: str, table: str) -> None:
    loaded = load_table(find("table", table))
    assert isinstance(loaded, LatencyTable)
    searched = load_space(space)
    for config in (
        map(searched.build, searched.points())
        if searched.size < 60
        else draw_distinct(searched, 60, seed=5)
    ):
        assert predict(config, loaded).latency_ms > 0


def test_networks_that_need_a_unit_are_found() -> None:
    space = load_space("lite-inner")
    separable = [
        unit for unit in units_of(space) if isinstance(unit, Residual) and unit.conv == "separable"
    ]
    points, total = needing(space, separable)
    assert 0 < len(points) < total
    assert {point["inner_conv"] for point in points} == {"separable"}


def test_draws_are_distinct_and_repeat(wide: Space) -> None:
    drawn = draw_distinct(wide, 40, seed=1)
    assert len({config.digest for config in drawn}) == 40
    assert drawn == draw_distinct(wide, 40, seed=1)
    assert drawn[:10] == draw_distinct(wide, 10, seed=1)
    narrow = draw_distinct(wide, 5, seed=1, suits=lambda config: config.stages[0].channels == 256)
    assert {config.stages[0].channels for config in narrow} == {256}
    with pytest.raises(
        InputError,
        match="space mobilediffusion: only 0 different networks were found, but 1 were asked for",
    ):
        draw_distinct(wide, 1, seed=1, suits=lambda config: False)
