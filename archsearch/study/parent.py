"""A parent: one trained network, large enough for a whole space, that candidates inherit from.

A candidate's proxy is an edit of the parent's network (:mod:`archsearch.edit.inherit`): thinner,
shallower, with fewer or other layers. It starts from the weights that the edit leaves, so that it
draws recognisable pictures after a short finetune.
"""

import hashlib
import json
import random
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from archsearch.catalog import config_file, read_config
from archsearch.cost.price import price
from archsearch.diffusion.recipe import Draws, autocast, memory_format, target_of
from archsearch.diffusion.spec import Recipe
from archsearch.diffusion.trainer import digest_of
from archsearch.documents import parse_json
from archsearch.edit.inherit import inherit, missing_blocks
from archsearch.edit.maps import State
from archsearch.errors import InputError, located
from archsearch.files import check_regular, write_bytes
from archsearch.search_space.space import InvalidPointError, Point, Space
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, input_names
from archsearch.unet.plan import plan
from archsearch.unet.weights import load_weights, weights_file

SCHEMA = 1
NAMED = 6
"""Blocks that a parent lacks are named up to so many."""


@dataclass(frozen=True)
class Parent:
    """A trained parent.

    Attributes:
        config: Its network, at proxy scale.
        state: Its weights (the average over its training), fp32.
        about: How it was trained: study, data with their fingerprint and licences, recipe, way,
            pictures seen, held-out loss on the way, seconds, machine. Of a network that was not
            trained as a parent, nothing.
        digest: Of file and all, 16 hex digits: what scores that start from it depend on.
        path: The file, or the network's folder.
    """

    config: UNetConfig
    state: State
    about: dict[str, Any]
    digest: str
    path: Path

    def check_compares(self, network: UNetConfig) -> None:
        """Refuse to compare predictions of the parent with those of a candidate's proxy that takes
        or gives something else.

        Raises:
            InputError: They differ in channels, or the parent needs further inputs.
        """
        ours, theirs = (
            (input_names(each), each.in_channels, each.out_channels)
            for each in (network, self.config)
        )
        if ours != theirs:
            told = [
                f"{', '.join(names)} ({n} channels in, {m} out)" for names, n, m in (theirs, ours)
            ]
            raise InputError(
                f"{self.path}: takes {told[0]}, the networks that begin from it {told[1]}; "
                "proxy.distill above 0, and proxy.samples of 0, need both to be alike."
            )

    def state_for(self, network: UNetConfig) -> State:
        """Weights for the proxy of a candidate.

        Raises:
            InputError: No edit leads there; or the candidate has what one trained as a parent of
                its space lacks: the block is named. From any other network it begins there as an
                edit does, with what adds nothing until it is trained.
        """
        with located(f"{self.path}: the parent has nothing for network {network.digest}"):
            if self.about and (blocks := missing_blocks(self.config, network)):
                more = f" and {len(blocks) - NAMED} more" if len(blocks) > NAMED else ""
                raise InputError(
                    f"it lacks {', '.join(blocks[:NAMED])}{more}. To begin from nothing: --set "
                    "proxy.init=scratch --set proxy.parent=null"
                )
            return inherit(self.config, self.state, network)


def load_parent(path: Path) -> Parent:
    """Read a parent: a file of ``archsearch parent train``, or the folder of a trained network,
    archsearch's own or one of diffusers.

    Raises:
        InputError: The file is missing, damaged or no parent.
    """
    config = config_file(path) if path.is_dir() else None
    file = path if config is None else weights_file(config.parent)
    try:
        stat = file.stat()
    except OSError as error:
        raise InputError(f"{path}: there is no such parent: {error.strerror}.") from error
    if config is None:
        return _load(path, stat.st_mtime_ns, stat.st_size)
    return _load_network(path, config, file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4)
def _load_network(path: Path, config: Path, weights: Path, _modified: int, _size: int) -> Parent:
    network = read_config(config)
    state = load_weights(network, weights)
    named = hashlib.sha256(f"{network.digest} {digest_of(state)}".encode())
    return Parent(network, state, {}, named.hexdigest()[:16], path)


@lru_cache(maxsize=4)
def _load(path: Path, _modified: int, _size: int) -> Parent:
    try:
        check_regular(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        with safe_open(path, framework="pt", device="cpu") as file:
            about = parse_json((file.metadata() or {})["parent"], path)
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        if about.get("schema") != SCHEMA:
            raise InputError(
                f"{path}: is a parent of schema {about.get('schema')}; this version reads {SCHEMA}."
            )
        config = UNetConfig.model_validate(about.pop("network"))
    except (OSError, SafetensorError, KeyError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as a parent: {error}. `archsearch parent train` writes one."
        ) from error
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in UNet(config).state_dict().items()}
    if wanted != {name: tensor.shape for name, tensor in state.items()}:
        raise InputError(f"{path}: its weights are not those of the network that it names.")
    return Parent(config, state, about, digest, path)


def save_parent(path: Path, config: UNetConfig, state: State, about: dict[str, Any]) -> None:
    """Write a parent: weights in fp16, everything else in the file's header."""
    header = {"schema": SCHEMA, "network": config.to_dict(), **about}
    tensors = {name: each.detach().cpu().half().contiguous() for name, each in state.items()}
    write_bytes(path, save(tensors, {"format": "pt", "parent": json.dumps(header)}))


def largest(space: Space) -> UNetConfig:
    """The network of a space with most parameters, of those the one with most MACs: uphill from the
    base, one dimension at a time. Exact where the dimensions do not work against each other.

    Raises:
        InputError: No valid network was found to begin at.
    """

    def size(point: Point) -> tuple[int, int]:
        counted = price(plan(space.build(point)))
        return counted.params, counted.macs

    point = space.locate(space.base) or space.draw_valid(random.Random(0))[0]
    best, improved = size(point), True
    while improved:
        improved = False
        for neighbour in space.neighbours(point):
            with suppress(InvalidPointError):
                if (found := size(neighbour)) > best:
                    point, best, improved = neighbour, found, True
                    break
    return space.build(point)


def error_of(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error, one number a sample: (B,)."""
    return F.mse_loss(predicted, target, reduction="none").flatten(1).mean(1)


class Distillation:
    """A loss that is in part the distance to what the parent predicts.

    Args:
        parent: The parent.
        share: Of the parent's prediction; the rest is the truth's.
        device: Where it is trained.
    """

    def __init__(self, parent: Parent, share: float, device: torch.device) -> None:
        self.share = share
        self.__name__ = f"distillation {share:g} from {parent.digest}"
        self.teacher = UNet(parent.config)
        self.teacher.load_state_dict(parent.state)
        self.teacher.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, model: nn.Module, draws: Draws, scheduler: Any, recipe: Recipe) -> Tensor:
        """One number a sample, as ``denoising_loss``."""
        x0, context, times, noise = draws
        noisy = scheduler.add_noise(x0, noise, times)
        noisy = noisy.to(memory_format=memory_format(x0.device, recipe.channels_last))
        with autocast(x0.device, recipe.precision):
            predicted = model(noisy, times, context).float()
            with torch.no_grad():
                taught = self.teacher(noisy, times, context).float()
        true = error_of(predicted, target_of(scheduler, x0, noise, times))
        return (1 - self.share) * true + self.share * error_of(predicted, taught)
