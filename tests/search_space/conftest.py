from collections.abc import Callable
from pathlib import Path

import pytest

from archsearch.errors import InputError
from archsearch.search_space.space import Space, load_space

GOLDEN = Path(__file__).parents[1] / "golden" / "spaces" / "every-feature.yaml"

BASE = """\
schema: 1
base:
  sample_size: 16
  norm_groups: 8
  attention: {heads: 2}
  stages:
    - {channels: 16, down: [{}], up: [{}, {}]}
    - {channels: 32, down: [{layers: [sa, ca, ff]}], up: [{layers: [ca, ff]}]}
"""  # 8 lines


@pytest.fixture(scope="session")
def golden() -> Space:
    return load_space(str(GOLDEN))


@pytest.fixture
def space(tmp_path: Path) -> Callable[[str], Space]:
    """Loads a space written below the small base; what is given begins in line 9."""

    def load(text: str) -> Space:
        path = tmp_path / "space.yaml"
        path.write_text(BASE + text)
        return load_space(str(path))

    return load


@pytest.fixture
def refusal(space: Callable[[str], Space], tmp_path: Path) -> Callable[[str], str]:
    """The error that such a space is refused with, without the folder."""

    def load(text: str) -> str:
        with pytest.raises(InputError) as caught:
            space(text)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return load
