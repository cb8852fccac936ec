"""Train and held-out pictures, split by family."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from archsearch.errors import InputError


@dataclass(frozen=True)
class Split:
    """Indices into the pictures.

    Attributes:
        train: int64 tensor of shape (n_train,), ascending.
        held_out: int64 tensor of shape (n_held_out,), ascending.
    """

    train: Tensor
    held_out: Tensor


def split_by_family(families: Sequence[str], held_out: float, seed: int = 0) -> Split:
    """Put whole families on one side or the other.

    A family is held out if the hash of its key and the seed, as a number in [0, 1), is below ``held_out``. So the
    split is the same on every machine, and adding or removing pictures moves no other family. The price: the share is
    met on average only, and with a handful of families a side may be empty.

    Args:
        families: One key a picture.
        held_out: Share of the families to hold out, in (0, 1).
        seed: Another seed gives another, independent split.

    Raises:
        InputError: ``held_out`` is outside (0, 1).
    """
    if not 0 < held_out < 1:
        raise InputError(f"held_out must lie between 0 and 1, but got {held_out}.")
    is_held_out = {family: _position(family, seed) < held_out for family in set(families)}
    sides = torch.tensor([is_held_out[family] for family in families], dtype=torch.bool)
    return Split(train=(~sides).nonzero().flatten(), held_out=sides.nonzero().flatten())


def _position(family: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{family}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53  # 53 bits: exact in a double, never 1.0
