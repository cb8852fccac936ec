"""What is known of metrics without building them: their settings in a study, and of each what a row
of the registry says. Nothing here needs torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from archsearch.metrics.base import Metric, Reference
    from archsearch.metrics.networks import Networks

Direction = Literal["minimize", "maximize"]
Axis = Literal["fidelity", "text"]
Prompts = Literal["seen", "recombined"]
NetworkName = Literal["effnet", "inception", "clip", "text"]

MAX_SEED = 2**63 - 1
INCEPTION_NEEDED = (
    "FID's InceptionV3 as a TorchScript file, usually inception-2015-12-05.pt, "
    "called as net(uint8_images, return_features=True)"
)
CLIP_NEEDED = "a transformers CLIPModel with its tokenizer, as a hub id or a local folder"


class MetricSettings(BaseModel):
    """How many images to sample for metrics, and the files that only the user can bring."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(
        default=128,
        ge=2,
        description="Number of sampled images; distances are comparable at one number only.",
    )
    inception: Path | None = Field(
        default=None,
        description="FID's network as a TorchScript file, usually inception-2015-12-05.pt; "
        "needed by fid and kid.",
    )
    clip: str | None = Field(
        default=None,
        description="A transformers CLIPModel, as a hub id or a local folder; needed by "
        "clip_score and cmmd.",
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=MAX_SEED,
        description="Seed of the draw of real pictures behind a distance's floor.",
    )


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """What is known of a metric without building it.

    Attributes:
        direction: Which way is better.
        version: Version of its definition; part of a score's key.
        description: One line for tables.
        axis: What it speaks of: ``fidelity``, how near the pictures are to the data; ``text``, how
            well they fit their captions.
        build: From data, settings and the networks shared by the metrics of one evaluation to the
            metric.
        prompts: Which captions the pictures must be sampled from: ``seen`` in training, or
            ``recombined`` (:mod:`archsearch.metrics.evaluate`).
        uses: The shared networks that its numbers are of: with another one a stored score is
            computed again. What a metric brings itself is told by its version.
        needs_setting: Key of the ``metrics:`` section that must be given, or None.
        needs_file: What the user must bring under that key, in words, or None.
    """

    direction: Direction
    version: int
    description: str
    axis: Axis
    build: "Callable[[Reference, MetricSettings, Networks], Metric]"
    prompts: Prompts = "seen"
    uses: tuple[NetworkName, ...] = ()
    needs_setting: Literal["inception", "clip"] | None = None
    needs_file: str | None = None
