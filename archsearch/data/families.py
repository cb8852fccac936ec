"""Which emoji are near-duplicates of one another: the rule behind the family keys.

A picture's family follows from its code points alone, so it never depends on which other pictures are there:

1. What only varies a picture is dropped: skin tones, U+FE0F, the joiner, gender signs, hair, the direction somebody
   faces, and a colour square behind another sign (brown mushroom, lime, black cat).
2. Man and woman become *person*, boy and girl *child*. What remains of gendered twins with code points of their own
   (prince and princess, Santa Claus and Mrs. Claus, couples, families of any make-up) is named in a table.
3. Sets drawn from one template share a family: clock faces, keycaps, moon phases, one shape in several colours,
   one hand or arrow turned around, and so on.
4. Flags that are the same drawing, or differ by a shade, share a family (France and Clipperton Island).
"""

from collections.abc import Iterable

_SKIN_TONES = frozenset(range(0x1F3FB, 0x1F400))
_INVISIBLE = frozenset({0xFE0F, 0x200D})
_VARIATIONS = frozenset(
    {0x2640, 0x2642, 0x27A1, 0x2194, 0x2195, 0x2B1B, 0x2B1C}  # gender, direction, black and white
    | set(range(0x1F9B0, 0x1F9B4))  # hair
    | set(range(0x1F7E5, 0x1F7EC))  # coloured squares
)
_PERSON, _CHILD = 0x1F9D1, 0x1F9D2
_SAME_PERSON = {
    0x1F468: _PERSON,
    0x1F469: _PERSON,
    0x1F471: _PERSON,  # blond hair
    0x1F9D4: _PERSON,  # beard
    0x1F466: _CHILD,
    0x1F467: _CHILD,
}
_REGIONAL_A, _REGIONAL_Z = 0x1F1E6, 0x1F1FF

_TEMPLATES: dict[str, Iterable[int]] = {
    "adult": {_PERSON},
    "child": {_CHILD},
    "older-person": {0x1F474, 0x1F475, 0x1F9D3},
    "royalty": {0x1F934, 0x1F478, 0x1FAC5},
    "claus": {0x1F385, 0x1F936},
    "dancer": {0x1F483, 0x1F57A},
    "pregnant": {0x1F930, 0x1FAC3, 0x1FAC4},
    "feeding": {0x1F931},
    "family": {0x1F46A},
    "couple": {0x1F48F, 0x1F491},
    "holding-hands": {0x1F46B, 0x1F46C, 0x1F46D},
    "keycap": {0x1F51F},
    "clock-face": range(0x1F550, 0x1F568),
    "moon": {*range(0x1F311, 0x1F319), *range(0x1F31A, 0x1F31E)},
    "rain-cloud": {0x26C8, *range(0x1F327, 0x1F32A)},
    "file-folder": {0x1F4C1, 0x1F4C2},
    "nest": {0x1FAB9, 0x1FABA},
    "globe": range(0x1F30D, 0x1F310),
    "heart": {0x2764, 0x1F5A4, 0x1F90D, 0x1F90E, 0x1F9E1, *range(0x1F499, 0x1F49D), *range(0x1FA75, 0x1FA78)},
    "circle": {0x26AA, 0x26AB, 0x1F534, 0x1F535, *range(0x1F7E0, 0x1F7E5)},
    "square": {0x2B1B, 0x2B1C, 0x25AA, 0x25AB, *range(0x25FB, 0x25FF), *range(0x1F7E5, 0x1F7EC)},
    "square-button": {0x1F532, 0x1F533},
    "diamond": range(0x1F536, 0x1F53A),
    "triangle": {0x1F53A, 0x1F53B},
    "arrow": {0x27A1, *range(0x2194, 0x219A), *range(0x2B05, 0x2B08)},
    "curved-arrow": {0x21A9, 0x21AA, 0x2934, 0x2935},
    "player-button": {0x25B6, 0x25C0, 0x23E9, 0x23EA, 0x23EB, 0x23EC, 0x1F53C, 0x1F53D, 0x23ED, 0x23EE},
    "question-mark": {0x2753, 0x2754},
    "exclamation-mark": {0x2755, 0x2757},
    "book": range(0x1F4D5, 0x1F4DA),
    "medal": range(0x1F947, 0x1F94A),
    "mailbox": range(0x1F4EA, 0x1F4EE),
    "speaker": range(0x1F507, 0x1F50B),
    "apple": {0x1F34E, 0x1F34F},
    "hourglass": {0x231B, 0x23F3},
    "pointing": range(0x1F446, 0x1F44A),
    "fist": {0x1F91B, 0x1F91C},
    "side-hand": {0x1FAF1, 0x1FAF2},
    "pushing-hand": {0x1FAF7, 0x1FAF8},
    "water-tap": {0x1F6B0, 0x1F6B1},
    "regional-indicator": range(_REGIONAL_A, _REGIONAL_Z + 1),
}
_TEMPLATE_OF = {point: name for name, points in _TEMPLATES.items() for point in points}

_TWIN_SEQUENCES = {
    (_PERSON, 0x1F384): "claus",
    (_PERSON, 0x1F37C): "feeding",
    (0x1FAF1, 0x1FAF2): "1f91d",  # a handshake of two tones
    (_PERSON, 0x1F430, _PERSON): "1f46f",  # two people with bunny ears
    (_PERSON, 0x1FAEF, _PERSON): "1f93c",  # two wrestlers
}
_SAME_FLAG = {
    "hm": "au",
    "cp": "fr",
    "mf": "fr",
    "dg": "io",
    "ea": "es",
    "sj": "no",
    "bv": "no",
    "um": "us",
    "td": "ro",
    "mc": "id",
    "lu": "nl",
}


def family_key(code_points: Iterable[int]) -> str:
    """Return the family of an emoji: a template's name, ``flag-xx``, or its code points without what varies it."""
    points = tuple(p for p in code_points if p not in _SKIN_TONES and p not in _INVISIBLE) or tuple(code_points)
    if len(points) == 2 and all(_REGIONAL_A <= p <= _REGIONAL_Z for p in points):
        country = "".join(chr(ord("a") + p - _REGIONAL_A) for p in points)
        return f"flag-{_SAME_FLAG.get(country, country)}"
    if 0x20E3 in points:
        return "keycap"
    if len(points) > 1:
        points = tuple(p for p in points if p not in _VARIATIONS) or points
    points = tuple(_SAME_PERSON.get(p, p) for p in points)
    if len(points) == 1:
        return _TEMPLATE_OF.get(points[0], f"{points[0]:x}")
    if set(points) <= {_PERSON, _CHILD}:
        return "family"
    if _PERSON in points and 0x2764 in points:
        return "couple"
    if points == (_PERSON, 0x1F91D, _PERSON):
        return "holding-hands"
    return _TWIN_SEQUENCES.get(points) or "-".join(f"{p:x}" for p in points)
