"""Captions as data sets keep them: under one of several keys, one or many a picture."""

import hashlib
from collections.abc import Mapping
from typing import Any

from archsearch.data.spec import DataSpec

KEYS = ("text", "caption")
"""Where a caption is looked for if ``data.caption_column`` does not say it."""


def caption_of(row: Mapping[str, Any], spec: DataSpec, name: str) -> str | None:
    """The caption in a row of a data set: text, or one of a list of texts; None if there is none.

    Args:
        row: Column or key → value.
        spec: Its ``caption_column`` is the only key that is looked at, if it is given.
        name: Name of the picture, from which the choice among several captions follows.
    """
    for key in (spec.caption_column,) if spec.caption_column else KEYS:
        value = row.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, list | tuple):
            return choose([text for text in value if isinstance(text, str)], name)
    return None


def choose(captions: list[str], name: str) -> str | None:
    """One of a picture's captions: always the same, whatever their order; a different place for different pictures."""
    usable = [caption for caption in captions if caption.strip()] or captions
    return min(
        usable, key=lambda caption: hashlib.sha256(f"{name}\0{caption}".encode(errors="surrogatepass")).digest(), default=None
    )
