"""From a data spec to tensors a training can use: pictures, captions as context, and the split."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from archsearch.data.cache import cached_tensors
from archsearch.data.latent import PIXELS, LatentSpace, latent_space
from archsearch.data.source import SOURCES, load_source
from archsearch.data.spec import DataSpec
from archsearch.data.split import split_by_family
from archsearch.data.text import MiniLM, TextEncoder
from archsearch.errors import InputError

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Prepared:
    """Data ready to train on.

    Attributes:
        images: uint8 tensor of shape (N, 3, size, size).
        captions: N captions.
        families: N family keys.
        context: float16 tensor of shape (N, tokens, dim): token states of the captions, zero where padded.
        null_context: float16 tensor of shape (tokens, dim): those of the empty caption, for guidance.
        train: int64 tensor of shape (n_train,): indices of the pictures to train on.
        held_out: int64 tensor of shape (n_held_out,): indices of the pictures kept out; no family is on both sides.
        fingerprint: SHA-256 over spec, package versions, pictures and captions. It identifies the data of a score.
        latent: The space in which the network denoises.
        encoder: What encoded the captions, for further ones; None where only these are known.
    """

    images: Tensor
    captions: tuple[str, ...]
    families: tuple[str, ...]
    context: Tensor
    null_context: Tensor
    train: Tensor
    held_out: Tensor
    fingerprint: str
    latent: LatentSpace = PIXELS
    encoder: TextEncoder | None = None

    def samples(self, index: Tensor) -> Tensor:
        """What is diffused for the pictures ``index`` (B,): float32 of shape (B, channels, h, w)."""
        return self.latent.encode(self.images[index])

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Encode captions that are not in the data: float16 of shape (N, tokens, dim).

        Raises:
            ValueError: The data came without an encoder.
        """
        if self.encoder is None:
            raise ValueError("these data have no text encoder: only their own captions are known")
        return self.encoder.encode(captions, self.context.shape[1]).half()


def prepare(spec: DataSpec, latent: str = PIXELS.name, progress: Progress | None = None) -> Prepared:
    """Load, caption, encode and split the pictures of ``spec``; from the cache if this was done before.

    Pictures and text are cached apart: another size reads no caption anew, another context length no picture.

    Args:
        spec: What to prepare.
        latent: The space in which the network denoises, as ``proxy.latent`` names it.
        progress: Called with what is being done and the fraction done of it, in [0, 1].

    Raises:
        InputError: The split leaves no picture on one side.
        ArchsearchError: The cache cannot be written.
    """
    report = progress or (lambda description, fraction: None)
    versions = SOURCES[spec.source].versions()

    report("reading pictures", 0.0)
    picture_key = {"kind": "pictures", "schema": 1, "source": spec.source, "size": spec.size}
    pictures = cached_tensors(picture_key | {"skin_tones": spec.skin_tones, "versions": versions}, lambda: _pictures(spec))
    images, captions = pictures["images"], _strings(pictures["captions"])
    families = _strings(pictures["families"])
    report("reading pictures", 1.0)

    encoder = MiniLM(progress=lambda fraction: report("encoding captions", fraction))
    text_key = {"kind": "context", "schema": 1, "encoder": encoder.name, "version": encoder.version}
    text = cached_tensors(
        text_key | {"tokens": spec.tokens, "captions": hashlib.sha256(json.dumps(captions).encode()).hexdigest()},
        lambda: {"context": encoder.encode((*captions, ""), spec.tokens).half()},
    )
    report("encoding captions", 1.0)

    split = split_by_family(families, spec.held_out)
    if not len(split.train) or not len(split.held_out):
        raise InputError(
            f"data.held_out: {spec.held_out} leaves {len(split.train)} pictures to train on and "
            f"{len(split.held_out)} held out of {len(images)}; both must be at least 1."
        )
    digest = hashlib.sha256(spec.model_dump_json().encode())
    digest.update(json.dumps([versions, encoder.name, encoder.version, captions, families], sort_keys=True).encode())
    digest.update(images.numpy().tobytes())
    space = latent_space(latent)
    if space.name != PIXELS.name:
        digest.update(json.dumps(space.key, sort_keys=True).encode())
    return Prepared(
        images=images,
        captions=captions,
        families=families,
        context=text["context"][:-1],
        null_context=text["context"][-1],
        train=split.train,
        held_out=split.held_out,
        fingerprint=digest.hexdigest(),
        latent=space,
        encoder=encoder,
    )


def _pictures(spec: DataSpec) -> dict[str, Tensor]:
    loaded = load_source(spec)
    return {
        "images": loaded.images,
        "captions": _bytes(loaded.captions),
        "families": _bytes(loaded.families),
    }


def _bytes(strings: tuple[str, ...]) -> Tensor:
    """Strings as a uint8 tensor of UTF-8 JSON: a cache file holds tensors only."""
    return torch.frombuffer(bytearray(json.dumps(strings).encode()), dtype=torch.uint8)


def _strings(encoded: Tensor) -> tuple[str, ...]:
    return tuple(json.loads(encoded.numpy().tobytes()))
