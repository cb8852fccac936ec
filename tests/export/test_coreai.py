"""Assets of Core AI, run by the runtime that comes with its converter."""

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import archsearch
from archsearch.errors import ArchsearchError, InputError
from archsearch.export import coreai, writing
from archsearch.export.formats import export
from tests.export.test_card import rows, run_lines
from tests.export.test_contract import GUIDED, TINY


@pytest.fixture
def _converter() -> None:
    pytest.importorskip("coreai")


needs_converter = pytest.mark.usefixtures("_converter")


def test_an_asset_has_its_suffix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"net\.mlpackage: .* must be called \*\.aimodel"):
        coreai.export_unet_coreai(TINY, tmp_path / "net.mlpackage")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@needs_converter
def test_numbers_are_float16_but_for_what_sinusoids_are_taken_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = export(GUIDED, "coreai", tmp_path / "a 'net'.aimodel").read_text()
    told = rows(card)
    kinds = dict(re.findall(r"`(\w+)` NDArray \((\w+),", told["inputs"][0]))
    assert kinds == {
        "sample": "Float16",
        "timesteps": "Float32",
        "context": "Float16",
        "text_embeds": "Float16",
        "time_ids": "Float32",
        "guidance": "Float32",
    }
    assert told["outputs"][0] == "`prediction` NDArray (Float16, 1 × 4 × 8 × 8)"
    error = re.match(r"largest difference (\S+) of", told["compared with torch"][0])
    assert error is not None
    assert 1e-5 < float(error[1]) < 1e-2  # rounded, and nothing else
    assert re.search(r"Operators: .*\d+ `conv2d`.* \d+ `softmax`", card)
    prediction = run_lines(card, tmp_path, monkeypatch)["prediction"]
    assert isinstance(prediction, np.ndarray)
    assert (prediction.shape, prediction.dtype) == ((1, 4, 8, 8), np.float16)
    assert np.isfinite(prediction).all()


@pytest.mark.slow
@needs_converter
def test_it_runs_in_a_notebook_and_tells_nothing_of_this_machine(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def cell() -> Path:  # notebooks run cells in a loop
        return export(TINY, "coreai", tmp_path / "net.aimodel")

    assert "largest difference" in asyncio.run(cell()).read_text()
    assert capfd.readouterr() == ("", "")
    ours = str(Path(archsearch.__file__).parent).encode()
    held = [file.read_bytes() for file in (tmp_path / "net.aimodel").iterdir()]
    assert len(held) == 3
    assert not any(ours in each for each in held)


@pytest.mark.slow
@needs_converter
def test_a_large_network_is_written_but_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coreai, "MOST_MACS", 0)
    told = rows(export(TINY, "coreai", tmp_path / "net.aimodel").read_text())
    assert told["compared with torch"][0].startswith("not compared: ")


@pytest.mark.slow
@needs_converter
def test_a_wrong_conversion_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "TOLERANCE_FLOAT16", -1.0)
    with pytest.raises(ArchsearchError, match="Core AI's output differs from torch's"):
        export(TINY, "coreai", tmp_path / "net.aimodel")
    assert list(tmp_path.iterdir()) == []


class _Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


@pytest.mark.slow
@needs_converter
def test_an_operator_that_core_ai_lacks_is_named() -> None:
    message = r"refuses the network: .* unsupported ATen ops: aten\.special_bessel_j0\.default\.$"
    with pytest.raises(ArchsearchError, match=message):
        coreai.convert_coreai(_Bessel(), (torch.ones(1),), ["x"], ["y"])
