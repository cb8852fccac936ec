"""Prepared data: pictures, encoded captions, the split, in one object."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archsearch.data.cache import EntryWriter, cached
from archsearch.data.latent import PIXELS, LatentSpace, latent_space
from archsearch.data.pictures import (
    SOURCES,
    CaptionedImages,
    Progress,
    load_source,
    split_by_family,
)
from archsearch.data.records import Skipped
from archsearch.data.spec import ENOUGH_HELD_OUT, DataSpec
from archsearch.data.text import TextEncoder, text_encoder
from archsearch.errors import InputError

_log = logging.getLogger(__name__)
_CAPTIONS, _PICTURES = 256, 8  # encoded at once
_CHUNK = 1024  # pictures hashed at once


@dataclass(frozen=True)
class Prepared:
    """Data ready to train on. Large tensors are read through memory maps.

    Attributes:
        images: uint8 tensor of shape (N, 3, size, size).
        captions: N captions.
        families: N family keys.
        context: float16 tensor of shape (N, tokens, dim): token states of the captions, zero where
            padded.
        null_context: float16 tensor of shape (tokens, dim): those of the empty caption, for
            guidance.
        train: int64 tensor of shape (n_train,): indices of the pictures to train on.
        held_out: int64 tensor of shape (n_held_out,): indices of the pictures kept out; no family
            is on both sides.
        fingerprint: SHA-256 over spec, package versions, pictures and captions. It identifies the
            data of a score, wherever the files lie.
        latent: The space in which the network denoises.
        encoder: What encoded the captions, for further ones; None where only these are known.
        latents: float16 tensor of shape (N, channels, h, w): the pictures in the latent space,
            where they are computed once and kept; else None.
        skipped: What was left out of the data, by reason.
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
    latents: Tensor | None = None
    skipped: tuple[Skipped, ...] = ()

    def samples(self, index: Tensor) -> Tensor:
        """What is diffused for the pictures ``index`` (B,): float32 (B, channels, h, w)."""
        if self.latents is not None:
            return self.latents[index].float()
        return self.latent.encode(self.images[index])

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Encode captions that are not in the data: float16 of shape (N, tokens, dim).

        Raises:
            ValueError: The data came without an encoder.
        """
        if self.encoder is None:
            raise ValueError("these data have no text encoder: only their own captions are known")
        return self.encoder.encode(captions, self.context.shape[1]).half()


def prepare(
    spec: DataSpec, latent: str = PIXELS.name, progress: Progress | None = None
) -> Prepared:
    """Load, caption, encode and split the pictures of ``spec``; from the cache if this was done
    before.

    Pictures, text and latents are cached apart: another size reads no caption anew, another context
    length no picture.

    Args:
        spec: What to prepare.
        latent: The space in which the network denoises, as ``proxy.latent`` names it.
        progress: Called with what is being done and the fraction done of it, in [0, 1].

    Raises:
        InputError: The spec does not fit its source, a folder or file it names is missing or not
            usable, no picture is usable, or the split leaves none on one side.
        ArchsearchError: The cache cannot be written.
    """
    report = progress or (lambda description, fraction: None)
    space = latent_space(latent)
    encoder = text_encoder(spec.text)
    pictures = load_source(spec, report)
    train, held_out = split_by_family(pictures.families, spec.held_out)
    if not len(train) or not len(held_out):
        raise InputError(
            f"data.held_out: {spec.held_out} leaves {len(train)} pictures to train on and "
            f"{len(held_out)} held out of {len(pictures.images)}; both must be at least 1."
        )
    context, null_context = _context(encoder, pictures.captions, spec.tokens, report)
    return Prepared(
        images=pictures.images,
        captions=pictures.captions,
        families=pictures.families,
        context=context,
        null_context=null_context,
        train=train,
        held_out=held_out,
        fingerprint=_fingerprint(spec, pictures, encoder, space),
        latent=space,
        encoder=encoder,
        latents=_latents(space, pictures, report),
        skipped=pictures.skipped,
    )


def check_held_out(data: Prepared, spec: DataSpec) -> None:
    """Refuse to take scores over a handful of held-out pictures, and warn where they are few.

    Raises:
        InputError: There are fewer than ``spec.fewest_held_out``.
    """
    count, every = len(data.held_out), len(data.images)
    few = f"data.held_out: {spec.held_out} leaves {count} of {every} pictures held out"
    if count < spec.fewest_held_out:
        raise InputError(
            f"{few}, fewer than the {spec.fewest_held_out} that data.fewest_held_out asks for: "
            "their loss says little of other pictures, and its interval is no better. Bring more "
            "pictures, raise data.held_out, or ask for it with data.fewest_held_out: "
            f"{count}."
        )
    if count < ENOUGH_HELD_OUT:
        _log.warning(
            "%s: fewer than %d. Losses over so few scatter with the choice of pictures, and their "
            "intervals are too narrow.",
            few,
            ENOUGH_HELD_OUT,
        )


def _context(
    encoder: TextEncoder, captions: Sequence[str], tokens: int, report: Progress
) -> tuple[Tensor, Tensor]:
    # The states of the captions (N, tokens, dim), and of the empty one (tokens, dim), in float16.
    #
    # Each caption is encoded once, however many pictures have it.

    def fill(entry: EntryWriter) -> None:
        # Those of one length together: little padding.
        unique = sorted(set(captions), key=lambda caption: (len(caption), caption))
        place = {caption: row for row, caption in enumerate(unique)}
        with tempfile.TemporaryFile(dir=entry.folder) as file:
            for start in range(0, len(unique), _CAPTIONS):
                some = unique[start : start + _CAPTIONS]
                file.write(encoder.encode(some, tokens).half().numpy().tobytes())
                report("encoding captions", min(1.0, (start + _CAPTIONS) / len(unique)))
            file.flush()
            shape = len(unique), tokens, encoder.dim
            states = np.memmap(file, dtype=np.float16, mode="r", shape=shape)
            for start in range(0, len(captions), _CAPTIONS):
                rows = [place[caption] for caption in captions[start : start + _CAPTIONS]]
                entry.append("context", torch.from_numpy(np.asarray(states[rows])))
        entry.append("null", encoder.encode([""], tokens).half())

    key = {
        "kind": "context",
        "schema": 2,
        "encoder": encoder.name,
        "version": encoder.version,
        "tokens": tokens,
        "captions": hashlib.sha256(json.dumps(captions).encode()).hexdigest(),
    }
    report("encoding captions", 0.0)
    found = cached(key, fill).tensors
    report("encoding captions", 1.0)
    return found["context"], found["null"][0]


def _latents(space: LatentSpace, pictures: CaptionedImages, report: Progress) -> Tensor | None:
    # The pictures in the latent space, float16 (N, channels, h, w), if they are worth keeping.
    #
    # On the GPU if there is one: half precision hides the difference.
    if not space.fixed:
        return None
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def fill(entry: EntryWriter) -> None:
        for start in range(0, len(pictures.images), _PICTURES):
            images = pictures.images[start : start + _PICTURES].to(device)
            entry.append("latents", space.encode(images).half())
            report("encoding pictures", min(1.0, (start + _PICTURES) / len(pictures.images)))

    key = {"kind": "latents", "schema": 1, "latent": space.key, "pictures": pictures.key}
    return cached(key, fill).tensors["latents"]


def _fingerprint(
    spec: DataSpec, pictures: CaptionedImages, encoder: TextEncoder, space: LatentSpace
) -> str:
    # Hash what was read, not where it lies. It takes a look at every pixel, so it is cached as
    # well.
    # Keys that are not given are left out: one that is new must not rename the data of old scores.
    said = spec.model_copy(update={"text": encoder.name}).model_dump_json(
        exclude_none=True, exclude={"path", "images", "fewest_held_out"}
    )
    versions: dict[str, Any] = {name: SOURCES[name].versions() for name in spec.sources}
    facts = [
        versions[spec.source] if isinstance(spec.source, str) else versions,
        encoder.name,
        encoder.version,
    ]

    def fill(entry: EntryWriter) -> None:
        digest = hashlib.sha256(said.encode())
        facts_and_texts = [*facts, pictures.captions, pictures.families]
        digest.update(json.dumps(facts_and_texts, sort_keys=True).encode())
        for rows in torch.split(pictures.images, _CHUNK):
            digest.update(rows.numpy().tobytes())
        if space.name != PIXELS.name:
            digest.update(json.dumps(space.key, sort_keys=True).encode())
        entry.values["sha256"] = digest.hexdigest()

    key = {
        "kind": "fingerprint",
        "schema": 1,
        "spec": said,
        "facts": facts,
        "pictures": pictures.key,
        "latent": space.key,
    }
    return str(cached(key, fill).values["sha256"])
