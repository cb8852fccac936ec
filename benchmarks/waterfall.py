"""What each step of a recipe costs in quality: trained weights are taken from network to network.

The network that the recipe begins with is trained from scratch at a study's proxy scale. Then each
step is applied to the weights that the step before left, and the edited network is finetuned. Two
differences of the held-out loss come of each step, on the same held-out pictures, times and noises:

- right after the edit, against the network before it, nothing trained in between;
- after the finetune, against the network before it trained on unedited for as long, on the same
  pictures in the same order with the same noises. A short finetune lowers the loss of every network
  that is not trained to its end; that gain is no merit of the edit.

The whole walk is repeated with other seeds. Intervals are of 95 %. Right after the edit they say
what other held-out pictures would change; after the finetune also what other seeds would, by the
spread between walks, which is taken as one for all steps. What other seeds of the first training
would change is in neither.

Whatever is done is kept in the output folder: the same command goes on, and more walks can be added.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from torch import Tensor

import archsearch
from archsearch import catalog
from archsearch.cost.price import price
from archsearch.data.prepare import Prepared, prepare
from archsearch.diffusion.evaluate import held_out
from archsearch.diffusion.recipe import memory_format, pick_device, settled
from archsearch.diffusion.spec import CHECKPOINT, Recipe
from archsearch.diffusion.trained import begin
from archsearch.diffusion.trainer import Trainer
from archsearch.edit.inherit import inherit
from archsearch.edit.recipe import apply_recipe, load_recipe
from archsearch.files import write_bytes, write_json, write_text
from archsearch.study.setting import load_setting
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet

LOOKS, WEIGHTS = "looks.json", "weights.safetensors"


@dataclass(frozen=True)
class Work:
    """What all trainings share."""

    data: Prepared
    recipe: Recipe
    device: torch.device
    samples: int
    """Pictures of a finetune."""


def train(
    work: Work,
    network: UNetConfig,
    state: dict[str, Tensor] | None,
    seed: int,
    looks: Sequence[int],
    folder: Path,
) -> dict[str, Tensor]:
    """Train, and look at the held-out losses after each number of pictures in ``looks``.

    Returns the weights after ``work.samples`` pictures; a later call reads what is there.
    """
    known: dict[str, Any] = (
        json.loads((folder / LOOKS).read_text()) if (folder / LOOKS).is_file() else {}
    )
    trainer: Trainer | None = None
    for look in looks:
        if str(look) in known:
            continue
        found: dict[str, Any] = {}
        if look == 0:
            assert state is not None
            model = UNet(network)
            model.load_state_dict(state)
            layout = memory_format(work.device, work.recipe.channels_last)
            model = model.eval().to(work.device, memory_format=layout)
        else:
            if trainer is None:
                folder.mkdir(parents=True, exist_ok=True)
                recipe = work.recipe.model_copy(update={"samples": work.samples})
                trainer = Trainer(
                    network, work.data, recipe, seed, work.device, folder, initial=state
                )
            began, seen = time.process_time(), trainer.samples
            trainer.run(look)
            if trainer.samples > seen:
                spent = time.process_time() - began
                found["train_ms"] = round(1e3 * spent / (trainer.samples - seen), 2)
            model = trainer.averaged()
        scored = held_out(model, work.data, work.recipe, work.device)
        found |= {"loss": scored.loss, "losses": scored.losses, "pictures": scored.pictures}
        if look == work.samples:
            tensors = {name: each.contiguous().cpu() for name, each in model.state_dict().items()}
            write_bytes(folder / WEIGHTS, safetensors.torch.save(tensors))
        known[str(look)] = found  # after the weights: what was looked at is kept
        write_json(folder / LOOKS, known)
        print(
            json.dumps({"folder": str(folder), "pictures": look, "loss": scored.loss}), flush=True
        )
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return safetensors.torch.load_file(folder / WEIGHTS)


@dataclass(frozen=True)
class Network:
    """A network of the recipe, and its proxy."""

    step: str
    config: UNetConfig
    proxy: UNetConfig


def walk(
    work: Work,
    networks: Sequence[Network],
    state: dict[str, Tensor],
    number: int,
    looks: dict[str, Sequence[int]],
    folder: Path,
) -> Iterator[None]:
    """One walk down the recipe; stops after each step to have it written down."""
    before = networks[0].proxy
    for index, network in enumerate(networks[1:], 1):
        if network.proxy.digest == before.digest:  # a step that the proxy cannot see
            continue
        own = looks.get(network.step, (0, work.samples))
        seed = 100 * number + index
        edited = inherit(before, state, network.proxy, seed)
        train(work, before, state, seed, own, folder / str(index) / "unedited")
        state = train(work, network.proxy, edited, seed, own, folder / str(index) / "edited")
        before = network.proxy
        yield


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--start", default="sd15")
    parser.add_argument("--recipe", default="mobilediffusion")
    parser.add_argument("--study", default="emoji", help="proxy scale, data, recipe of training")
    parser.add_argument("--table", default="cpu-onnxruntime-fp32")
    parser.add_argument(
        "--samples", type=int, default=12_000, help="pictures of the first training"
    )
    parser.add_argument("--finetune", type=int, default=2_000, help="pictures after each step")
    parser.add_argument("--curve", default="ReLU attention", help="step that is followed closely")
    parser.add_argument("--curve-samples", type=int, default=4_000)
    parser.add_argument("--draws", type=int, default=1024, help="of the held-out loss")
    parser.add_argument("--walks", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True, help="kept between calls")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = {k: v for k, v in vars(arguments).items() if k not in ("walks", "output", "table")}
    begin(arguments.output, "waterfall.json", {"schema": 1, **settings})

    setting, device = load_setting(catalog.find("study", arguments.study)), pick_device()
    changes = {"init": "scratch", "parent": None, "draws": arguments.draws}
    recipe = settled(setting.spec.proxy.recipe.model_copy(update=changes), device)
    path = catalog.find("recipe", arguments.recipe)
    networks = [
        Network(each.step, each.config, setting.proxy(each.config))
        for each in apply_recipe(archsearch.arch(arguments.start), load_recipe(path), path)
    ]
    data = prepare(setting.spec.data, setting.spec.proxy.latent)
    first = Work(data, recipe, device, arguments.samples)
    state = train(
        first, networks[0].proxy, None, 0, [arguments.samples], arguments.output / "start"
    )
    # The optimizer begins anew with each finetune: it takes its first steps on trained weights.
    gently = recipe.model_copy(update={"warmup": 0.2})
    work = Work(data, gently, device, arguments.finetune)
    looks = {
        arguments.curve: curve_looks(arguments.finetune, arguments.curve_samples, recipe.batch)
    }
    for number in range(1, arguments.walks + 1):
        for _ in walk(work, networks, state, number, looks, arguments.output / f"walk-{number}"):
            pass


def curve_looks(finetune: int, end: int, batch: int) -> list[int]:
    """Numbers of pictures at which a step is followed closely: close at first."""
    between = [finetune * share for share in (0, 0.04, 0.08, 0.16, 0.32, 0.64)]
    whole = {batch * round(each / batch) for each in (*between, (finetune + end) / 2)}
    return sorted({*whole, finetune, end})


if __name__ == "__main__":
    main()
