"""Packages of Core ML, looked at from outside: they run on macOS and iOS only."""

from pathlib import Path
from typing import Any

import pytest

from archsearch.errors import InputError
from archsearch.export.formats import export
from archsearch.unet.config import UNetConfig
from tests.export.test_card import rows
from tests.export.test_contract import TINY

SPECIFICATION = {17: 8, 18: 9}  # of Core ML's models, by the first iOS that reads it
# So wide that a tensor has more than 2,048 values, which is what is compressed.
WIDE = UNetConfig.model_validate(
    TINY.to_dict()
    | {
        "norm_groups": 16,
        "stages": [
            {"channels": 32, "down": [{}], "up": [{}] * 2},
            {"channels": 64, **{side: [{"transformers": 1, "layers": ["sa", "ca", "ff"]}] * count
                                for side, count in (("down", 1), ("up", 2))}},
        ],
    }
)  # fmt: skip


def shapes(features: Any) -> dict[str, list[int]]:
    return {each.name: list(each.type.multiArrayType.shape) for each in features}


@pytest.mark.slow
@pytest.mark.parametrize("format", ["coreml", "coreml-int8", "coreml-palettised"])
def test_a_package_is_for_the_ios_that_is_asked_for(format: str, tmp_path: Path) -> None:
    coremltools = pytest.importorskip("coremltools")
    found = {}
    for ios in (None, 18):  # nothing said is 17
        path = tmp_path / f"{ios}.mlpackage"
        card = export(WIDE, format, path, ios=ios)
        spec = coremltools.utils.load_spec(str(path))
        assert spec.specificationVersion == SPECIFICATION[ios or 17]
        assert shapes(spec.description.input) == {
            "sample": [1, 4, 8, 8],
            "timesteps": [1],
            "context": [1, 5, 24],
        }
        assert shapes(spec.description.output) == {"prediction": [1, 4, 8, 8]}
        (program,) = spec.mlProgram.functions.values()
        assert list(program.block_specializations) == [f"CoreML{SPECIFICATION[ios or 17] - 1}"]
        (block,) = program.block_specializations.values()
        found[ios] = {each.type for each in block.operations}
        told = rows(card.read_text())["runs on"][0]
        assert told == ("iOS 18, macOS 15 and later" if ios == 18 else "iOS 17, macOS 14 and later")
    assert {"matmul", "softmax"} <= found[None] - found[18]
    assert "scaled_dot_product_attention" in found[18] - found[None]  # attention as a whole


def test_an_ios_that_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--ios: 16 is not a target; allowed are 17, 18"):
        export(TINY, "coreml", tmp_path / "net.mlpackage", ios=16)
    with pytest.raises(InputError, match=r"--ios: 18 is given, but only coreml, .* not onnx"):
        export(TINY, "onnx", tmp_path / "net.onnx", ios=18)
    assert list(tmp_path.iterdir()) == []
