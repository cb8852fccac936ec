"""DreamLite's UNet is read, written, counted and computed as diffusers' class does it."""

import inspect
import json
from typing import Any

import pytest
import torch
from diffusers import DreamLiteUNetModel

from archsearch import catalog
from archsearch.cost.price import price
from archsearch.errors import InputError
from archsearch.unet.config import UNetConfig
from archsearch.unet.diffusers import from_diffusers, to_diffusers
from archsearch.unet.diffusers_settings import FIXED, DreamLiteSettings
from archsearch.unet.diffusers_weights import (
    diffusers_names,
    from_diffusers_state,
    state_shapes,
    to_diffusers_state,
)
from archsearch.unet.model import UNet, example_inputs
from archsearch.unet.presets import preset

NAME = {"_class_name": "DreamLiteUNetModel"}
DEFAULTS: dict[str, Any] = {**NAME, "sample_size": 128}
SMALL: dict[str, Any] = {
    **NAME,
    "sample_size": 16,
    "block_out_channels": [16, 32, 64],
    "norm_num_groups": 8,
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
}
# Every setting of DreamLite's at another value than its default, and the aliases of its blocks.
OTHER: dict[str, Any] = {
    **SMALL,
    "down_block_types": [
        "DownBlock2D",
        "CrossAttnDownRemoveSelfAttnBlock2D",
        "CrossAttnDownBlock2D",
    ],
    "mid_block_type": None,
    "up_block_types": [
        "DreamLiteUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpRemoveSelfAttnBlock2DV1",
    ],
    "attention_head_dim": [2, 4, 8],
    "use_linear_projection": True,
    "layers_per_block": 1,
    "qk_norm": None,
    "use_sep_conv": False,
    "ff_mult": 3,
    "num_kv_heads": 2,
}


def test_every_setting_of_the_class_is_known_with_its_default() -> None:
    parameters = inspect.signature(DreamLiteUNetModel.__init__).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items() if name != "self"}
    assert set(defaults) == DreamLiteSettings.known()
    assert {name: defaults[name] for name in FIXED} == FIXED
    ours = json.loads(DreamLiteSettings().model_dump_json())
    assert {name: json.loads(json.dumps(defaults[name])) for name in ours} == ours


def test_the_defaults_of_the_class_are_counted_to_the_parameter_and_the_mac() -> None:
    config = from_diffusers(DEFAULTS)
    cost = price(config)
    with torch.device("meta"):
        theirs = DreamLiteUNetModel.from_config(DEFAULTS)
    assert cost.params == sum(each.numel() for each in theirs.parameters()) == 427_077_084
    assert cost.macs == 829_474_406_400  # at 128², of 77 tokens
    assert config == preset("dreamlite")


@pytest.mark.parametrize("data", [SMALL, OTHER], ids=["defaults", "other"])
def test_it_comes_back_as_it_was_written(data: dict[str, Any]) -> None:
    config = from_diffusers(data)
    written = json.loads(json.dumps(to_diffusers(config)))
    assert written["_class_name"] == "DreamLiteUNetModel"
    assert from_diffusers(written) == config


@pytest.mark.parametrize("data", [SMALL, OTHER], ids=["defaults", "other"])
def test_equal_weights_compute_the_same_both_ways(data: dict[str, Any]) -> None:
    torch.manual_seed(0)
    theirs = DreamLiteUNetModel.from_config(data).eval()
    for parameter in theirs.parameters():  # norms that are not all alike
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    config = from_diffusers(data, context_tokens=5)
    ours = UNet(config).eval()
    ours.load_state_dict(from_diffusers_state(config, theirs.state_dict()))
    back = DreamLiteUNetModel.from_config(to_diffusers(config)).eval()
    back.load_state_dict(to_diffusers_state(config, ours.state_dict()))
    inputs = example_inputs(config, batch=2)
    with torch.inference_mode():
        wanted = theirs(*inputs).sample
        assert (ours(*inputs) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
        assert torch.equal(back(*inputs).sample, wanted)


def test_every_tensor_of_the_preset_has_its_name_and_shape() -> None:
    config = preset("dreamlite")
    names = diffusers_names(config)
    with torch.device("meta"):
        theirs = DreamLiteUNetModel.from_config(DEFAULTS).state_dict()
    assert {names[name]: shape for name, shape in state_shapes(config).items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }


def test_a_file_of_it_is_an_architecture(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps(DEFAULTS))
    assert catalog.read_config(tmp_path / "config.json") == preset("dreamlite")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"down_block_types": ["DownBlock2D"] * 2 + ["UpBlock2D"]}, "down_block_types: .* allowed"),
        ({"mid_block_type": "UNetMidBlock2D"}, "mid_block_type: .* DreamLiteUNetMidBlock2DCross"),
        ({"ff_mult": 9}, "ff_mult: 9 .* allowed is a whole number from 1 to 8"),
        ({"num_kv_heads": 0}, "num_kv_heads: 0 cannot be expressed"),
        ({"num_kv_heads": 3}, r"kv_heads 3 does not divide its 4 heads"),
        ({"num_mid_layers": 2}, "num_mid_layers: 2 cannot be expressed"),
        ({"addition_embed_type": "time"}, "addition_embed_type: 'time' cannot be expressed"),
        ({"encoder_hid_dim_type": "text_proj_rms"}, "encoder_hid_dim_type: 'text_proj_rms' cannot"),
        (
            {"use_sepconv": True},
            r"use_sepconv: True is a setting that is not known\..*use_sep_conv",
        ),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_its_key(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        from_diffusers(SMALL | change)


def _with(**changes: Any) -> UNetConfig:
    tree = from_diffusers(SMALL).to_dict()
    tree["stages"][2] |= changes.pop("inner", {})
    return UNetConfig.model_validate(tree | changes)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (_with(inner={"conv": "full"}), "conv full and inverted: DreamLite has one value in all"),
        (_with(inner={"attention": {"kv_heads": 2}}), "attention.kv_heads 1 and 2: DreamLite has"),
        (_with(inner={"attention": {"qk_norm": "none"}}), "attention.qk_norm none and rms"),
        (_with(inner={"feed_forward": {"expansion": 6}}), "feed_forward.expansion 12 and 6"),
        (_with(attention={"kv": "shared", "heads": 4}), r"stages\[0\]\.attention\.kv shared"),
        (_with(middle=[{}]), "middle has no transformer blocks: DreamLite has them"),
    ],
)
def test_what_the_class_lacks_is_refused_by_path(config: UNetConfig, message: str) -> None:
    with pytest.raises(InputError, match=f"cannot be a diffusers DreamLiteUNetModel:\n.*{message}"):
        to_diffusers(config)


def test_a_plain_unet_with_one_head_of_keys_is_written_as_dreamlite() -> None:
    """The smaller class is taken where it can express the network, DreamLite's where not."""
    config = UNetConfig.model_validate(preset("sd15").to_dict() | {"attention": {"kv_heads": 1}})
    assert to_diffusers(preset("sd15"))["_class_name"] == "UNet2DConditionModel"
    assert to_diffusers(config)["_class_name"] == "DreamLiteUNetModel"
    assert from_diffusers(to_diffusers(config)) == config
