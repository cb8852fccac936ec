"""Published figures: two networks and a line, good for their own family only, and marked wherever
they show.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from archsearch.catalog import find
from archsearch.errors import InputError
from archsearch.latency.predict import load_table, predict
from archsearch.latency.table import LatencyTable, PublishedTable
from archsearch.unet.config import UNetConfig
from archsearch.unet.presets import PRESETS, preset

IPHONE = find("table", "iphone-15-pro.published")


@pytest.fixture
def iphone() -> PublishedTable:
    table = load_table(IPHONE)
    assert isinstance(table, PublishedTable)
    return table


def test_tables_of_both_sorts_are_told_apart(golden_path: Path) -> None:
    assert isinstance(load_table(IPHONE), PublishedTable)
    assert isinstance(load_table(golden_path), LatencyTable)


def test_the_published_networks_are_what_was_published(iphone: PublishedTable) -> None:
    """142 and 123 ms, published at 182 and 153 GMACs; the reconstructions have 182.4 and 155.8."""
    assert predict(preset("mobilediffusion"), iphone).latency_ms == pytest.approx(142, rel=0.01)
    assert predict(preset("mobilediffusion-lite"), iphone).latency_ms == pytest.approx(
        123, rel=0.02
    )
    assert {line.part: line.p50 for line in iphone.parts} == {"text-encoder": 4.0, "decoder": 92.0}


def test_what_it_says_is_marked(iphone: PublishedTable) -> None:
    prediction = predict(preset("mobilediffusion"), iphone)
    assert (prediction.provenance, prediction.mark) == ("published", "published estimate")


@pytest.mark.parametrize(
    "name", sorted(PRESETS.keys() - {"mobilediffusion", "mobilediffusion-lite"})
)
def test_other_families_are_refused(iphone: PublishedTable, name: str) -> None:
    with pytest.raises(
        InputError, match=r"iphone-15-pro\.published has .* MobileDiffusion family only: needs"
    ):
        predict(preset(name), iphone)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sample_size": 32}, r"needs a sample of 64².*; 122 to 218 GMACs .* \(it has 4\d\.\d\)"),
        ({"feed_forward": {"expansion": 16, "activation": "silu"}}, r"needs 122 to 218 GMACs"),
    ],
)
def test_a_network_outside_is_told_what_it_would_have_to_be(
    iphone: PublishedTable, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        predict(UNetConfig.model_validate(preset("mobilediffusion").to_dict() | change), iphone)


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a line that misses": (
        lambda data: data["line"].update(offset_ms=0.0),
        r"line: gives mobilediffusion 119\.2 ms, but 142\.0 ms",
    ),
    "one network": (lambda data: data["whole"].pop(), r"whole: List should have at least 2 items"),
    "no source": (lambda data: data.pop("source"), r"source: Field required"),
    "unknown key": (
        lambda data: data["line"].update(ofset=1),
        r"line\.ofset: is not a known key\..* Allowed are: ms_per_gmac, offset_ms",
    ),
    "other provenance": (
        lambda data: data.update(provenance="guessed"),
        r"provenance: .*but got 'guessed'",
    ),
    "negative time": (
        lambda data: data["whole"][0].update(measured=-1.0),
        r"whole\[0\]\.measured: .*but got -1\.0",
    ),
    "entries": (lambda data: data.update(entries=[]), r"entries: is not a known key"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_errors_name_file_and_key(case: str, tmp_path: Path) -> None:
    change, message = BROKEN[case]
    data = json.loads(IPHONE.read_text())
    change(data)
    path = tmp_path / "broken.published.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=message) as caught:
        load_table(path)
    assert str(caught.value).startswith(f"{path}: ")
