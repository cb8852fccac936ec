"""Parts of the pipeline: what they are is counted; that they convert is compared."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from archsearch.errors import InputError
from archsearch.latency.parts import PARTS, Part, get_part
from archsearch.latency.workload import from_data, to_data
from archsearch.runtimes.onnx import export_onnx, input_names, open_session

SD_AUTOENCODER = 83_653_863
"""Parameters of Stable Diffusion 1's whole autoencoder, as published (and 123,060,480 of its text
encoder): the component table in "Stable Diffusion parameter budget allocation", forums.fast.ai
topic 101515."""


@pytest.mark.parametrize("name", sorted(PARTS))
def test_has_the_published_size(name: str) -> None:
    with torch.device("meta"):
        module = PARTS[name].module()
    assert sum(parameter.numel() for parameter in module.parameters()) == PARTS[name].params


def test_the_decoder_is_a_part_of_the_published_autoencoder() -> None:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        whole = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
    parts = {
        name: sum(p.numel() for p in child.parameters()) for name, child in whole.named_children()
    }
    assert sum(parts.values()) == SD_AUTOENCODER
    assert parts["decoder"] + parts["post_quant_conv"] == PARTS["sd-vae-decoder"].params


def test_builds_repeatably_and_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    (first, inputs), (second, again) = (
        Part("taesd-decoder").build(3),
        Part("taesd-decoder").build(3),
    )
    (other, _) = Part("taesd-decoder").build(4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(inputs[0], again[0])
    assert not first.training
    states = [module.state_dict() for module in (first, second, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])
    with torch.inference_mode():
        small = first(inputs[0][..., :8, :8])
    assert small.shape == (1, 3, 64, 64)
    assert small.isfinite().all()


def test_is_named_known_and_plain_data() -> None:
    part = get_part("clip-vit-l-14-text")
    assert [spec.role for spec in PARTS.values()] == ["text_encoder", "decoder", "decoder"]
    assert from_data(to_data(part)) == part
    assert len({part, Part(part.name), Part("taesd-decoder")}) == 2
    with pytest.raises(
        InputError,
        match=r"part: 'taesd' is unknown; allowed are clip-vit-l-14-text, .* Did you mean "
        r"'taesd-decoder'",
    ):
        get_part("taesd")
    with pytest.raises(InputError, match="unknown"):
        from_data({"part": {"name": "nothing"}})


@pytest.mark.parametrize(
    ("name", "package"), [("clip-vit-l-14-text", "transformers"), ("sd-vae-decoder", "diffusers")]
)
def test_without_its_library_it_says_which(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for loaded in [module for module in sys.modules if module.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        InputError,
        match=f"{name}: needs {package}, which is not installed here. .*pip install {package}",
    ):
        Part(name).build()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip-vit-l-14-text", "taesd-decoder"])
def test_onnx_computes_the_same(name: str, tmp_path: Path) -> None:
    module, inputs = Part(name).build()
    export_onnx(module, inputs, tmp_path / "part.onnx", input_names(1), ["output"])
    session = open_session(tmp_path / "part.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: inputs[0].numpy()})
    with torch.inference_mode():
        wanted = module(*inputs).numpy()
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=1e-4 * float(np.abs(wanted).max()))


@pytest.mark.slow
def test_the_text_encoder_looks_back_only() -> None:
    module, (tokens,) = Part("clip-vit-l-14-text").build()
    changed = tokens.clone()
    changed[0, 40] = 7
    with torch.inference_mode():
        before, after = module(tokens), module(changed)
    torch.testing.assert_close(before[:, :40], after[:, :40])
    assert not torch.allclose(before[:, 40:], after[:, 40:])
