"""Parts of an architecture that are no options: a residual block with its transformer blocks, and SDXL's added embedding."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_serializer, model_validator

from archsearch.unet.options import Frozen

Layer = Literal["sa", "ca", "ff"]


class ResidualBlock(Frozen):
    """A residual block and the transformer blocks after it.

    Written either as ``{transformers: 3, layers: [sa, ca, ff]}`` or, where the transformer blocks differ, as
    ``{transformers: [[sa, ca, ff], [ca]]}``. No layers means no transformer block.
    """

    short_form: ClassVar[tuple[str, ...]] = ("layers",)
    """Keys of the first way of writing, beside the fields."""

    transformers: tuple[tuple[Layer, ...], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "layers" not in data:
            if isinstance(data, dict) and isinstance(data.get("transformers"), int) and data["transformers"] != 0:
                raise ValueError(f"transformers: {data['transformers']} needs layers, e.g. layers: [sa, ca, ff]")
            if isinstance(data, dict) and data.get("transformers") == 0:
                return {k: v for k, v in data.items() if k != "transformers"}
            return data
        rest = {k: v for k, v in data.items() if k != "layers"}
        count = rest.get("transformers", 1)
        if isinstance(count, list | tuple):
            count = len(count)
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 64:
            raise ValueError(f"transformers must be a number from 0 to 64 or a list of layer lists, but got {count!r}")
        return {**rest, "transformers": [data["layers"]] * count if data["layers"] else []}

    @model_validator(mode="after")
    def _drop_empty(self) -> Self:
        for layers in self.transformers:
            if len(set(layers)) != len(layers):
                raise ValueError(f"layers {list(layers)} repeats a layer; allowed are sa, ca and ff, each at most once")
        object.__setattr__(self, "transformers", tuple(layers for layers in self.transformers if layers))
        return self

    @model_serializer(mode="plain")
    def _compact(self) -> dict[str, Any]:
        if not self.transformers:
            return {}
        if len(set(self.transformers)) == 1:
            return {"transformers": len(self.transformers), "layers": list(self.transformers[0])}
        return {"transformers": [list(layers) for layers in self.transformers]}


class AddedEmbedding(Frozen):
    """SDXL's second embedding, added to the time embedding: a pooled text embedding beside sinusoids of some numbers.

    The numbers are SDXL's time ids: original size, crop and target size, six in all.
    """

    text_dim: Annotated[int, Field(ge=1, le=16384)] | None = None
    """Width of the pooled text embedding. None: the network has no added embedding."""
    ids: Annotated[int, Field(ge=1, le=64)] = 6
    """How many numbers."""
    id_dim: Annotated[int, Field(ge=2, le=4096, multiple_of=2)] = 256
    """Sinusoids of each."""

    @model_validator(mode="after")
    def _none_is_one(self) -> Self:
        """Without a text embedding there is nothing to say of the rest: equal networks are equal configs."""
        if self.text_dim is None:
            for name in ("ids", "id_dim"):
                object.__setattr__(self, name, type(self).model_fields[name].default)
        return self

    @property
    def width(self) -> int:
        """Width of the concatenation, 0 where there is none."""
        return 0 if self.text_dim is None else self.text_dim + self.ids * self.id_dim
