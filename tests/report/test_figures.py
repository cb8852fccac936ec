from pathlib import Path

import pytest
import torch
from PIL import Image

from archsearch.architectures import load_architecture
from archsearch.report.drawing import draw_architecture
from archsearch.report.figures import _captions, _front
from archsearch.study.finish import save_grid


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(1, 3), (2, 2), (3, 1)], [0, 1, 2]),
        ([(1, 1), (2, 2), (3, 3)], [0]),
        ([(2, 2), (1, 3), (2, 1)], [1, 2]),
        ([(1, 1), (1, 1)], [0]),
        ([(1, 2), (1, 1)], [1]),
        ([], []),
    ],
)
def test_the_drawn_front_holds_what_nothing_dominates(points: list[tuple[float, float]], front: list[int]) -> None:
    assert _front(points) == front


def test_a_grid_holds_every_picture_in_its_place(tmp_path: Path) -> None:
    pictures = torch.zeros(10, 3, 4, 4, dtype=torch.uint8)
    pictures[9] = 200
    save_grid(pictures, tmp_path / "grid.png", scale=2)
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.size == (8 * 8, 2 * 8)
        assert sheet.getpixel((8 + 1, 8 + 1)) == (200, 200, 200)
        assert sheet.getpixel((1, 1)) == (0, 0, 0)
        assert sheet.getpixel((2 * 8 + 1, 8 + 1)) == (255, 255, 255)


def test_captions_stand_row_by_row(tmp_path: Path) -> None:
    (tmp_path / "samples.json").write_text('{"schema": 1, "captions": ["a", "b", "c"], "columns": 2}')
    assert _captions(tmp_path / "samples.png") == "row 1: a · b\nrow 2: c"
    assert _captions(tmp_path / "nothing.png") == ""


@pytest.mark.parametrize("name", ["sd15", "mobilediffusion-lite"])
def test_every_layer_of_a_network_is_drawn(tmp_path: Path, name: str) -> None:
    architecture = load_architecture(name)
    draw_architecture(architecture, tmp_path / "network.svg")
    text = (tmp_path / "network.svg").read_text()
    config = architecture.config
    blocks = [block for stage in config.stages for block in stage.down + stage.up] + list(config.middle)
    layers = sum(1 + sum(len(layers) for layers in block.transformers) for block in blocks)
    # The legend's four boxes and the background are patches too.
    assert text.count('<g id="patch_') >= layers
