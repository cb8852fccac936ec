"""Drawing with a trained network: its own steps, adapters, a picture that it is to heed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from archsearch.adapters.control import Controlled, edges, masked
from archsearch.adapters.training import Adapter, load_adapter
from archsearch.data.latent import latent_space
from archsearch.diffusion.recipe import pick_device
from archsearch.diffusion.sample import context_of, sample_under, sampling_for
from archsearch.diffusion.trained import load_trained
from archsearch.errors import InputError
from archsearch.unet.model import UNet


def generate(
    folder: str | Path,
    prompts: Sequence[str],
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    adapters: Sequence[str | Path] = (),
    picture: str | Path | None = None,
    mask: str | Path | None = None,
) -> Tensor:
    """Draw pictures with a trained network: (N, 3, H, W), one a prompt, as bytes.

    Args:
        folder: What ``Study.train`` or ``distill`` made.
        prompts: What to draw.
        steps: DDIM steps; by default as its study says, or as many as it was distilled to.
        guidance: Classifier-free guidance; by default as its study says; 1 is none.
        seed: Of the noise.
        adapters: Files or folders of adapters: any number of LoRAs, and one of control or
            inpainting.
        picture: For control, the picture whose edges are to be kept; for inpainting, the one of
            which a part is drawn anew.
        mask: For inpainting, a picture that is white there.

    Raises:
        InputError: The folder holds no trained network, or one that was distilled to other steps;
            an adapter is another network's, or lacks its picture; a picture has another size.
    """
    device = pick_device()
    trained = load_trained(Path(folder), device)
    conditions, size = trained.conditions, trained.model.config.sample_size
    latent = latent_space(conditions.latent)
    sampling = sampling_for(conditions, steps, guidance)
    model: UNet | Controlled = trained.model
    loaded = [load_adapter(Path(each)) for each in adapters]
    controls = [each for each in loaded if each.about.method != "lora"]
    condition, known = _condition(controls, picture, mask, size * latent.factor)
    for adapter in sorted(loaded, key=lambda each: each in controls):  # what wraps it comes last
        assert isinstance(model, UNet)
        model = adapter.on(model, latent)

    def see(part: slice) -> None:
        if isinstance(model, Controlled) and condition is not None:
            count = len(range(len(prompts))[part])
            model.see(condition.to(device).expand(count, -1, -1, -1))

    context = context_of(prompts, conditions)
    drawn = sample_under(model, conditions, context, sampling, seed, device, see)
    if known is None:
        return drawn
    image, covered = known  # the picture stays as it is where it is not drawn anew
    return torch.where(covered.bool(), drawn, image)


def _condition(
    controls: list[Adapter], picture: str | Path | None, mask: str | Path | None, size: int
) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
    # What an adapter is to heed, and, for inpainting, the picture and its mask.
    if len(controls) > 1:
        raise InputError(
            f"--adapter: {' and '.join(str(each.path) for each in controls)} both heed a picture; "
            "give one of them."
        )
    method = controls[0].about.method if controls else None
    wanted = {"control": {"picture"}, "inpaint": {"picture", "mask"}}.get(method or "", set())
    given = {"picture": picture, "mask": mask}
    for name, path in given.items():
        if path is None and name in wanted:
            raise InputError(f"--{name}: is missing; the adapter {controls[0].path} needs it.")
        if path is not None and name not in wanted:
            of = f"adapters of {method} take none" if method else "no adapter that takes one is"
            raise InputError(f"--{name}: {path} is given, but {of}{'' if method else ' given'}.")
    if picture is None:
        return None, None
    image = _read(Path(picture), "picture", size)
    if mask is None:
        return edges(image), None
    covered = (_read(Path(mask), "mask", size).float().mean(1, keepdim=True) > 127).float()
    return masked(image, covered), (image, covered)


def _read(path: Path, option: str, size: int) -> Tensor:
    # A picture as bytes (1, 3, size, size).
    try:
        with Image.open(path) as opened:
            found = opened.size
            if found == (size, size):
                pixels = np.array(opened.convert("RGB"))
                return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"--{option}: {path}: cannot be read as a picture: {error}.") from error
    raise InputError(
        f"--{option}: {path} is {found[0]} × {found[1]} pixels, but the network draws "
        f"{size} × {size}."
    )
