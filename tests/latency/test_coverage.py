"""Which entries a space needs, and which of its networks need an entry."""

import pytest

from archsearch.catalog import find
from archsearch.errors import InputError
from archsearch.latency.predict import draw_distinct, load_table, needing, predict, units_of
from archsearch.latency.table import LatencyTable, keys_of
from archsearch.search_space.space import Space, load_space
from archsearch.unet.presets import preset
from archsearch.unet.units import Residual

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
    count, total, points = needing(space, separable)
    assert count == len(points)
    assert 0 < count < total
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
