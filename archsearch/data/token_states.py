"""What the text encoders have in common: captions in batches through a tokenizer and a model of transformers."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_BATCH = 64


class TokenStates:
    """Encodes with what ``_loaded`` returns: a tokenizer, and a model whose ``last_hidden_state`` is taken.

    Attributes:
        dim: Width of a token's state.
        max_tokens: Tokens that the encoder takes at most.
    """

    dim: int
    max_tokens: int

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The tokenizer and the model, loaded on first use."""
        raise NotImplementedError

    def encode(self, captions: Sequence[str], tokens: int) -> Tensor:
        """Return token states, float32 of shape (N, tokens, dim); padded positions are zero."""
        states = torch.zeros(len(captions), tokens, self.dim)
        for rows, hidden, _ in self._batches(captions, tokens):
            states[rows, : hidden.shape[1]] = hidden
        return states

    def pooled(self, captions: Sequence[str]) -> Tensor:
        """Return the mean over a caption's tokens at unit norm, float32 of shape (N, dim)."""
        vectors = torch.zeros(len(captions), self.dim)
        for rows, hidden, counts in self._batches(captions, self.max_tokens):
            vectors[rows] = F.normalize(hidden.sum(1) / counts[:, None], dim=-1)
        return vectors

    def _batches(self, captions: Sequence[str], tokens: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (rows (B,), masked states (B, T, dim), token counts (B,)), captions of similar length together."""
        tokenizer, model = self._loaded
        order = sorted(range(len(captions)), key=lambda i: (len(captions[i]), i))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            batch = tokenizer([captions[i] for i in rows], padding=True, truncation=True, max_length=tokens, return_tensors="pt")
            inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
            with torch.inference_mode():
                hidden = model(**inputs).last_hidden_state.float().cpu()
            mask = batch["attention_mask"]
            yield torch.tensor(rows), hidden * mask[..., None], mask.sum(1)
