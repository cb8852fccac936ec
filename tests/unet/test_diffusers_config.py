"""A diffusers config.json is read as the network that diffusers builds from it, and written as one
that it builds the same from.
"""

import inspect
import json
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings

from archsearch.cost.price import price
from archsearch.errors import InputError
from archsearch.unet.diffusers import from_diffusers, to_diffusers
from archsearch.unet.diffusers_settings import FIXED, WITHOUT_EFFECT, Settings
from archsearch.unet.presets import preset
from tests.unet.published import PUBLISHED, SD15, SDXL, small_settings


def built(data: dict[str, Any]) -> dict[str, torch.Size]:
    """Shapes of the network that diffusers makes of ``data``, without its memory."""
    with torch.device("meta"):
        return {
            name: tensor.shape
            for name, tensor in UNet2DConditionModel.from_config(data).state_dict().items()
        }


def parameters(data: dict[str, Any]) -> int:
    return sum(shape.numel() for shape in built(data).values())


def test_every_setting_of_diffusers_is_known_with_its_default() -> None:
    parameters = inspect.signature(UNet2DConditionModel.__init__).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items() if name != "self"}
    assert set(defaults) == Settings.known()
    assert len(Settings.known()) == len(Settings.model_fields) + len(FIXED) + len(WITHOUT_EFFECT)
    assert {name: defaults[name] for name in FIXED} == FIXED
    ours = json.loads(Settings().model_dump_json())
    assert {name: json.loads(json.dumps(defaults[name])) for name in ours} == ours


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_the_parameters_that_are_published(name: str) -> None:
    data, params = PUBLISHED[name]
    config = from_diffusers(data)
    assert price(config).params == params == parameters(data)
    written = to_diffusers(config)
    assert from_diffusers(json.loads(json.dumps(written))) == config
    assert built(written) == built(data)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "bk-sdm-base"])
def test_published_files_are_the_presets(name: str) -> None:
    config = from_diffusers(
        PUBLISHED[name][0] | {"_class_name": "UNet2DConditionModel", "_name_or_path": "somewhere"}
    )
    assert config == preset(name)
    assert config.digest == preset(name).digest


@settings(max_examples=25)
@given(small_settings())
def test_what_is_read_is_what_diffusers_builds(data: dict[str, Any]) -> None:
    config = from_diffusers(data, context_tokens=5)
    assert price(config).params == parameters(data)
    written = json.loads(json.dumps(to_diffusers(config)))
    assert from_diffusers(written, context_tokens=5) == config
    assert built(written) == built(data)


def test_heads_are_read_in_the_form_that_is_the_same_for_all_stages() -> None:
    def attention(heads: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        config = from_diffusers(SD15 | {"attention_head_dim": heads})
        return config.attention.model_dump(exclude_none=True), [
            s.attention.model_dump(exclude_none=True) for s in config.stages
        ]

    assert attention(8) == ({}, [{}] * 4)
    assert attention([4, 4, 4, 4]) == attention(4) == ({"heads": 4}, [{}] * 4)
    assert attention([5, 10, 20, 20]) == ({"head_dim": 64}, [{}] * 4)
    assert attention([4, 8, 10, 10]) == ({}, [{"heads": 4}, {}, {"heads": 10}, {"heads": 10}])


@pytest.mark.parametrize(
    ("width", "id_dim", "text", "ids"),
    [
        (2816, 256, 1280, 6),
        (2560, 256, 1280, 5),
        (60, 8, 12, 6),
        (40, 8, 8, 4),
        (1280 + 65 * 2, 2, 1398, 6),
    ],
    ids=[
        "sdxl",
        "refiner",
        "six unless 1280 say otherwise",
        "as many as leave a text",
        "more than a config allows",
    ],
)
def test_time_ids_of_a_width(width: int, id_dim: int, text: int, ids: int) -> None:
    data = SDXL | {
        "addition_time_embed_dim": id_dim,
        "projection_class_embeddings_input_dim": width,
    }
    added = from_diffusers(data).added
    assert (added.text_dim, added.ids, added.id_dim) == (text, ids, id_dim)


@pytest.mark.parametrize("key", sorted(WITHOUT_EFFECT))
def test_settings_without_effect_are_accepted(key: str) -> None:
    values = {
        "cross_attention_norm": "layer_norm",
        "dropout": 0.1,
        "addition_embed_type_num_heads": 8,
        "resnet_out_scale_factor": 2.0,
    }
    value = values.get(key, True)
    assert from_diffusers(SD15 | {key: value}) == preset("sd15")
    assert built(SD15 | {key: value}) == built(SD15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"resnet_time_scale_shift": "scale_shift"},
            "resnet_time_scale_shift: 'scale_shift' cannot .* allowed is default",
        ),
        ({"class_embed_type": "timestep"}, r"class_embed_type: 'timestep' .* allowed is null"),
        ({"num_class_embeds": 10}, "num_class_embeds: 10"),
        (
            {"only_cross_attention": [True, True, True, False]},
            r"only_cross_attention: \[True.* allowed is false",
        ),
        ({"dual_cross_attention": True}, "dual_cross_attention: True"),
        ({"time_cond_proj_dim": 255}, "time_cond_proj_dim: 255 .* null or an even number from 4"),
        ({"num_attention_heads": 8}, "num_attention_heads: 8"),
        ({"act_fn": "gelu"}, "act_fn: 'gelu' .* allowed is silu"),
        ({"flip_sin_to_cos": False}, "flip_sin_to_cos: False .* allowed is true"),
        ({"norm_eps": 1e-6}, "norm_eps: 1e-06 .* allowed is 1e-05"),
        ({"conv_in_kernel": 5}, "conv_in_kernel: 5 .* allowed is 3"),
        ({"encoder_hid_dim": 4096}, "encoder_hid_dim: 4096"),
        (
            {"addition_embed_type": "text"},
            "addition_embed_type: 'text' .* allowed is null or text_time",
        ),
        (
            {"addition_embed_type": "text_time"},
            "projection_class_embeddings_input_dim: is not given; .*\naddition_time_embed_dim",
        ),
        (
            SDXL | {"projection_class_embeddings_input_dim": 256},
            "projection_class_embeddings_input_dim: 256 leaves no text",
        ),
        (
            {"down_block_types": ["AttnDownBlock2D"] * 4},
            "down_block_types: .* allowed is a list of CrossAttnDownBlock2D and",
        ),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "mid_block_type: .* or null"),
        ({"norm_num_groups": None}, "norm_num_groups: None"),
        ({"sample_size": None}, "sample_size: is not given"),
        ({"sample_size": [64, 96]}, r"sample_size: \[64, 96\] is not square"),
        ({"cross_attention_dim": [768, 768, 768, 1024]}, "cross_attention_dim: .* differ"),
        (
            {"layers_per_block": [2, 2]},
            "layers_per_block: has 2 items, but block_out_channels has 4 stages",
        ),
        ({"layers_per_block": "2"}, "layers_per_block: '2' cannot be expressed .* a whole number"),
        (
            {"attention_head_dim": 7},
            "attention_head_dim: 7 heads do not divide the 320 channels of stage 0",
        ),
        (
            {"transformer_layers_per_block": [0, 1, 1, 1]},
            r"transformer_layers_per_block\[0\]: 0 leaves projections around no",
        ),
        (
            {"transformer_layers_per_block": [[1], [1, 1], 1, 1]},
            r"reverse_.*: is not given; .*\n.*\[0\]: \[1\] is too short for 2",
        ),
        (
            {"reverse_transformer_layers_per_block": [1, 1, 1, 0]},
            r"reverse_transformer_layers_per_block\[3\]: 0 leaves",
        ),
        (
            {"block_out_channels": [324, 640, 1280, 1280], "attention_head_dim": 4},
            r"stages\.0\.channels: .*multiple of 8",
        ),
        ({"sample_size": 100}, "sample_size 100 does not halve evenly"),
        (
            {"atention_head_dim": 5},
            "atention_head_dim: 5 is a setting that is not known. Did "
            "you mean 'attention_head_dim'",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_expressed_is_refused_by_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_diffusers(SD15 | change)


def test_all_problems_are_named_and_what_means_nothing_is_not() -> None:
    with pytest.raises(InputError) as caught:
        from_diffusers(
            SD15 | {"act_fn": "mish", "freq_shift": 1, "layers_per_block": 0, "new_switch": 1}
        )
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "layers_per_block",
        "freq_shift",
        "act_fn",
        "new_switch",
    ]
    nothing = {
        "act_fn": "swish",
        "only_cross_attention": [False] * 4,
        "new_switch": False,
        "other": None,
        "_note": 1,
    }
    assert from_diffusers(SD15 | nothing) == preset("sd15")


def test_a_network_without_stages_is_refused() -> None:
    with pytest.raises(InputError, match="block_out_channels"):
        from_diffusers(
            {
                "block_out_channels": [],
                "down_block_types": [],
                "up_block_types": [],
                "sample_size": 64,
            }
        )


AVERAGE = {
    "decay": 0.9999,
    "inv_gamma": 1.0,
    "min_decay": 0.0,
    "optimization_step": 37_000,
    "power": 0.6667,
    "update_after_step": 0,
    "use_ema_warmup": False,
}
"""What EMAModel adds to the file of a network, as SDXL-inpainting ships it."""


def test_settings_of_the_moving_average_say_nothing_of_the_network() -> None:
    assert from_diffusers(SD15 | AVERAGE) == from_diffusers(SD15)
    assert price(from_diffusers(SD15 | AVERAGE)).params == 859_520_964
    with pytest.raises(InputError, match=r"^decays: 0\.9 is a setting that is not known"):
        from_diffusers(SD15 | AVERAGE | {"decays": 0.9})
