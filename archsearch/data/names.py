"""What an emoji is called: a caption in plain English from its code points."""

import unicodedata
from collections.abc import Sequence

import emoji

_TAG_FLAG, _REGIONAL = 0x1F3F4, range(0x1F1E6, 0x1F200)
_GENDER = {0x2640: "woman", 0x2642: "man"}


def caption(code_points: Sequence[int]) -> str | None:
    """Return a lower-case caption such as ``"flag of united kingdom"``, or None where the emoji has no name.

    The name is Unicode's short name as the ``emoji`` package gives it, tried as written and with U+FE0F appended.
    A joined sequence it does not know is named by its parts, a lone sign by its Unicode character name.
    """
    text = "".join(map(chr, code_points))
    name = _short_name(text)
    if name is None and "\u200d" in text:
        parts = [[ord(c) for c in part if c != "\ufe0f"] for part in text.split("\u200d")]
        words = [_GENDER.get(part[0]) if len(part) == 1 else None for part in parts if part]
        named = [word or caption(part) for word, part in zip(words, filter(None, parts), strict=True)]
        return " ".join(n for n in named if n) if all(named) else None
    if name is None and len(code_points) == 1:
        name = unicodedata.name(text, "").replace(" SYMBOL", "") or None
    if name is None:
        return None
    is_country = len(code_points) == 2 and all(p in _REGIONAL for p in code_points)
    is_region = len(code_points) > 2 and code_points[0] == _TAG_FLAG and code_points[1] > 0xE0000
    plain = " ".join(name.replace("_", " ").replace(" & ", " and ").replace("’", "'").replace(":", "").split()).lower()
    return f"flag of {plain}" if is_country or is_region else plain


def _short_name(text: str) -> str | None:
    entry = emoji.EMOJI_DATA.get(text) or emoji.EMOJI_DATA.get(text + "\ufe0f")
    return str(entry["en"]).strip(":") if entry else None
