"""LoRA (Hu et al. 2021): trained with peft, added to a network's weights to draw with it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from archsearch.errors import InputError, import_package
from archsearch.unet.model import UNet

A, B = ".lora_A.weight", ".lora_B.weight"


def targets(network: UNet) -> list[str]:
    """The layers that LoRA adapts: linear layers and 1×1 convolutions of the transformer blocks and
    of what frames them, and pointwise convolutions and shortcuts of the residual blocks. The time
    embedding and its projections stay as they are.
    """
    found = []
    for name, module in network.named_modules():
        linear = isinstance(module, nn.Linear) and ".transformer." in name
        pointwise = (
            isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
        )
        if linear or pointwise:
            found.append(name)
    return found


def with_lora(network: UNet, rank: int, seed: int) -> UNet:
    """Freeze the network and put LoRA of ``rank`` into it, in place; it computes the same until it
    is trained.

    Raises:
        InputError: peft is not installed, or the network has no layer to adapt.
    """
    peft = import_package("peft", extra="adapt")
    layers = targets(network)
    if not layers:
        raise InputError(
            f"--method lora: network {network.config.digest} has neither transformer blocks nor "
            "pointwise convolutions, which LoRA adapts."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=layers)
        peft.inject_adapter_in_model(settings, network)
    return network


def lora_state(network: nn.Module) -> dict[str, Tensor]:
    """The LoRA of a network as tensors, named as peft names them."""
    peft = import_package("peft", extra="adapt")
    state: dict[str, Tensor] = peft.get_peft_model_state_dict(network)
    return state


def merged(network: UNet, state: Mapping[str, Tensor], where: str) -> None:
    """Add a LoRA to the weights of a network, in place: W + B·A, alpha being the rank.

    Raises:
        InputError: It is one for other layers, or of other widths.
    """
    layers: dict[str, Any] = dict(network.named_modules())
    known = targets(network)
    names = sorted({name.removesuffix(A).removesuffix(B) for name in state})
    if unknown := [
        name
        for name in names
        if f"{name}{A}" not in state or f"{name}{B}" not in state or name not in known
    ]:
        raise InputError(
            f"{where}: is a LoRA for layers that the network has not: {', '.join(unknown[:3])}"
            f"{' …' if len(unknown) > 3 else ''}."
        )
    for name in names:
        weight = layers[name].weight
        thin, wide = (state[f"{name}{half}"].float() for half in (A, B))
        thin, wide = (each.reshape(len(each), -1) if each.ndim else each for each in (thin, wide))
        have, want = (*wide.shape[:1], *thin.shape[1:]), weight.flatten(1).shape
        if have != want or wide.shape[1] != len(thin):
            raise InputError(
                f"{where}: {name} is of {tuple(have)} weights, but the network's layer has "
                f"{tuple(want)}."
            )
        with torch.no_grad():
            weight += (wide @ thin).view(weight.shape).to(weight)
