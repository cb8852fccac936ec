"""What a study trains goes through every format: two presets and two random networks here, every
preset and twenty in ``benchmarks/export_formats.py``.
"""

import re
from itertools import islice
from pathlib import Path

import pytest

import archsearch
from archsearch.export.formats import EXPORTERS
from archsearch.export.writing import TOLERANCE, TOLERANCE_FLOAT16
from archsearch.unet.presets import PRESETS
from benchmarks.export_formats import exported, proxies

RUNTIMES_PYTHON = Path(__file__).parents[2] / ".venv-runtimes" / "bin" / "python"
SETTING = archsearch.Study("quickstart").setting
NETWORKS = {
    name: config
    for name, config in islice(proxies(SETTING, 2, 0), len(PRESETS) + 2)
    if name in ("mobilediffusion-lite", "dreamlite", "random 0", "random 1")
}
LONG = ("coreml-palettised", "executorch")
"""Formats that take a minute a network: two go through them."""
CASES = [
    (network, format)
    for network in NETWORKS
    for format in EXPORTERS
    if format not in LONG or network in ("mobilediffusion-lite", "random 0")
]


@pytest.mark.slow
@pytest.mark.parametrize(("network", "format"), CASES)
def test_it_is_written_and_where_it_can_be_run_computes_what_torch_does(
    network: str, format: str, tmp_path: Path
) -> None:
    if format == "coreai":
        pytest.importorskip("coreai")  # it has no wheels for some machines
    found = exported(SETTING, NETWORKS[network], format, RUNTIMES_PYTHON, tmp_path)
    if format == "diffusers" and network != "dreamlite":  # separable convolutions, ReLU attention
        assert "cannot be a diffusers UNet2DConditionModel" in found["refused"]
        return
    assert "refused" not in found
    if format in ("onnx", "executorch", "coreai"):
        told = found["facts"]["compared with torch"]
        (difference,) = re.findall(r"largest difference (\S+) of", told)
        assert float(difference) <= (TOLERANCE_FLOAT16 if format == "coreai" else TOLERANCE)
