"""Adapters: what they compute, what their files hold, and where they are loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.adapter import T2IAdapter
from torch import nn

from archsearch.adapters.control import Controlled, boxes, edges, encoder_for, masked
from archsearch.adapters.lora import lora_state, merged, targets, with_lora
from archsearch.adapters.training import (
    About,
    Adapting,
    base_of,
    check_adaptable,
    load_adapter,
    save_adapter,
)
from archsearch.data.latent import BUILT_IN, PIXELS
from archsearch.diffusion.distill import with_guidance
from archsearch.diffusion.trained import Conditions, Trained
from archsearch.errors import InputError
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, example_inputs

BLOCK = {"layers": ["sa", "ca", "ff"]}
NETWORK: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "sample_size": 8,
    "norm_groups": 8,
    "context_dim": 4,
    "context_tokens": 2,
    "attention": {"heads": 2},
    "stages": [
        {"channels": 16, "down": [{}], "up": [{}], "conv": "separable"},
        {"channels": 24, "down": [{}, BLOCK], "up": [BLOCK]},
    ],
}
PLAIN = Conditions(text="minilm", tokens=2, latent="pixels", prediction="v")


def network(**changes: Any) -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig.model_validate(NETWORK | changes)).eval()


def folded() -> UNet:
    """The same network, with the guidance weight as distillation adds it."""
    plain = network()
    config, state = with_guidance(plain.config, plain.state_dict())
    wider = UNet(config).eval()
    wider.load_state_dict(state)
    return wider


# LoRA


def test_lora_adapts_attention_feed_forwards_projections_and_pointwise_convolutions() -> None:
    pytest.importorskip("peft")
    found = targets(network())
    attending = "stages.1.down.1.transformer"
    assert {f"{attending}.blocks.0.{layer}" for layer in ("0.to_q", "1.to_k", "2.expand")} <= {
        *found
    }
    assert {f"{attending}.proj_in", "stages.0.down.0.residual.conv1.1"} <= {*found}
    assert "stages.1.down.0.residual.shortcut" in found
    assert not [name for name in found if name.startswith("time") or name.endswith("time")]
    assert "stages.0.down.0.residual.conv1.0" not in found  # depthwise


def test_lora_changes_nothing_at_first_and_is_the_same_added_to_the_weights() -> None:
    pytest.importorskip("peft")
    plain, inputs = network(), example_inputs(network().config, 2)
    adapted = with_lora(network(), 4, seed=0)
    with torch.no_grad():
        torch.testing.assert_close(adapted(*inputs), plain(*inputs))
    trained = [name for name, each in adapted.named_parameters() if each.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    with torch.no_grad():
        for name, each in adapted.named_parameters():
            if "lora_B" in name:
                each.normal_(std=0.1)
        wanted = adapted(*inputs)
        assert (wanted - plain(*inputs)).abs().max() > 1e-2
        merged(plain, lora_state(adapted), "a.safetensors")
        torch.testing.assert_close(plain(*inputs), wanted, rtol=1e-4, atol=1e-5)


def test_a_lora_for_other_layers_is_refused() -> None:
    weights = {
        f"stages.1.down.1.transformer.proj_in.lora_{part}.weight": torch.zeros(shape)
        for part, shape in (("A", (2, 16)), ("B", (24, 2)))
    }
    with pytest.raises(InputError, match=r"a\.st: .*proj_in is of \(24, 16\) weights, but .* 24\)"):
        merged(network(), weights, "a.st")
    with pytest.raises(InputError, match=r"a\.st: is a LoRA for layers that the network has not"):
        merged(
            network(), {"stages.0.up.0.transformer.proj_in.lora_A.weight": torch.zeros(1)}, "a.st"
        )


def test_a_network_without_such_layers_takes_no_lora() -> None:
    pytest.importorskip("peft")
    stage = {"channels": 16, "down": [{}], "up": [{}]}
    bare = network(stages=[stage])
    bare.stages[0].up[0].residual.shortcut = nn.Identity()
    with pytest.raises(InputError, match="has neither transformer blocks nor pointwise"):
        with_lora(bare, 4, 0)


# Control and inpainting


def test_edges_are_where_a_picture_changes() -> None:
    picture = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    picture[:, 1, :, 4:] = 255
    found = edges(picture)
    assert found.shape == (1, 1, 8, 8)
    assert found[0, 0, 3].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    assert edges(picture.transpose(2, 3))[0, 0, :, 3].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    assert edges(torch.full_like(picture, 90)).sum() == 0


def test_masks_are_boxes_that_follow_from_the_noise() -> None:
    noise = torch.randn(200, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = boxes(noise, 16)
    assert torch.equal(found, boxes(noise, 16))
    assert found.shape == (200, 1, 16, 16)
    covered = found.flatten(1).mean(1)
    assert 0.04 < covered.min() < 0.15
    assert 0.4 < covered.max() < 0.65
    rows = found.amax(3).sum((1, 2))
    columns = found.amax(2).sum((1, 2))
    assert torch.equal(rows * columns, found.sum((1, 2, 3)))


def test_what_a_mask_covers_is_not_seen() -> None:
    images = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    found = masked(images, mask)
    assert torch.equal(found[:, :1], mask)
    assert found[:, 1:, :, :4].abs().max() == 0
    assert found[:, 1:, :, 4:].min() == 1


@pytest.mark.parametrize("factor", [1, 2])
def test_features_join_the_way_down_and_only_the_encoder_is_trained(factor: int) -> None:
    plain, inputs = network(), example_inputs(network().config, 2)
    controlled = Controlled(network(), encoder_for(plain.config, "inpaint", factor)).eval()
    with torch.no_grad():
        torch.testing.assert_close(controlled(*inputs), plain(*inputs))
    condition = torch.rand(2, 4, 8 * factor, 8 * factor)
    controlled.see(condition)
    output = controlled(*inputs)
    assert (output - plain(*inputs)).abs().max() > 1e-3
    with torch.no_grad():  # under guidance each picture comes twice
        twice = controlled(*(torch.cat([each, each]) for each in inputs))
        torch.testing.assert_close(twice, torch.cat([output, output]), rtol=1e-4, atol=1e-5)
    output.sum().backward()
    assert all(each.grad is None for each in controlled.network.parameters())
    assert all(each.grad is not None for each in controlled.encoder.parameters())
    with torch.no_grad():
        controlled.see(None)
        torch.testing.assert_close(controlled(*inputs), plain(*inputs))


# Files


def control(config: UNetConfig, path: Path) -> Path:
    torch.manual_seed(3)
    encoder = encoder_for(config, "control", 1)
    save_adapter(path, About(method="control", network=base_of(config)), encoder.state_dict())
    return path


def test_an_adapter_is_loaded_onto_what_was_distilled_from_its_network(tmp_path: Path) -> None:
    adapter = load_adapter(control(network().config, tmp_path / "a.safetensors"))
    for model in (network(), folded()):
        controlled = adapter.on(model, PIXELS)
        assert isinstance(controlled, Controlled)
        assert controlled.config == model.config
    ours, theirs = (load_adapter(tmp_path / "a.safetensors").tensors for _ in range(2))
    diffusers = T2IAdapter(in_channels=1, channels=[16, 24], num_res_blocks=1, downscale_factor=1)
    diffusers.load_state_dict(ours)
    assert theirs.keys() == diffusers.state_dict().keys()


def test_an_adapter_of_another_network_is_refused(tmp_path: Path) -> None:
    path = control(network(time_width=96).config, tmp_path / "a.safetensors")
    with pytest.raises(
        InputError, match=r"a\.safetensors: is an adapter for network \w+, but this"
    ):
        load_adapter(path).on(network(), PIXELS)
    told = load_adapter(control(network().config, tmp_path / "b.safetensors"))
    with pytest.raises(InputError, match="its weights are not those of the encoder it names"):
        told.on(network(), BUILT_IN["unshuffle"])


def test_files_that_are_no_adapters_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(InputError, match=r"text\.safetensors: cannot be read as an adapter"):
        load_adapter(tmp_path / "text.safetensors")
    with pytest.raises(InputError, match=r"adapter\.safetensors: cannot be read as an adapter"):
        load_adapter(tmp_path)


def test_a_distilled_network_is_not_adapted() -> None:
    for change in ({"steps": 8, "guidance": (1.0, 8.0)}, {"guidance": (1.0, 8.0)}):
        distilled = Trained(folded(), PLAIN.model_copy(update=change))
        with pytest.raises(InputError, match=r"--method lora: the network was distilled\. Train"):
            check_adaptable(distilled, "lora")
    check_adaptable(Trained(network(), PLAIN), "lora")


def test_the_loss_of_an_adapter_says_whose_it_is() -> None:
    names = {
        Adapting(method, PIXELS, weights, rank).__name__
        for method in ("lora", "control")
        for weights in ("a", "b")
        for rank in (4, 8)
    }
    assert names == {
        "lora of rank 4 for a",
        "lora of rank 8 for a",
        "lora of rank 4 for b",
        "lora of rank 8 for b",
        "control for a",
        "control for b",
    }
