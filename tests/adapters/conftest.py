"""A network that was trained for a moment on two dozen pictures, for whatever is made from one."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from archsearch.api import Study, arch
from tests.study.conftest import SPACE, STUDY


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def checkpoint(own_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the network, as ``archsearch train`` makes it."""
    home = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    (home / "pictures").mkdir()
    for index in range(24):
        picture = np.full((20, 20, 3), 255, dtype=np.uint8)
        top, left = rng.integers(0, 10, 2)
        picture[top : top + 10, left : left + 10] = rng.integers(0, 200, 3)
        Image.fromarray(picture).save(home / "pictures" / f"{index:02}.png")
        caption = f"{'red' if index % 2 else 'blue'} thing {index}"
        (home / "pictures" / f"{index:02}.txt").write_text(caption)
    data = {"source": "folder", "path": str(home / "pictures"), "size": 16, "tokens": 4}
    data |= {"held_out": 0.2, "fewest_held_out": 3}
    (home / "space.yaml").write_text(yaml.safe_dump(SPACE, sort_keys=False))
    study = STUDY | {"space": str(home / "space.yaml"), "data": data}
    (home / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    (home / "base.json").write_text(json.dumps(SPACE["base"]))
    Study(home / "study.yaml", home / "network").train(arch(home / "base.json"), 64)
    return home / "network"
