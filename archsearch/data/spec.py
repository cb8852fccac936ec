"""What a study's ``data:`` section says."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

# Keys that belong to some sources only
SOURCE_KEYS = ("skin_tones", "path", "images", "split", "image_column", "caption_column")
# Keys that change no picture: how they are divided, and what is asked of that
OF_SPLIT = ("held_out", "fewest_held_out")
BUILT_IN_LATENTS = ("pixels", "unshuffle")
"""Values of ``proxy.latent`` that need no model."""
MINILM = "minilm"
"""The text encoder that a package brings."""
FEWEST_HELD_OUT, ENOUGH_HELD_OUT = 8, 32


class DataSpec(BaseModel):
    """Which captioned pictures to learn from, at which size, and how their captions are encoded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str | tuple[str, ...] = Field(
        default="twemoji",
        description="Where the captioned pictures come from: twemoji, openmoji, iconify, folder, "
        "coco, webdataset, huggingface, or a source that another package adds. A list mixes "
        "sources; captions then name the style.",
    )
    size: int = Field(
        default=32,
        ge=8,
        le=1024,
        multiple_of=8,
        description="Side of the square pictures in pixels, a multiple of 8.",
    )
    held_out: float = Field(
        default=0.1,
        gt=0,
        lt=0.5,
        description="Share of the families of near-duplicates that is kept out of training, "
        "between 0 and 0.5.",
    )
    fewest_held_out: int = Field(
        default=FEWEST_HELD_OUT,
        ge=1,
        description="Held-out pictures without which nothing is trained: a loss over fewer says "
        "little.",
    )
    text: str = Field(
        default=MINILM,
        description="Encoder whose token states are the context for cross-attention: minilm, or "
        "the folder or id of a "
        "transformers CLIP text model or T5 encoder.",
    )
    tokens: int = Field(
        default=16,
        ge=2,
        le=128,
        description="Context length in tokens; longer captions are cut, shorter ones padded.",
    )
    skin_tones: bool = Field(
        default=False,
        description="twemoji, openmoji, iconify: whether the five skin-tone variants of a picture "
        "are in the data as well.",
    )
    path: str | None = Field(
        default=None,
        description="iconify: an icons.json, the .tgz archive of a set, or a folder of sets. "
        "folder: the folder. coco: the annotation file. webdataset: shards, by "
        "pattern or folder. huggingface: "
        "the folder or id of a dataset. Relative to the study's file, then to the working folder.",
    )
    images: str | None = Field(default=None, description="coco: the folder of the pictures.")
    split: str | None = Field(
        default=None, description="huggingface: the split to take; train if it is not given."
    )
    image_column: str | None = Field(
        default=None,
        description="huggingface: the column of the pictures; image if it is not given.",
    )
    caption_column: str | None = Field(
        default=None,
        description="folder, webdataset, huggingface: the column or JSON key of the captions; "
        "text or caption if it is not given.",
    )
    limit: int | None = Field(
        default=None,
        ge=2,
        description="Take the first so many usable pictures; all if it is not given.",
    )

    @property
    def caption_keys(self) -> tuple[str, ...]:
        """Where a caption is looked for: columns of a data set, or keys of a JSON object."""
        return (self.caption_column,) if self.caption_column else ("text", "caption")

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources by name, one or several."""
        return (self.source,) if isinstance(self.source, str) else self.source

    @field_validator("source")
    @classmethod
    def _sources_differ(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not isinstance(value, str) and (len(value) < 1 or len(set(value)) < len(value)):
            raise ValueError(f"must be a name or a list of different names, but got {list(value)}")
        return value

    @model_validator(mode="after")
    def _texts_are_not_empty(self) -> Self:
        for name in ("text", "path", "images", "split", "image_column", "caption_column"):
            if getattr(self, name) is not None and not getattr(self, name).strip():
                raise ValueError(f"{name} is empty")
        return self
