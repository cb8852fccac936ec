"""Points of a space: choosing, sampling, listing, neighbours, building, and finding an architecture
again; conditions; a dimension beside the architecture.
"""

import json
import random
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archsearch import catalog
from archsearch.errors import InputError
from archsearch.search_space.space import (
    Inactive,
    InvalidPointError,
    Space,
    holds,
    label,
    load_space,
)
from archsearch.unet.config import UNetConfig
from archsearch.unet.presets import PRESETS, preset
from tests.search_space.conftest import GOLDEN

SHIPPED = sorted(path.stem for path in (catalog.packaged() / "search_spaces").glob("*.yaml"))
PRESETS_INSIDE = {
    "quickstart": {"mobilediffusion-lite"},
    "lite-inner": {"mobilediffusion-lite"},
    "mobilediffusion": {"mobilediffusion", "mobilediffusion-lite"},
}

Loader = Callable[[str], Space]
load_space_once = lru_cache(load_space)


@pytest.fixture(scope="module")
def inner() -> Space:
    return load_space("lite-inner")


# Shipped spaces


@pytest.mark.parametrize("name", SHIPPED)
def test_the_presets_meant_to_lie_in_a_shipped_space_do(name: str) -> None:
    space = load_space(name)
    inside = {preset_ for preset_ in PRESETS if space.locate(preset(preset_)) is not None}
    assert inside == PRESETS_INSIDE[name]
    for each in inside:
        point = space.locate(preset(each))
        assert point is not None
        assert space.build(point).to_json() == preset(each).to_json()


def test_where_lite_lies(inner: Space) -> None:
    point = inner.locate(preset("mobilediffusion-lite"))
    assert point is not None
    assert {name: label(value) for name, value in point.items()} == {
        "outer_width": 320,
        "middle_width": 640,
        "inner_width": 864,
        "inner_down_depth": 3,
        "inner_up_depth": 2,
        "middle_attention": "ca+ff",
        "inner_conv": "separable",
        "expansion": 6,
        "activation": "silu",
        "kv": "shared",
        "normalizer": "relu",
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_every_value_of_a_shipped_space_is_in_some_architecture(name: str) -> None:
    space, rng = load_space(name), random.Random(0)
    for key, dimension in space.dimensions.items():
        for value in dimension.values:
            for _ in range(100):
                wanted = space.draw(rng) | {key: value}
                point = space.choose(
                    lambda name, each, wanted=wanted: wanted.get(name, each.values[0])
                )
                try:
                    config = space.build(point)
                except InvalidPointError:
                    continue
                if key in point:
                    break
            else:
                pytest.fail(f"{key} = {value} is never valid")
            assert space.locate(config) is not None


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_locate_finds_what_was_built(seed: int) -> None:
    for space in SPACES:
        _, config = space.draw_valid(random.Random(seed))
        found = space.locate(config)
        assert found is not None
        assert space.build(found) == config


SPACES = [
    load_space("lite-inner"),
    load_space(str(Path(__file__).parents[1] / "golden" / "spaces" / "every-feature.yaml")),
]


# The golden file: every feature of the format


def test_golden_space_reads_as_ever(golden: Space) -> None:
    assert golden.name == "every-feature"
    assert {
        name: [label(value) for value in dimension.values]
        for name, dimension in golden.dimensions.items()
    } == {
        "width": [16, 32, 48],
        "depth": [1, 2],
        "blocks": [0, 1, 2],
        "layers": ["none", "ca", "sa+ca+ff"],
        "conv": ["full", "separable"],
        "heads": [None, 4],
        "kv": ["separate", "shared"],
    }
    assert golden.dimensions["depth"].paths == ("stages[1].down.length", "stages[1].up.length")
    assert golden.size == 3 * 2 * 3 * 3 * 2 * 2 * 2
    point = {
        "width": 32,
        "depth": 2,
        "blocks": 2,
        "layers": ["ca"],
        "conv": "separable",
        "heads": 4,
        "kv": "shared",
    }
    assert golden.build(point).digest == "a95f2933d59abfa2"


def test_points_are_every_point_once_with_conditions_applied(golden: Space) -> None:
    points = list(golden.points())
    labels = [
        json.dumps({name: label(value) for name, value in point.items()}, sort_keys=True)
        for point in points
    ]
    assert len(set(labels)) == len(labels)
    assert len(points) == 3 * 2 * 3 * 3 * (1 + 2) * 2, "heads where convolutions are separable only"
    assert all(("heads" in point) == (point["conv"] == "separable") for point in points)


def test_every_built_point_is_located(golden: Space) -> None:
    """Those that a rule refuses: the widest with two residual blocks."""
    for point in golden.points():
        if point["width"] == 48 and point["depth"] == 2:
            with pytest.raises(
                InvalidPointError, match=r"rule 'len\(stages\[1\]\.down\) == 1 or .* < 48' fails"
            ):
                golden.build(point)
            continue
        config = golden.build(point)
        found = golden.locate(config)
        assert found is not None
        assert golden.build(found) == config


# Points


def test_choose_asks_active_dimensions_in_order(golden: Space) -> None:
    asked: list[str] = []
    point = golden.choose(lambda name, dimension: (asked.append(name), dimension.values[0])[1])
    assert asked == ["width", "depth", "blocks", "layers", "conv", "kv"] == list(point)
    separable = golden.choose(lambda name, dimension: dimension.values[-1])
    assert list(separable) == list(golden.dimensions)


def test_samples_are_repeatable_and_reach_every_value(golden: Space) -> None:
    assert golden.draw(random.Random(3)) == golden.draw(random.Random(3))
    rng = random.Random(0)
    points = [golden.draw(rng) for _ in range(300)]
    for name, dimension in golden.dimensions.items():
        assert {label(point[name]) for point in points if name in point} == {
            label(value) for value in dimension.values
        }
    assert all(("heads" in point) == (point["conv"] == "separable") for point in points)


def test_neighbours_differ_in_one_dimension(inner: Space) -> None:
    point = inner.locate(preset("mobilediffusion-lite"))
    assert point is not None
    neighbours = list(inner.neighbours(point))
    assert len(neighbours) == sum(
        len(dimension.values) - 1 for dimension in inner.dimensions.values()
    )
    for neighbour in neighbours:
        assert sum(label(neighbour[name]) != label(point[name]) for name in point) == 1


def test_neighbours_apply_conditions_again(golden: Space) -> None:
    point = {
        "width": 32,
        "depth": 1,
        "blocks": 1,
        "layers": ["ca"],
        "conv": "full",
        "kv": "separate",
    }
    (separable,) = (
        neighbour for neighbour in golden.neighbours(point) if neighbour["conv"] == "separable"
    )
    assert separable == point | {"conv": "separable", "heads": None}
    (full,) = (
        neighbour for neighbour in golden.neighbours(separable) if neighbour["conv"] == "full"
    )
    assert full == point


def test_what_the_point_does_not_say_stays_the_bases(inner: Space) -> None:
    assert inner.build({}) == preset("mobilediffusion-lite")
    assert inner.build({"inner_width": 768}).stages[2].channels == 768


def test_lengths_are_set_before_what_lies_in_the_list(space: Loader) -> None:
    """Whatever the order in the file: new blocks are the base's last one, and "every block" means
    them too.
    """
    loaded = space(
        "dimensions:\n"
        '  first:  {path: "stages[1].down[0].transformers", choices: [1, 2]}\n'
        '  layers: {path: "stages[1].down[*].layers", choices: [[ca], [sa, ca]]}\n'
        '  blocks: {path: "stages[1].down.length", choices: [1, 3]}\n'
    )
    down = loaded.build({"first": 2, "layers": ["ca"], "blocks": 3}).stages[1].down
    assert [block.transformers for block in down] == [(("ca",), ("ca",)), (("ca",),), (("ca",),)]


def test_a_list_made_too_short_for_a_path_is_an_invalid_point(space: Loader) -> None:
    loaded = space(
        "dimensions:\n"
        '  blocks: {path: "stages[0].up.length", choices: [1, 2]}\n'
        '  second: {path: "stages[0].up[1].layers", choices: [[], [ca]]}\n'
    )
    assert loaded.build({"blocks": 2, "second": ["ca"]})
    with pytest.raises(
        InvalidPointError, match=r"dimension 'second': \[1\] lies outside a list of 1"
    ):
        loaded.build({"blocks": 1, "second": ["ca"]})


def test_a_rule_about_what_the_point_lacks_is_an_invalid_point(space: Loader) -> None:
    loaded = space(
        'dimensions:\n  n: {path: stages.length, choices: [1, 2]}\nrules: ["stages[1].channels '
        '> 16"]\n'
    )
    assert loaded.build({"n": 2})
    with pytest.raises(InvalidPointError, match="list index out of range"):
        loaded.build({"n": 1})


def test_impossible_architectures_are_invalid_points_with_their_reason(space: Loader) -> None:
    loaded = space(
        'dimensions:\n  width: {path: "stages[1].channels", choices: [32, 40]}\n  h: '
        "{path: attention.heads, choices: [2, 16]}\n"
    )
    with pytest.raises(
        InvalidPointError,
        match=r"stages\[1\]\.channels 40 is not a multiple of its attention\.heads 16",
    ):
        loaded.build({"width": 40, "h": 16})
    assert loaded.build({"width": 40, "h": 2})


def test_drawing_gives_up_with_the_last_reason(space: Loader) -> None:
    loaded = space(
        'dimensions:\n  width: {path: "stages[1].channels", choices: [16, 32]}\nrules: '
        '["stages[1].channels > 64"]\n'
    )
    with pytest.raises(
        InputError, match=r"space 'space': none of 5 random points .*; the last: rule .* fails"
    ):
        loaded.draw_valid(random.Random(0), tries=5)


def test_rules_see_inherited_options(space: Loader) -> None:
    loaded = space(
        "dimensions:\n  kv: {path: attention.kv, choices: [separate, shared]}\n"
        "rules:\n  - stages[1].attention.kv == attention.kv\n  - stages[0].conv == 'full'\n"
        "  - attention.heads == 2\n  - time_width == 64\n"
    )
    assert {loaded.build({"kv": kv}).attention_of(1).kv for kv in ("separate", "shared")} == {
        "separate",
        "shared",
    }


def test_conditions_on_inactive_dimensions_fail(space: Loader) -> None:
    loaded = space(
        "dimensions:\n"
        "  a: {path: attention.kv, choices: [separate, shared]}\n"
        "  b: {path: attention.heads, choices: [1, 2], when: \"a == 'shared'\"}\n"
        '  c: {path: attention.normalizer, choices: [softmax, relu], when: "b > 1"}\n'
    )
    assert [list(point) for point in loaded.points()] == [
        ["a"],
        ["a", "b"],
        ["a", "b", "c"],
        ["a", "b", "c"],
    ]


# Locating


def test_a_networks_option_is_not_its_first_stages(space: Loader, tmp_path: Path) -> None:
    data = {
        "norm_groups": 8,
        "sample_size": 8,
        "stages": [
            {
                "channels": 16,
                "down": [{"layers": ["sa"]}],
                "up": [{}],
                "attention": {"kv": "shared"},
                "conv": "separable",
            }
        ],
    }
    path = tmp_path / "own.yaml"
    path.write_text(
        json.dumps(
            {
                "schema": 1,
                "base": data,
                "dimensions": {"kv": {"path": "attention.kv", "choices": ["shared", "separate"]}},
            }
        )
    )
    loaded = load_space(str(path))
    for kv in ("separate", "shared"):
        config = loaded.build({"kv": kv})
        found = loaded.locate(config)
        assert found is not None
        assert loaded.build(found) == config


def test_null_is_a_choice_of_its_own(space: Loader) -> None:
    loaded = space(
        'dimensions:\n  heads: {path: "stages[1].attention.heads", choices: [4, null]}\n'
    )
    assert loaded.locate(loaded.base) == {"heads": None}
    assert loaded.locate(loaded.build({"heads": 4})) == {"heads": 4}


def test_what_lies_outside_is_not_located(inner: Space) -> None:
    lite = preset("mobilediffusion-lite").to_dict()
    assert inner.locate(UNetConfig.model_validate(lite | {"context_tokens": 76})) is None
    assert (
        inner.locate(
            UNetConfig.model_validate(
                lite | {"feed_forward": {"expansion": 5, "activation": "silu"}}
            )
        )
        is None
    )
    narrow = inner.build({"middle_width": 640, "inner_width": 640})
    stages = narrow.to_dict()["stages"]
    stages[2]["channels"] = 512
    assert inner.locate(UNetConfig.model_validate(narrow.to_dict() | {"stages": stages})) is None, (
        "against the rule"
    )


# Conditions: evaluated without ``eval``, over plain data, refused by name

NAMES: dict[str, Any] = {
    "a": 1,
    "b": {"channels": 3},
    "list": [{"channels": 5}],
    "word": "full",
    "off": Inactive(),
}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a == 1", True),
        ("a > 1 or b.channels == 3", True),
        ("list[0].channels >= b.channels and word == 'full'", True),
        ("word in ['separable']", False),
        ("len(list) == 2", False),
        ("max(a, b.channels) + sum([1, 2]) - abs(-1) == 5", True),
        ("not a", False),
    ],
)
def test_conditions(expression: str, expected: bool) -> None:
    assert holds(expression, NAMES) is expected


@pytest.mark.parametrize(
    "comparison",
    [
        "off == 1",
        "off != 1",
        "off > 1",
        "off >= 1",
        "off < 1",
        "off <= 1",
        "1 < off",
        "off",
        "off in [1]",
    ],
)
def test_whatever_is_asked_of_an_inactive_dimension_is_false(comparison: str) -> None:
    assert holds(comparison, NAMES) is False
    assert holds(f"{comparison} or a == 1", NAMES) is True


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (
            "wrd == 'full'",
            r"'wrd == 'full'' cannot be evaluated: 'wrd' is not defined .* Did you mean 'word'\? "
            r"Known: a, b, list",
        ),
        ("list[0].chanels > 1", r"'chanels' does not exist .* Did you mean 'channels'\? Known: a"),
        ("list[1].channels > 1", r"cannot be evaluated: list index out of range"),
        ("word > 1", r"cannot be evaluated: '>' not supported"),
        ("1 / 0", r"cannot be evaluated: division by zero"),
        ("a ==", r"'a ==' cannot be read: invalid syntax"),
        ("a = 1", r"'a = 1' cannot be evaluated: it is not a condition; write e\.g\. a == b"),
        ("", r"cannot evaluate empty string"),
        ("open('/etc/passwd')", r"Function 'open' not defined"),
        ("word.__class__", r"not available"),
        ("9 ** 9 ** 9", r"cannot be evaluated: '9 \*\* 9 \*\* 9' is nothing that a condition"),
        ("[[0] * 10**5] * 10**5", r"'10\*\*5' is nothing that a condition may hold"),
        ("[[0] * 100000] * 100000", r"reckons with numbers up to 1e\+15, but got list"),
        ("'%999999999d' % 1", r"reckons with numbers up to 1e\+15, but got str"),
        ("'x' * 999999999", r"reckons with numbers up to 1e\+15, but got str"),
        ("f'{a:999999999}'", r"is nothing that a condition may hold"),
        ("[x for x in list]", r"is nothing that a condition may hold"),
        ("1 << 99999", r"'1 << 99999' is nothing that a condition may hold"),
        ("sum([list, list], list)", r"takes 1 positional argument"),
        ("1e300 * 1e300", r"reckons with numbers up to 1e\+15, but got 1e\+300"),
        ("word.zfill(999999999)", r"what may be called is len, min, max, sum, abs"),
        ("a == 1\na == 2", r"it is more than one condition; join them with and"),
        ("not " * 1000 + "a", r"it is longer than 1000 characters"),
        ("-" * 990 + "a", r"is nested too deeply"),
        ("(" * 400 + "a" + ")" * 400, r"cannot be read: too many nested parentheses"),
        ("a\0", r"cannot be"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(expression: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        holds(expression, NAMES)


# A dimension beside the architecture: like every other, but of no network

STEPS = (4, 8, 20)
SPACE = load_space(str(GOLDEN))
BESIDE = SPACE.beside("steps", STEPS)
seeds = st.integers(0, 10_000)


def without(point: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in point.items() if name != "steps"}


def test_it_is_the_last_dimension_and_is_counted() -> None:
    assert list(BESIDE.dimensions) == [*SPACE.dimensions, "steps"]
    assert BESIDE.dimensions["steps"].values == STEPS
    assert BESIDE.size == 3 * SPACE.size
    assert "steps" not in SPACE.dimensions, "the space itself stays as it was"


def test_every_point_of_the_space_is_there_with_every_choice() -> None:
    small = load_space("quickstart")
    keep = set(list(small.dimensions)[:3])
    file = small.file.model_copy(
        update={"dimensions": {k: d for k, d in small.dimensions.items() if k in keep}, "rules": ()}
    )
    few = Space("few", file, small.base)
    points = list(few.beside("steps", STEPS).points())
    assert points == [point | {"steps": steps} for point in few.points() for steps in STEPS]


@settings(max_examples=60)
@given(seeds)
def test_it_is_drawn_after_the_others_and_left_out_of_the_architecture(seed: int) -> None:
    point = BESIDE.draw(random.Random(seed))
    assert list(point)[-1] == "steps"
    assert point["steps"] in STEPS
    assert without(point) == SPACE.draw(random.Random(seed)), "the other draws stay as they were"


@settings(max_examples=30)
@given(seeds)
def test_a_valid_point_builds_the_network_of_the_others(seed: int) -> None:
    point, config = BESIDE.draw_valid(random.Random(seed))
    assert config == SPACE.build(without(point))
    assert all(BESIDE.build(point | {"steps": steps}) == config for steps in STEPS)
    assert BESIDE.locate(config) == SPACE.locate(config)


@settings(max_examples=30)
@given(seeds)
def test_its_other_choices_are_neighbours(seed: int) -> None:
    point = BESIDE.draw(random.Random(seed))
    found = list(BESIDE.neighbours(point))
    others = [steps for steps in STEPS if steps != point["steps"]]
    assert [each for each in found if without(each) == without(point)] == [
        point | {"steps": steps} for steps in others
    ]
    rest = found[: -len(others)]
    assert [without(each) for each in rest] == list(SPACE.neighbours(without(point)))
    assert {each["steps"] for each in rest} == {point["steps"]}


def test_every_choice_is_drawn_and_is_its_own_label() -> None:
    rng = random.Random(0)
    assert {BESIDE.draw(rng)["steps"] for _ in range(100)} == set(STEPS)
    assert [label(value) for value in BESIDE.dimensions["steps"].values] == list(STEPS)


def test_a_name_that_the_space_has_is_refused() -> None:
    taken = next(iter(SPACE.dimensions))
    with pytest.raises(InputError) as caught:
        SPACE.beside(taken, STEPS)
    assert str(caught.value) == (
        f"dimensions: '{taken}' is the name of the study's own; choose another."
    )
    with pytest.raises(InputError, match="'steps' is the name of the study's own"):
        BESIDE.beside("steps", STEPS)


def test_architectures_are_drawn_by_seed() -> None:
    drawn = SPACE.sample(20, seed=4)
    assert len(drawn) == 20
    assert drawn == SPACE.sample(20, seed=4) != SPACE.sample(20, seed=5)
    assert all(SPACE.locate(network) is not None for network in drawn)


@pytest.mark.parametrize("name", SHIPPED)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_a_point_is_told_by_its_labels(name: str, seed: int) -> None:
    space = load_space_once(name)
    point = space.draw(random.Random(seed))
    labels = {dimension: label(value) for dimension, value in point.items()}
    assert space.labelled(labels) == point
    assert space.labelled(json.loads(json.dumps(labels))) == point
    # Labels of dimensions that are not active there change nothing.
    every = {key: label(dimension.values[0]) for key, dimension in space.dimensions.items()}
    assert space.labelled(every | labels) == point


def test_labels_that_are_not_of_the_space_are_refused(inner: Space) -> None:
    labels = {name: label(each.values[0]) for name, each in inner.dimensions.items()}
    first = next(iter(labels))
    with pytest.raises(InputError, match=f"'{first}' has no value. Allowed are: "):
        inner.labelled({name: value for name, value in labels.items() if name != first})
    with pytest.raises(InputError, match=f"'{first}' must be one of .*, but got \\[1\\]"):
        inner.labelled(labels | {first: [1]})
    with pytest.raises(InputError, match=f"'{first}_' is no dimension of the space. Did you mean"):
        inner.labelled(labels | {f"{first}_": 1})


def test_true_is_not_one(space: Callable[[str], Space]) -> None:
    loaded = space('dimensions:\n  length: {path: "stages[0].up.length", choices: [1, 2]}\n')
    assert loaded.labelled({"length": 1}) == {"length": 1}
    with pytest.raises(InputError, match="but got true"):
        loaded.labelled({"length": True})


def test_a_range_has_an_end(space: Loader) -> None:
    with pytest.raises(InputError, match=r"range \[1, 999999999\] has more than 10,000 values"):
        space("dimensions:\n  n: {path: time_width, range: [1, 999999999]}\n")
