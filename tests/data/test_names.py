import pytest

from archsearch.data.emoji import caption


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("1f600", "grinning face"),
        ("2764", "red heart"),  # needs U+FE0F
        ("1f1ec-1f1e7", "flag of united kingdom"),
        ("1f1e6-1f1ec", "flag of antigua and barbuda"),
        ("1f3f4-e0067-e0062-e0065-e006e-e0067-e007f", "flag of england"),
        ("1f550", "one o'clock"),
        ("23-20e3", "keycap #"),
        ("1f469-1f3fd-200d-2695-fe0f", "woman health worker medium skin tone"),
        ("1f1e6", "regional indicator letter a"),
        ("1f574-fe0f-200d-2640-fe0f", "person in suit levitating woman"),
        ("1f3f4-200d-2620-fe0f", "pirate flag"),
    ],
)
def test_captions_are_plain_english(file: str, expected: str) -> None:
    assert caption([int(part, 16) for part in file.split("-")]) == expected


@pytest.mark.parametrize("points", [[0xE50A], [0xE50A, 0x200D, 0x2640], [0x41, 0x42]])
def test_nameless_is_none(points: list[int]) -> None:
    assert caption(points) is None
