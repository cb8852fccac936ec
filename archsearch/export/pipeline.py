"""All that draws a picture from a prompt, in one folder: text encoder, UNet, decoder, how they are
sampled, and a script that needs neither archsearch nor torch.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from archsearch.data.latent import Autoencoder, Pixels, latent_space
from archsearch.data.text import MiniLM, TextEncoder, text_encoder
from archsearch.diffusion.recipe import make_scheduler
from archsearch.diffusion.sample import sample_under, sampling_for
from archsearch.diffusion.trained import Conditions
from archsearch.errors import InputError
from archsearch.export import make_picture
from archsearch.export.card import CARD, STAGES
from archsearch.export.onnx import (
    ONE_FILE_BYTES,
    Pictures,
    export_unet_onnx,
    export_unet_onnx_int8,
    save_described,
)
from archsearch.export.writing import (
    Exported,
    build,
    check_close,
    check_target,
    difference,
    written_aside,
)
from archsearch.files import in_utf8, write_json, write_text
from archsearch.runtimes.onnx import export_onnx, open_session
from archsearch.unet.config import UNetConfig

SETTINGS, TOKENIZER, SCRIPT = make_picture.SETTINGS, "tokenizer.json", "make_picture.py"
TEXT_ENCODER, UNET, DECODER = "text_encoder.onnx", "unet.onnx", "decoder.onnx"
_MODELS = (TEXT_ENCODER, UNET, DECODER)
FILES = (
    SCRIPT, SETTINGS, TOKENIZER, *_MODELS, *(f"{name}.data" for name in _MODELS), CARD, STAGES
)  # fmt: skip
# What both the script and archsearch draw, for comparison.
PROMPT, COMPARED_STEPS = "a red heart", 4


def export_pipeline(
    config: UNetConfig,
    path: Path,
    weights: Path | None = None,
    force: bool = False,
    conditions: Conditions | None = None,
    pictures: Pictures | None = None,
    int8: bool = False,
) -> Exported:
    """Write a folder that draws pictures with ONNX Runtime, numpy, Pillow and tokenizers.

    ``make_picture.py`` in it draws one from a prompt as ``archsearch generate`` does; whoever ports
    it to a phone finds its settings in ``sampling.json``: the options of diffusers' scheduler, the
    share of the picture at each time of the schedule (ᾱ), default and allowed steps and guidance.

    Args:
        config: The architecture.
        path: Folder to write.
        weights: A safetensors file of its trained state dict.
        force: Overwrite what is there; a folder only if it holds nothing else than these files.
        conditions: What the network was trained under.
        pictures: What an UNet in int8 is calibrated on.
        int8: Write the UNet in int8; text encoder and decoder stay in float32.

    Raises:
        InputError: ``weights`` or ``conditions`` are not given, or do not fit the network; the
            network takes an added embedding, which no data gives; ``path`` is there and ``force``
            is not given, or it holds something else.
        ArchsearchError: It cannot be written, or ONNX Runtime computes something else from a part
            than torch.
    """
    check_target(path, force, FILES)
    if weights is None or conditions is None:
        raise InputError(
            "a pipeline draws pictures, so it takes a trained network: give the folder that "
            "`archsearch train` or `archsearch distill` made, or a trial of a run with --proxy."
        )
    encoder, latent = text_encoder(conditions.text), latent_space(conditions.latent)
    _check_fits(config, conditions, encoder, latent.channels)
    with (
        written_aside(path) as outer,
        in_utf8(outer) as spelled,
        TemporaryDirectory(dir=spelled) as name,
    ):
        folder = Path(name)
        if int8:
            unet = export_unet_onnx_int8(config, folder / UNET, weights, pictures=pictures)
        else:
            unet = export_unet_onnx(config, folder / UNET, weights)
        facts = {f"{UNET}: {key}": fact for key, fact in unet.facts.items()}
        facts |= _write_text(encoder, conditions.tokens, folder)
        if isinstance(latent, Autoencoder):
            sample = torch.randn(1, latent.channels, *[config.sample_size] * 2)
            error = _write_part(latent.decoder, [sample], ["sample"], folder / DECODER)
            facts[DECODER] = (
                "from a sample to a picture in [-1, 1], the decoder of "
                f"`{latent.key['name']}`; its licence is that of the autoencoder you brought. "
                f"{error}"
            )
        write_json(folder / SETTINGS, sampling_settings(config, conditions))
        write_text(folder / SCRIPT, Path(make_picture.__file__).read_text("utf-8"))
        facts |= _compare(config, weights, conditions, folder, int8)
        (outer / path.name).mkdir()
        for part in folder.iterdir():
            part.rename(outer / path.name / part.name)
    return Exported(
        facts,
        "pip install numpy onnxruntime pillow tokenizers\n"
        f'python {SCRIPT} "{PROMPT}" --output heart.png\n',
        "bash",
        unet.operators,
    )


def sampling_settings(config: UNetConfig, conditions: Conditions) -> dict[str, Any]:
    """What ``sampling.json`` says: how the network is to be sampled, as ``archsearch generate``
    samples it.
    """
    scheduler, default = make_scheduler(conditions.prediction), sampling_for(conditions)
    if config.guidance_dim:
        how = "an input of the UNet"
    else:
        how = "two passes" if conditions.guidance is None else "in the weights"
    latent = latent_space(conditions.latent)
    steps = [conditions.steps] * 2 if conditions.steps else [1, len(scheduler.alphas_cumprod)]
    return {
        "schema": 1,
        "sampler": conditions.sampler,
        "steps": {"default": default.steps, "allowed": steps},
        "guidance": {
            "how": how,
            "default": default.guidance,
            "allowed": list(conditions.guidance or (1.0, 30.0)),
        },
        "pixels_a_side": latent.factor if isinstance(latent, Pixels) else None,
        "scheduler": {k: v for k, v in scheduler.config.items() if v is not None},
        "alphas_cumprod": scheduler.alphas_cumprod.tolist(),
    }


def _check_fits(
    config: UNetConfig, conditions: Conditions, encoder: TextEncoder, channels: int
) -> None:
    if config.added.text_dim is not None:
        raise InputError("pipeline: the network takes an added embedding, which no data gives.")
    found = {
        "channels of the sample": (config.in_channels, channels),
        "tokens of the context": (config.context_tokens, conditions.tokens),
        "width of the context": (config.context_dim, encoder.dim),
    }
    for what, (wanted, given) in found.items():
        if wanted != given:
            raise InputError(
                f"pipeline: {what}: the network takes {wanted}, but its text encoder and latent "
                f"space give {given}; give the network that was trained with them."
            )


class _States(nn.Module):
    # Token states (B, T, width) of ids and mask (B, T); padded positions are zero.
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states * mask[..., None]


def _write_text(encoder: TextEncoder, tokens: int, folder: Path) -> dict[str, str]:
    from tokenizers import Tokenizer

    tokenizer, model = encoder.loaded
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own.enable_truncation(tokens, direction=tokenizer.truncation_side)
    own.enable_padding(
        direction=tokenizer.padding_side,
        pad_id=tokenizer.pad_token_id,
        pad_token=tokenizer.pad_token,
        length=tokens,
    )
    own.save(str(folder / TOKENIZER), pretty=False)
    encoded = own.encode_batch([PROMPT, ""])
    ids, mask = (
        torch.tensor([getattr(each, name) for each in encoded])
        for name in ("ids", "attention_mask")
    )
    names = ["input_ids", "attention_mask"]
    error = _write_part(_States(model.cpu()), [ids, mask], names, folder / TEXT_ENCODER)
    licence = (
        "all-MiniLM-L6-v2 by the Sentence Transformers team; Apache License 2.0, "
        "<https://www.apache.org/licenses/LICENSE-2.0>"
        if isinstance(encoder, MiniLM)
        else f"{encoder.name}; its licence is that of the model you brought"
    )
    told = f"from ids of {tokens} tokens to as many states of width {encoder.dim}: {licence}. "
    return {
        TEXT_ENCODER: told + error,
        TOKENIZER: f"from a caption to ids, cut and padded to {tokens}, for the package tokenizers",
    }


def _write_part(module: nn.Module, inputs: Sequence[Tensor], names: list[str], path: Path) -> str:
    # A part as ONNX in float32, for any batch. Returns how far it is from torch, in words.
    size = sum(each.numel() * each.element_size() for each in module.parameters())
    with TemporaryDirectory(dir=path.parent) as parts, torch.inference_mode():
        exported = Path(parts) / path.name
        export_onnx(module, tuple(inputs), exported, names, ["output"], any_batch=True)
        data = f"{path.name}.data" if size >= ONE_FILE_BYTES else None
        save_described(exported, path, {}, data)
        wanted = module(*inputs).numpy()
    feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    (got,) = open_session(path).run(None, feed)
    error = difference(got, wanted)
    check_close(error, path, "ONNX Runtime")
    return f"Compared with torch: largest difference {error:.1e} of the largest output"


def _compare(
    config: UNetConfig, weights: Path, conditions: Conditions, folder: Path, int8: bool
) -> dict[str, str]:
    # One picture by the script that goes along, and by archsearch, from the same seed.
    steps = conditions.steps or COMPARED_STEPS
    sampling = sampling_for(conditions, steps)
    context = text_encoder(conditions.text).encode((PROMPT, ""), conditions.tokens)
    wanted = sample_under(
        build(config, weights), conditions, context, sampling, 0, torch.device("cpu")
    )
    drawn = make_picture.Pipeline(folder).draw(PROMPT, steps, sampling.guidance)
    got = np.asarray(drawn, dtype=np.int64).transpose(2, 0, 1)
    apart = np.abs(got - wanted[0].numpy())
    told = (
        f"values of pixels differ by {apart.mean():.1f} of 255 in the mean, {apart.max()} at most"
        if int8
        else f"no value of any pixel differs by more than {apart.max()} of 255"
    )
    return {
        "compared with archsearch": f"'{PROMPT}' in {steps} steps from seed 0, by {SCRIPT} and by "
        f"archsearch on the CPU in float32: {told}"
    }
