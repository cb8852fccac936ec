"""The one interface of all quality metrics, and what they need of the data.

A metric of another package imports from here: it names a :class:`MetricInfo` under the entry point group ``archsearch.metrics``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from archsearch.errors import ArchsearchError, InputError
from archsearch.metrics.networks import NetworkName, Networks
from archsearch.metrics.settings import MetricSettings

Direction = Literal["minimize", "maximize"]
Axis = Literal["fidelity", "text"]
Prompts = Literal["seen", "recombined"]


class Reference(Protocol):
    """The real side of a metric: captioned pictures. :class:`archsearch.data.prepare.Prepared` is one.

    Attributes:
        images: uint8 tensor of shape (N, 3, H, W).
        captions: N captions; empty where the pictures have none.
        train: int64 tensor (n_train,): indices of the pictures that generated ones are compared with.
        held_out: int64 tensor (n_held_out,): indices of pictures that nothing may be fitted to. A network was not trained on
            them; in a folder, where nothing was trained, they are among ``train`` as well.
        fingerprint: Identifies pictures, captions and split; part of the key of everything that is cached.
    """

    @property
    def images(self) -> Tensor: ...  # noqa: D102
    @property
    def captions(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def train(self) -> Tensor: ...  # noqa: D102
    @property
    def held_out(self) -> Tensor: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102


class Metric(Protocol):
    """Scores generated images, fed batch by batch.

    Attributes:
        name: Key of the main value in :meth:`compute`'s result.
        version: Raised whenever the same images would get another number; part of a score's key.
        direction: Which way is better.
    """

    name: str
    version: int
    direction: Direction

    def update(self, images: Tensor, captions: Sequence[str]) -> None:
        """Add generated images, uint8 of shape (B, 3, H, W), and the B captions they were generated from."""
        ...

    def compute(self) -> dict[str, float]:
        """Return the main value under the metric's name, and its companions under names that begin with it.

        ``NAME_low`` and ``NAME_high`` are always among them: the 95 % interval over the generated pictures. ``NAME_floor`` and
        ``NAME_floor_sd``, what as many real pictures get and how far that varies, are where real pictures can stand in.

        Raises:
            ArchsearchError: Too few images were added.
        """
        ...

    def reset(self) -> None:
        """Forget all generated images; what belongs to the real ones stays."""
        ...


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """What is known of a metric without building it.

    Attributes:
        direction: Which way is better.
        version: Version of its definition; part of a score's key.
        description: One line for tables.
        axis: What it speaks of: ``fidelity``, how near the pictures are to the data; ``text``, how well they fit their captions.
        build: From data, settings and the networks shared by the metrics of one evaluation to the metric.
        prompts: Which captions the pictures must be sampled from: ``seen`` in training, or ``recombined``
            (:mod:`archsearch.metrics.prompts`).
        uses: The shared networks that its numbers are of: with another one a stored score is computed again. What a metric
            brings itself is told by its version.
        needs_setting: Key of the ``metrics:`` section that must be given, or None.
        needs_file: What the user must bring under that key, in words, or None.
    """

    direction: Direction
    version: int
    description: str
    axis: Axis
    build: Callable[[Reference, MetricSettings, Networks], Metric]
    prompts: Prompts = "seen"
    uses: tuple[NetworkName, ...] = ()
    needs_setting: Literal["inception", "clip"] | None = None
    needs_file: str | None = None


def check_batch(images: Tensor, captions: Sequence[str]) -> None:
    """Refuse a batch that is not uint8 (B, 3, H, W) with B captions: a float image would be scored as noise.

    Raises:
        InputError: Type, shape or number is another.
    """
    if str(images.dtype) != "torch.uint8" or images.ndim != 4 or images.shape[1] != 3:
        raise InputError(f"images must be uint8 of shape (B, 3, H, W), but got {images.dtype} {tuple(images.shape)}.")
    if len(images) != len(captions):
        raise InputError(f"each image needs its caption, but got {len(images)} images and {len(captions)} captions.")


def require_images(name: str, count: int, minimum: int) -> None:
    """Refuse to compute ``name`` from fewer than ``minimum`` images.

    Raises:
        ArchsearchError: There are fewer.
    """
    if count < minimum:
        raise ArchsearchError(f"{name} needs at least {minimum} images, but got {count}.")
