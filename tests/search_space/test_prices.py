"""Every point of a space is priced at once, to the last digit as one by one."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from archsearch.catalog import find
from archsearch.cost.price import price
from archsearch.errors import InputError
from archsearch.latency.predict import MissingEntryError, Predictor, load_table
from archsearch.search_space.paths import parse
from archsearch.search_space.prices import Prices, hangs_on
from archsearch.search_space.space import InvalidPointError, Point, Space, load_space

WIDE = str(Path(__file__).parents[2] / "benchmarks" / "wide_space.yaml")
PREDICTOR = Predictor(load_table(find("table", "cpu-onnxruntime-fp32")))


def check(space: Space, points: list[Point], found: Prices, rows: list[int]) -> int:
    """Hold prices against those of one network at a time; returns how many points are networks."""
    networks = 0
    for row in rows:
        assert space.point_of(found.choices[row].tolist()) == points[row]
        try:
            network = space.build(points[row])
        except InvalidPointError:
            assert not found.valid[row]
            continue
        assert found.valid[row]
        cost = price(network)
        assert found.params[row] == cost.params
        assert found.macs[row] == cost.macs
        assert found.peak_activation_bytes[row] == cost.peak_activation_bytes
        assert found.latency_ms is not None
        try:
            assert found.latency_ms[row] == PREDICTOR.predict(network).ms
        except MissingEntryError:
            assert math.isnan(found.latency_ms[row])
        networks += 1
    return networks


@pytest.mark.parametrize(
    "name", ["mobilediffusion", "quickstart", pytest.param(WIDE, marks=pytest.mark.slow)]
)
def test_random_points_cost_to_the_last_digit_what_they_cost_alone(name: str) -> None:
    """Of the wide space, whose stages vary in number, the table has hardly any unit."""
    space, rng = load_space(name), random.Random(20)
    # Most of them differ from another in one or two choices: they share most parts.
    points = [space.draw(rng) for _ in range(40)]
    points += [near for point in points[:20] for near in list(space.neighbours(point))[:18]]
    found = PREDICTOR.price_all(space, points)
    assert len(found) == len(points) == 400
    assert check(space, points, found, list(range(400))) > 200


def test_all_points_come_in_order_and_once() -> None:
    space = load_space("lite-inner")
    points, found = list(space.points()), PREDICTOR.price_all(space)
    assert len(found) == len(points)
    rows = random.Random(0).sample(range(len(points)), 400)
    assert check(space, points, found, rows) == found.valid[rows].sum()
    alone = space.price_all(points=points[:100])
    assert alone.latency_ms is None
    assert np.array_equal(alone.macs, found.macs[:100])


def small(tmp_path: Path, dimensions: dict[str, Any], *rules: str) -> Space:
    base = {
        "schema": 1,
        "norm_groups": 8,
        "sample_size": 16,
        "stages": [
            {"channels": 64, "down": [{}], "up": [{}]},
            {"channels": 128, "down": [{"transformers": 1, "layers": ["ca"]}], "up": [{}, {}]},
        ],
    }
    file = {"schema": 1, "base": base, "dimensions": dimensions, "rules": list(rules)}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(file, sort_keys=False))
    return load_space(str(tmp_path / "small.yaml"))


def test_conditions_rules_and_what_cannot_be_built(tmp_path: Path) -> None:
    space = small(
        tmp_path,
        {
            "stages": {"path": "stages.length", "choices": [1, 2, 3]},
            "width": {"path": "stages[0].channels", "choices": [32, 64, 96]},
            "inner": {"path": "stages[1].channels", "choices": [64, 72], "when": "stages > 1"},
            "down": {"path": "stages[1].down.length", "choices": [1, 2], "when": "inner > 64"},
            "layers": {"path": "stages[*].*.layers", "choices": [[], ["ca", "ff"], ["ff"]]},
            "heads": {"path": "attention.heads", "choices": [4, 16]},
            "bottom": {"path": "middle.length", "choices": [0, 1]},
            "expansion": {"path": "feed_forward.expansion", "choices": [3, 4]},
        },
        "len(stages) < 3 or stages[1].channels > 64",
        "sum([stages[0].channels, time_width]) < 400 or attention.heads > 4",
    ).beside("sampling.steps", (4, 8))
    points, found = list(space.points()), PREDICTOR.price_all(space)
    assert len(points) == len(found)
    networks = check(space, points, found, list(range(len(points))))
    assert 0 < networks < len(points)


@pytest.mark.parametrize(
    ("rule", "path", "hangs"),
    [
        ("stages[2].channels >= stages[1].channels", "stages[1].channels", True),
        ("stages[2].channels >= stages[1].channels", "stages[0].channels", False),
        ("stages[2].channels >= stages[1].channels", "stages[2].conv", False),
        ("stages[2].channels > 8", "stages.channels", True),
        ("stages[2].channels > 8", "stages.length", True),
        ("len(stages[0].down) == len(stages[0].up)", "stages[0].down.length", True),
        ("len(stages[0].down) == 1", "stages[0].up.length", False),
        ("stages[0].down[0].transformers > 1", "stages[0].*.layers", True),
        ("stages[-1].conv == 'full'", "stages[1].conv", True),
        ("stages[1].attention.heads == 8", "attention.heads", True),
        ("stages[1].attention.heads == 8", "attention.kv", False),
        ("time_width > 100", "stages[0].channels", True),
        ("stages[min(1, len(middle))].channels > 8", "middle.length", True),
    ],
)
def test_what_a_rule_hangs_on(rule: str, path: str, hangs: bool) -> None:
    assert hangs_on(rule, [parse(path)]) == hangs


def test_what_cannot_be_listed_is_refused() -> None:
    with pytest.raises(InputError, match=r"has 229,323,571,200 points; up to 5,000,000"):
        load_space("mobilediffusion").price_all()
    published = Predictor(load_table(find("table", "iphone-15-pro.published")))
    with pytest.raises(InputError, match="is a published one, which has no units"):
        published.price_all(load_space("lite-inner"))
    assert len(load_space("quickstart").price_all(points=[])) == 0
