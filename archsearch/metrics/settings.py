"""What a study's ``metrics:`` section says."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

MAX_SEED = 2**63 - 1


class MetricSettings(BaseModel):
    """How many images to sample for metrics, and the files that only the user can bring."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(default=128, ge=2, description="Number of sampled images; distances are comparable at one number only.")
    inception: Path | None = Field(
        default=None,
        description="FID's network as a TorchScript file, usually inception-2015-12-05.pt; needed by fid and kid.",
    )
    clip: str | None = Field(
        default=None, description="A transformers CLIPModel, as a hub id or a local folder; needed by clip_score and cmmd."
    )
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="Seed of the draw of real pictures behind a distance's floor.")
