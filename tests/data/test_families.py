import pytest

from archsearch.data.emoji import family_key


def key(file: str) -> str:
    return family_key(int(part, 16) for part in file.split("-"))


@pytest.mark.parametrize(
    "files",
    [
        ["1f44d", "1f44d-1f3fb", "1f44d-1f3ff"],  # skin tones
        [
            "1f468-200d-2695-fe0f",
            "1f469-1f3fd-200d-2695-fe0f",
            "1f9d1-200d-2695-fe0f",
        ],  # gendered twins
        [
            "1f3c3",
            "1f3c3-200d-2640-fe0f",
            "1f3c3-200d-2640-fe0f-200d-27a1-fe0f",
        ],  # gender and direction
        [
            "1f468",
            "1f469",
            "1f9d1",
            "1f468-200d-1f9b0",
            "1f9d1-200d-1f9b2",
            "1f471-200d-2642-fe0f",
        ],  # hair
        ["1f550", "1f567", "1f55b"],  # clock faces
        ["23-20e3", "30-20e3", "1f51f"],  # keycaps
        ["2764", "1f499", "1fa77"],  # hearts
        ["1f1eb-1f1f7", "1f1e8-1f1f5", "1f1f2-1f1eb"],  # one drawing
        ["1f46a", "1f468-200d-1f469-200d-1f467-200d-1f466", "1f9d1-200d-1f9d2"],  # families
        ["1f491", "1f48f", "1f469-200d-2764-fe0f-200d-1f48b-200d-1f468"],  # couples
        ["1f46b", "1f9d1-1f3fb-200d-1f91d-200d-1f9d1-1f3ff"],  # holding hands
        ["1f385", "1f936", "1f9d1-200d-1f384"],  # Claus
        ["1f934", "1f478", "1fac5"],  # royalty
        ["1f91d", "1faf1-1f3fb-200d-1faf2-1f3fc"],  # handshake of two tones
        ["1f344", "1f344-200d-1f7eb"],  # recoloured
        ["1f642", "1f642-200d-2194-fe0f"],  # shaking head
    ],
)
def test_near_duplicates_share_a_family(files: list[str]) -> None:
    assert len({key(file) for file in files}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1f600", "1f601"),
        ("1f1eb-1f1f7", "1f1e9-1f1ea"),
        ("1f468-200d-2695-fe0f", "1f468-200d-1f373"),
        ("2764", "2764-fe0f-200d-1f525"),
        ("1f3f4", "1f3f4-200d-2620-fe0f"),
        ("2640", "2642"),
    ],
)
def test_different_pictures_differ(one: str, other: str) -> None:
    assert key(one) != key(other)
