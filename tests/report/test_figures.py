from pathlib import Path

import pytest
import torch
from PIL import Image

from archsearch.report.figures import _captions, _devices, _front, draw_scatter
from archsearch.study.finish import save_grid
from archsearch.study.results import ScoredTrial
from archsearch.study.setting import load_setting


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
def test_the_drawn_front_holds_what_nothing_dominates(
    points: list[tuple[float, float]], front: list[int]
) -> None:
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
    (tmp_path / "samples.json").write_text(
        '{"schema": 1, "captions": ["a", "b", "c"], "columns": 2}'
    )
    assert _captions(tmp_path / "samples.png") == "row 1: a · b\nrow 2: c"
    assert _captions(tmp_path / "nothing.png") == ""


def test_a_latency_that_is_an_estimate_is_drawn_as_one(tmp_path: Path) -> None:
    setting = load_setting(Path(__file__).parents[2] / "studies" / "quickstart.yaml")
    guessed = {setting.devices[0].name: "2 of its units estimated"}
    scores = {"val_loss": 0.5, "latency_ms": 200.0}
    plain, estimated = (
        ScoredTrial(0, None, "k", "d", {}, scores, provenance=found) for found in ({}, guessed)
    )
    assert _devices(setting, "latency_ms", [plain]).endswith("predicted from measured units")
    assert _devices(setting, "latency_ms", [plain, estimated]).endswith("some of them estimated")
    for name, member in (("plain", plain), ("estimated", estimated)):
        draw_scatter([member], setting, "val_loss", "latency_ms", tmp_path / f"{name}.png")
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "estimated.png").read_bytes()
