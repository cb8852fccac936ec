"""The parts of a text-to-image pipeline beside the UNet: text encoders and image decoders, from their published configurations."""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Part:
    """A text encoder or decoder that is measured whole, with random weights."""

    name: str

    def build(self, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """Module and arguments for its ``forward``."""
        raise NotImplementedError(self.name, seed)
