"""The network as a folder that diffusers' ``UNet2DConditionModel.from_pretrained`` loads."""

from pathlib import Path

from archsearch.export.target import check_folder, written_aside
from archsearch.export.weights import build
from archsearch.files import write_json
from archsearch.unet.config import UNetConfig
from archsearch.unet.diffusers_config import to_diffusers
from archsearch.unet.diffusers_weights import to_diffusers_state
from archsearch.unet.weights import save_weights

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
"""What diffusers calls them."""


def export_unet_diffusers(config: UNetConfig, path: Path, weights: Path | None = None, force: bool = False) -> None:
    """Write the network as ``config.json`` and float32 ``diffusion_pytorch_model.safetensors``.

    Args:
        config: The architecture.
        path: Folder to write.
        weights: A safetensors file of its state dict, under our names or diffusers'; None for random weights.
        force: Overwrite what is there; a folder only if it holds nothing else than these two files.

    Raises:
        InputError: diffusers' UNet cannot express ``config``, ``path`` is there and ``force`` is not given or it holds something
            else, or ``weights`` do not fit.
        ArchsearchError: It cannot be written.
    """
    check_folder(path, force, (CONFIG, WEIGHTS))
    data = to_diffusers(config)
    state = to_diffusers_state(config, build(config, weights).state_dict())
    with written_aside(path) as folder:
        save_weights(state, folder / path.name / WEIGHTS)
        write_json(folder / path.name / CONFIG, data)
