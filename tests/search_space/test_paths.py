"""The grammar of paths, what they refuse, and that what is assigned is found again."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsearch.errors import InputError
from archsearch.search_space import paths
from archsearch.unet.config import UNetConfig
from tests.strategies import configs

BLOCK = {"transformers": 1, "layers": ["sa", "ca", "ff"]}
CONFIG = UNetConfig.model_validate(
    {
        "sample_size": 16,
        "norm_groups": 8,
        "stages": [
            {"channels": 16, "down": [{}], "up": [{}, {}]},
            {"channels": 32, "down": [BLOCK, BLOCK], "up": [BLOCK]},
        ],
    }
)


def tree() -> dict[str, Any]:
    return paths.open_form(CONFIG)


def assigned(path: str, value: Any) -> UNetConfig:
    data = tree()
    paths.assign(data, paths.parse(path), value)
    return UNetConfig.model_validate(data)


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        ("sample_size", ("sample_size",)),
        ("attention.kv", ("attention", "kv")),
        ("stages[2].channels", ("stages", 2, "channels")),
        ("stages[*].channels", ("stages", paths.EVERY, "channels")),
        ("stages.channels", ("stages", "channels")),
        ("stages[1].*.layers", ("stages", 1, "*", "layers")),
        ("stages[0].down[*].transformers", ("stages", 0, "down", paths.EVERY, "transformers")),
        ("stages[0].up[12].layers", ("stages", 0, "up", 12, "layers")),
        ("stages[0].down.length", ("stages", 0, "down", "length")),
        ("stages.length", ("stages", "length")),
        ("middle.length", ("middle", "length")),
        ("middle[0].layers", ("middle", 0, "layers")),
        ("stages[1].feed_forward.expansion", ("stages", 1, "feed_forward", "expansion")),
    ],
)
def test_paths_are_split_into_segments(path: str, segments: tuple[paths.Segment, ...]) -> None:
    assert paths.parse(path) == segments


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            "stages[2].chanels",
            "path 'stages[2].chanels': 'chanels' is not a part of it. Did you mean 'channels'? "
            "Allowed",
        ),
        (
            "atention.kv",
            "path 'atention.kv': 'atention' is not a part of it. Did you mean 'attention'? "
            "Allowed here: in_channels",
        ),
        (
            "attention.head",
            "path 'attention.head': 'head' is not a part of it. Did you mean 'heads'? Allowed "
            "here: kv, normalizer",
        ),
        (
            "stages[0].down[0].layer",
            "path 'stages[0].down[0].layer': 'layer' is not a part of it. Did you mean 'layers'?",
        ),
        (
            "stages[0].channels.more",
            "path 'stages[0].channels.more': 'more' is not a part of it. Allowed here: nothing",
        ),
        ("schema_version", "path 'schema_version': 'schema_version' is not a part of it."),
        ("length", "path 'length': 'length' is not a part of it."),
        ("stages[0].length", "path 'stages[0].length': 'length' is not a part of it."),
        ("attention[0].kv", "path 'attention[0].kv': [0] follows something that is not a list"),
        (
            "stages[0][1].channels",
            "path 'stages[0][1].channels': [1] follows something that is not a list",
        ),
        (
            "stages[0].*.length[0]",
            "path 'stages[0].*.length[0]': [0] follows something that is not a list",
        ),
        (
            "stages[0]",
            "path 'stages[0]' ends at a group; go on to one of: channels, flat, down, up, conv, "
            "projection",
        ),
        (
            "stages[0].down",
            "path 'stages[0].down' ends at a group; go on to one of: length, transformers, layers",
        ),
        (
            "stages[0].down[0]",
            "path 'stages[0].down[0]' ends at a group; go on to one of: transformers, layers",
        ),
        (
            "attention",
            "path 'attention' ends at a group; go on to one of: kv, normalizer, heads, head_dim",
        ),
        ("added", "path 'added' ends at a group; go on to one of: text_dim, ids, id_dim"),
        ("", "path '' ends at a group; go on to one of: in_channels"),
        (
            "stages[-1].channels",
            "path 'stages[-1].channels' cannot be read at '[-1].channels'; write e.g. stages[2].",
        ),
        ("stages[0]..channels", "path 'stages[0]..channels' cannot be read at '..channels'"),
        ("stages[0].channels ", "path 'stages[0].channels ' cannot be read at ' '"),
    ],
)
def test_paths_that_lead_nowhere_are_refused_with_the_nearest_name(
    path: str, expected: str
) -> None:
    with pytest.raises(InputError) as caught:
        paths.parse(path)
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("stages[1].channels", [32]),
        ("stages.channels", [16, 32]),
        ("stages[*].channels", [16, 32]),
        ("stages[1].down[*].transformers", [1, 1]),
        ("stages[1].*.transformers", [1, 1, 1]),
        ("stages[1].down[1].layers", [["sa", "ca", "ff"]]),
        ("stages[0].down.length", [1]),
        ("stages[*].*.length", [1, 2, 2, 1]),
        ("stages.length", [2]),
        ("middle.length", [0]),
        ("middle[*].layers", []),
        ("attention.kv", [None]),
        ("stages[0].up[*].layers", [None, None]),
    ],
)
def test_lookup_finds_every_place_that_is_meant(path: str, found: list[Any]) -> None:
    assert paths.lookup(tree(), paths.parse(path)) == found


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sample_size", 32),
        ("time_width", 96),
        ("conv", "separable"),
        ("attention.normalizer", "relu"),
        ("feed_forward.expansion", 4),
        ("stages[*].channels", 24),
        ("stages[1].conv", "separable"),
        ("stages[1].attention.head_dim", 8),
        ("stages[1].*.layers", ["ca"]),
        ("stages[1].down[*].transformers", 3),
        ("stages[1].up.length", 3),
        ("stages[*].*.length", 2),
        ("stages.length", 3),
        ("middle.length", 2),
    ],
)
def test_what_is_assigned_is_found_again(path: str, value: Any) -> None:
    data, segments = tree(), paths.parse(path)
    paths.assign(data, segments, value)
    found = paths.lookup(data, segments)
    assert found
    assert all(item == value for item in found)
    rebuilt = paths.lookup(paths.open_form(UNetConfig.model_validate(data)), segments)
    assert rebuilt == found, "and the architecture keeps it"


@given(configs, st.sampled_from([8, 16, 40]))
def test_assigning_touches_nothing_else(config: UNetConfig, channels: int) -> None:
    data, segments = paths.open_form(config), paths.parse("stages[0].channels")
    before = paths.lookup(data, segments)[0]
    paths.assign(data, segments, channels)
    paths.assign(data, segments, before)
    assert UNetConfig.model_validate(data) == config


def test_a_longer_list_repeats_its_last_element_and_a_shorter_one_loses_it() -> None:
    longer = assigned("stages[1].up.length", 3).stages[1].up
    assert longer == (CONFIG.stages[1].up[0],) * 3
    assert assigned("stages[1].down.length", 1).stages[1].down == CONFIG.stages[1].down[:1]
    assert [stage.channels for stage in assigned("stages.length", 3).stages] == [16, 32, 32]
    assert len(assigned("middle.length", 2).middle) == 2


@pytest.mark.parametrize(
    "path", ["stages[2].down[*].transformers", "stages[2].down.length", "stages[2].channels"]
)
def test_repeated_elements_do_not_hang_together(path: str) -> None:
    data = tree()
    paths.assign(data, paths.parse("stages.length"), 3)
    before = UNetConfig.model_validate(data).stages[1]
    paths.assign(data, paths.parse(path), 8 if path.endswith("channels") else 3)
    config = UNetConfig.model_validate(data)
    assert config.stages[1] == before
    assert config.stages[2] != before


@pytest.mark.parametrize(
    "path", ["stages[2].channels", "stages[1].down[2].layers", "middle[0].layers"]
)
def test_an_index_outside_its_list_is_refused(path: str) -> None:
    with pytest.raises(InputError, match=r"\[\d\] lies outside a list of \d"):
        paths.assign(tree(), paths.parse(path), 1)
    with pytest.raises(InputError, match=r"\[\d\] lies outside a list of \d"):
        paths.lookup(tree(), paths.parse(path))


@pytest.mark.parametrize("value", ["two", 1.5, -1, True, [1], None])
def test_a_length_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="length must be a whole number from 0 to 16, but got"):
        paths.assign(tree(), paths.parse("middle.length"), value)


@given(configs)
def test_the_open_form_is_the_same_architecture(config: UNetConfig) -> None:
    assert UNetConfig.model_validate(paths.open_form(config)) == config


def test_a_flat_stage_is_an_option_that_differs() -> None:
    data = CONFIG.to_dict()
    data["stages"][1]["flat"] = True
    flat = UNetConfig.model_validate(data)
    assert paths.option_differences(CONFIG, flat) == {"stages[1].flat": (False, True)}
