"""CLIP's text model or T5's encoder, by folder or id, as ``transformers`` keeps them."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from archsearch.data.hub import ModelFolder
from archsearch.data.quiet import quiet
from archsearch.data.token_states import TokenStates

NEEDED = "the folder or id of a transformers CLIP text model or T5 encoder with its tokenizer"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "spiece.model")
_T5_TOKENS = 512  # T5 knows distances only, not positions; this is the length it was trained with


class TransformersText(TokenStates):
    """Token states of a ``CLIPModel``, ``CLIPTextModel``, ``CLIPTextModelWithProjection`` or T5.

    What is taken is the last hidden state; CLIP's passes its final norm. Of a pipeline, ``org/name/text_encoder`` is the model, and
    its tokenizer is found beside it.

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
            raise folder.unusable(f"its config.json says model_type '{kind}'; allowed are clip, clip_text_model, t5")
        if not isinstance(dim, int) or not isinstance(longest, int):
            raise folder.unusable(f"its config.json says a width of {dim} and a length of {longest}, which are no whole numbers")
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
                tokenizer = transformers.AutoTokenizer.from_pretrained(str(_tokenizer_folder(path)), local_files_only=True)
                model, loading = getattr(transformers, self.name).from_pretrained(
                    str(path), local_files_only=True, dtype=torch.float32, output_loading_info=True
                )
            except Exception as error:  # whatever transformers, tokenizers and safetensors raise on missing and damaged files
                lines = str(error).strip().splitlines()
                raise self._folder.unusable(f"cannot be loaded ({lines[0] if lines else type(error).__name__})") from error
        # transformers fills what is missing with random numbers.
        if missing := sorted({*loading["missing_keys"], *(str(key) for key in loading["mismatched_keys"])}):
            raise self._folder.unusable(f"its weights lack {len(missing)} tensors, such as {missing[0]}")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return tokenizer, model.eval().requires_grad_(False).to(device)


def _tokenizer_folder(model: Path) -> Path:
    """The folder itself or, in a pipeline, the one beside it: ``tokenizer_2`` for ``text_encoder_2``."""
    beside = model.parent / model.name.replace("text_encoder", "tokenizer")
    own = any((model / name).is_file() for name in _TOKENIZER_FILES)
    return model if own or not beside.is_dir() else beside
