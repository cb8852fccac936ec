import pytest
from pydantic import ValidationError

from archsearch.data.spec import DataSpec


def test_defaults_and_json_round_trip() -> None:
    spec = DataSpec()
    assert (spec.source, spec.size, spec.held_out, spec.text, spec.tokens, spec.skin_tones) == (
        "twemoji",
        32,
        0.1,
        "minilm",
        16,
        False,
    )
    assert DataSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 7},
        {"size": 30},
        {"size": 1032},
        {"held_out": 0},
        {"held_out": 0.5},
        {"tokens": 1},
        {"tokens": 129},
        {"source": []},
        {"source": ["twemoji", "twemoji"]},
        {"text": " "},
        {"path": ""},
        {"limit": 1},
        {"unknown": 1},
    ],
)
def test_refuses(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        DataSpec.model_validate(wrong)


def test_every_field_is_described() -> None:
    assert all(field.description for field in DataSpec.model_fields.values())
