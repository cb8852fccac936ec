"""Index maps: for every channel of the edited network the channel of the trained network that it
continues, or NEW.
"""

import torch
from torch import Tensor

State = dict[str, Tensor]  # tensors by name: of a network, or of a part of one

# In a map: nothing to continue. What reads such a channel begins at zero, so that it is not heard
# until training makes it so.
NEW = -1


def keep_best(scores: Tensor, kept: int, groups: int = 1) -> Tensor:
    """Map that keeps the channels of the highest score, in their order.

    Args:
        scores: Importance of each channel, (N,).
        kept: Number of channels to keep, at most N.
        groups: Number of equal runs of channels of which equally many are kept, so that a group
            norm goes on over members of the same group. It is taken as 1 where it does not divide
            both numbers of channels.

    Returns:
        Indices, (kept,).
    """
    total = len(scores)
    if total % groups or kept % groups:
        groups = 1
    best = scores.view(groups, -1).topk(kept // groups, dim=1).indices.sort(dim=1).values
    return (best + torch.arange(groups)[:, None] * (total // groups)).flatten()


def first(total: int, kept: int) -> Tensor:
    """Map that continues channels in order: the first ``kept`` of ``total``, then new ones."""
    return torch.cat([torch.arange(min(total, kept)), torch.full((max(kept - total, 0),), NEW)])


def take(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """Pick along ``dim`` what ``index`` names; zeros where it says NEW."""
    picked = tensor.index_select(dim, index.clamp(min=0))
    known = index >= 0
    if bool(known.all()):
        return picked
    shape = [1] * tensor.ndim
    shape[dim] = len(index)
    return picked * known.view(shape)


def part(state: State, prefix: str) -> State:
    """The tensors below ``prefix``, named from there on; empty where there is no such part."""
    start = f"{prefix}."
    return {name[len(start) :]: tensor for name, tensor in state.items() if name.startswith(start)}


def placed(state: State, prefix: str) -> State:
    """``state`` as a part of something larger: the reverse of ``part``."""
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


def thin(layer: State, rows: Tensor, columns: Tensor | None = None) -> State:
    """A norm, linear layer or convolution with the channels that the maps pick.

    Args:
        layer: Its weight and bias.
        rows: Map of its outputs.
        columns: Map of its inputs; None where it has none of their own (norms and depthwise
            convolutions).
    """
    thinned = {name: take(tensor, 0, rows) for name, tensor in layer.items()}
    if columns is not None:
        thinned["weight"] = take(thinned["weight"], 1, columns)
    return thinned


def thin_part(state: State, name: str, rows: Tensor, columns: Tensor | None = None) -> State:
    """The layer ``name`` of ``state`` thinned, under the same name."""
    return placed(thin(part(state, name), rows, columns), name)


def silenced(state: State, name: str) -> State:
    """``state`` with a layer ``name`` that writes zero until it is trained."""
    names = (f"{name}.weight", f"{name}.bias")
    return state | {each: torch.zeros_like(state[each]) for each in names if each in state}


def norm_along(tensor: Tensor, dim: int) -> Tensor:
    """Root of the sum of squares of everything that has the same index along ``dim``."""
    return tensor.transpose(0, dim).flatten(1).square().sum(dim=1).sqrt()


def noise_like(known: Tensor, *shape: int) -> Tensor:
    """Random numbers of the size of those in ``known``."""
    return known.square().mean().sqrt() * torch.randn(shape)
