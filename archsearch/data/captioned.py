"""The shape in which every source delivers its pictures."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from archsearch.data.spec import DataSpec


@dataclass(frozen=True)
class CaptionedImages:
    """Pictures, one caption each, and which of them are near-duplicates of one another.

    Attributes:
        images: uint8 tensor of shape (N, 3, size, size).
        captions: N captions, lower case.
        families: N keys; near-duplicates share one, and a family never straddles the split.
        fingerprint: SHA-256 over the versions of the packages, the pictures, the captions and the families.
        skipped: Pictures left out because they could not be read or named.
    """

    images: Tensor
    captions: tuple[str, ...]
    families: tuple[str, ...]
    fingerprint: str
    skipped: int = 0

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.captions) == len(self.families):
            raise ValueError(
                f"images, captions and families must have one length, but got "
                f"{len(self.images)}, {len(self.captions)} and {len(self.families)}."
            )


class Source(Protocol):
    """Delivers the pictures a spec asks for, in an order that never changes."""

    def versions(self) -> dict[str, str]:
        """Return what decides the pictures besides the spec: package name → version."""
        ...

    def load(self, spec: DataSpec) -> CaptionedImages:
        """Read, caption and resize the pictures."""
        ...
