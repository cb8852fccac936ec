"""Encoding a whole set of data, chunk by chunk: captions to token states, pictures to latents."""

import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from archsearch.data.cache import cache_dir
from archsearch.data.latent import LatentSpace
from archsearch.data.rows import RowWriter
from archsearch.data.text import TextEncoder

Progress = Callable[[str, float], None]
_CAPTIONS, _PICTURES = 256, 8


def append_context(rows: RowWriter, encoder: TextEncoder, captions: Sequence[str], tokens: int, report: Progress) -> None:
    """Append ``context`` (N, tokens, dim), the states of the captions, and ``null`` (1, tokens, dim), those of the empty one.

    Both float16. Each caption is encoded once, however many pictures have it.
    """
    unique = sorted(set(captions), key=lambda caption: (len(caption), caption))  # of one length together: little padding
    place = {caption: row for row, caption in enumerate(unique)}
    shape = (len(unique), tokens, encoder.dim)
    with tempfile.TemporaryFile(dir=cache_dir()) as file:
        for start in range(0, len(unique), _CAPTIONS):
            file.write(encoder.encode(unique[start : start + _CAPTIONS], tokens).half().numpy().tobytes())
            report("encoding captions", min(1.0, (start + _CAPTIONS) / len(unique)))
        file.flush()
        states = np.memmap(file, dtype=np.float16, mode="r", shape=shape)
        for start in range(0, len(captions), _CAPTIONS):
            chosen = states[[place[caption] for caption in captions[start : start + _CAPTIONS]]]
            rows.append("context", torch.from_numpy(np.asarray(chosen)))
    rows.append("null", encoder.encode([""], tokens).half())


def append_latents(rows: RowWriter, space: LatentSpace, images: Tensor, report: Progress) -> None:
    """Append ``latents``, float16 of shape (N, channels, h, w): the uint8 pictures (N, 3, H, W) in the latent space.

    On the GPU if there is one: half precision hides the difference.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for start in range(0, len(images), _PICTURES):
        rows.append("latents", space.encode(images[start : start + _PICTURES].to(device)).half())
        report("encoding pictures", min(1.0, (start + _PICTURES) / len(images)))
