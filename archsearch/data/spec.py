"""What a study's ``data:`` section says."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class DataSpec(BaseModel):
    """Which captioned pictures to learn from, at which size, and how their captions are encoded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["twemoji"] = Field(
        default="twemoji", description="Where the captioned pictures come from: twemoji (drawings from a package)."
    )
    size: int = Field(default=32, ge=8, le=72, multiple_of=8, description="Side of the square pictures in pixels, a multiple of 8.")
    held_out: float = Field(
        default=0.1,
        gt=0,
        lt=0.5,
        description="Share of the families of near-duplicates that is kept out of training, between 0 and 0.5.",
    )
    text: Literal["minilm"] = Field(default="minilm", description="Encoder whose token states are the context for cross-attention.")
    tokens: int = Field(
        default=16, ge=2, le=128, description="Context length in tokens; longer captions are cut, shorter ones padded."
    )
    skin_tones: bool = Field(default=False, description="Whether the five skin-tone variants of a picture are in the data as well.")
