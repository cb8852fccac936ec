"""Diagrams of stages: what is drawn is the plan, names are text, and what differs is marked."""

import re
from collections import Counter
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archsearch.catalog import Architecture, find
from archsearch.latency.predict import Predictor, load_table
from archsearch.report.diagram import DASHES, KINDS, diff_diagram, stage_diagram
from archsearch.report.layout import ACTIVATIONS, CONVOLUTIONS, OPTIONS, Network
from archsearch.search_space import paths
from archsearch.search_space.paths import unit_changes
from archsearch.unet.config import (
    Activation,
    AttentionOptions,
    Conv,
    FeedForwardOptions,
    UNetConfig,
)
from archsearch.unet.plan import plan
from archsearch.unet.presets import PRESETS, preset
from archsearch.unet.units import UNIT_TYPES, Unit
from tests.conftest import Cli
from tests.strategies import configs
from tools.diagrams import diagrams

SVG = "{http://www.w3.org/2000/svg}"
IMAGES = Path(__file__).parents[2] / "docs" / "images"
LAYERS = {
    "self_attention": "sa",
    "cross_attention": "ca",
    "feed_forward": "ff",
    "norm": "n",
}


def boxes(picture: str) -> list[ET.Element]:
    """The boxes of units, without those of the legend."""
    root = ET.fromstring(picture)
    groups = [group for group in root.iter(f"{SVG}g") if group.get("class") == "boxes"]
    return [rect for group in groups for rect in group.findall(f"{SVG}rect")]


def text(picture: str) -> str:
    return " ".join(ET.fromstring(picture).itertext())


def kinds(picture: str) -> Counter[str]:
    return Counter((box.get("class") or "").split()[0] for box in boxes(picture))


def planned(config: UNetConfig) -> Counter[str]:
    return Counter(LAYERS.get(unit.kind, unit.kind) for _, unit in plan(config).placed())


def with_(config: UNetConfig, **changes: Any) -> UNetConfig:
    tree = paths.open_form(config)
    for path, value in changes.items():
        paths.assign(tree, paths.parse(path), value)
    return UNetConfig.model_validate(tree)


def every_ms(config: UNetConfig) -> dict[Unit, float]:
    """A made-up latency, another one for each unit."""
    return {unit: 1.0 + number for number, (unit, _) in enumerate(plan(config).tally())}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("standalone", [True, False])
def test_every_preset_is_drawn_box_by_box(name: str, standalone: bool) -> None:
    config = preset(name)
    picture = stage_diagram(config, name, standalone=standalone)
    assert kinds(picture) == planned(config)
    for stage, size in zip(config.stages, config.sizes, strict=True):
        assert f"{stage.channels} channels" in text(picture)
        assert f"{size} × " in text(picture)


@settings(max_examples=40)
@given(configs)
def test_the_boxes_are_those_of_the_plan(config: UNetConfig) -> None:
    picture = stage_diagram(config, "drawn")
    assert kinds(picture) == planned(config)
    skips = [path for path in ET.fromstring(picture).iter() if path.get("class") == "skip"]
    assert len(skips) == sum(block.skip > 0 for stage in plan(config).stages for block in stage.up)


@settings(max_examples=40)
@given(configs)
def test_no_box_lies_on_another_or_outside(config: UNetConfig) -> None:
    picture = stage_diagram(config, "drawn")
    root = ET.fromstring(picture)
    width, height = int(root.get("width", 0)), int(root.get("height", 0))
    corners = [
        [int(box.get(name, 0)) for name in ("x", "y", "width", "height")] for box in boxes(picture)
    ]
    for index, (x, y, w, h) in enumerate(corners):
        assert x > 136  # labels are on the left
        assert x + w < width
        assert y + h < height
        for u, v, other_w, other_h in corners[:index]:
            assert x + w <= u or u + other_w <= x or y + h <= v or v + other_h <= y


@given(st.text(max_size=200))
@settings(max_examples=40)
def test_any_name_is_text_and_not_markup(name: str) -> None:
    for picture in (
        stage_diagram(preset("bk-sdm-base"), name),
        diff_diagram(*[Architecture(name, preset("bk-sdm-base"))] * 2),
    ):
        root = ET.fromstring(picture)
        shown = "".join(c if c.isprintable() else "\ufffd" for c in name)
        assert (root.findtext(f"{SVG}title") or "").startswith(shown)


def test_a_name_with_markup_adds_no_element() -> None:
    name = '<script>alert("&")</script>'
    root = ET.fromstring(stage_diagram(preset("bk-sdm-base"), name))
    plain = ET.fromstring(stage_diagram(preset("bk-sdm-base"), "plain"))
    assert Counter(element.tag for element in root.iter()) == Counter(
        element.tag for element in plain.iter()
    )
    assert name in [element.text for element in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("compared", [False, True])
def test_what_is_inlined_has_neither_style_nor_id(compared: bool) -> None:
    one, other = Architecture("one", preset("sd15")), Architecture("other", preset("sdxl"))
    latency = every_ms(one.config) | every_ms(other.config)
    pictures = [
        diff_diagram(one, other, latency, standalone=standalone)
        if compared
        else stage_diagram(one.config, one.name, latency, standalone=standalone)
        for standalone in (True, False)
    ]
    assert "prefers-color-scheme:dark" in pictures[0]
    root = ET.fromstring(pictures[1])
    assert not list(root.iter(f"{SVG}style"))
    for element in root.iter():
        assert not {"style", "id", "href", "onload"} & element.attrib.keys()


@settings(max_examples=30)
@given(configs)
def test_the_shares_of_latency_add_up_to_one(config: UNetConfig) -> None:
    network = Network(config, "timed", every_ms(config))
    assert sum(network.shares.values()) == pytest.approx(1)
    assert sum(network.of_kind.values()) == pytest.approx(1)
    assert sum(network.of_stage.values()) == pytest.approx(1)
    drawn = boxes(stage_diagram(config, "timed", every_ms(config)))
    told = [box.findtext(f"{SVG}title") or "" for box in drawn]
    percents = [float(re.findall(r"; ([\d.]+) % of the latency", title)[0]) for title in told]
    assert sum(percents) == pytest.approx(100, abs=0.006 * len(told))
    # A larger share is a deeper fill.
    fills = [float(box.get("fill-opacity", 0)) for box in drawn]
    ranked = [fill for _, fill in sorted(zip(percents, fills, strict=True))]
    assert ranked == pytest.approx(sorted(ranked), abs=0.01)


def test_a_measured_table_gives_the_shares(cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / "lite.svg"
    table = "cpu-onnxruntime-fp32"
    code, _, _ = cli("arch", "show", "mobilediffusion-lite", "--svg", target, "--table", table)
    assert code == 0
    picture = target.read_text()
    assert table in text(picture)
    latency = Predictor(load_table(find("table", table))).by_unit(preset("mobilediffusion-lite"))
    total = sum(latency[unit] for _, unit in plan(preset("mobilediffusion-lite")).placed())
    first = plan(preset("mobilediffusion-lite")).stages[0].up[0].residual
    assert (
        f"stages[0].up[0]: residual block, 960 to 320 channels at 64 × 64, full convolutions; "
        f"{100 * latency[first] / total:.2f} % of the latency" in text(picture)
    )


def test_estimated_units_are_told(cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / "sdxl.svg"
    cli("arch", "show", "sdxl", "--svg", target, "--table", "cpu-onnxruntime-fp32",
        "--on-missing", "predict")  # fmt: skip
    assert re.search(r"sdxl: \d+ of its units estimated", text(target.read_text()))


def test_a_published_table_has_no_shares(cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / "lite.svg"
    table = "iphone-15-pro.published"
    code, _, _ = cli("arch", "show", "mobilediffusion-lite", "--svg", target, "--table", table)
    assert code == 0
    assert "of the latency" not in text(target.read_text())


def test_everything_that_can_be_configured_has_its_words() -> None:
    assert KINDS.keys() == UNIT_TYPES.keys() - {"time_projection"}  # in plans a part of a block
    assert CONVOLUTIONS.keys() == DASHES.keys() == set(get_args(Conv))
    assert ACTIVATIONS.keys() == set(get_args(Activation))
    inherited = {"conv", "projection"} | AttentionOptions.model_fields.keys()
    assert OPTIONS.keys() == inherited | FeedForwardOptions.model_fields.keys()


def test_convolutions_are_told_apart_by_their_outline() -> None:
    config = with_(preset("sd15"), **{"stages[1].conv": "separable", "stages[2].conv": "expanded"})
    picture = stage_diagram(config, "mixed")
    outlines: dict[str, set[str | None]] = {}
    for box in boxes(picture):
        if box.get("class") == "residual":
            words = (box.findtext(f"{SVG}title") or "").rpartition(", ")[2]
            outlines.setdefault(words, set()).add(box.get("stroke-dasharray"))
    assert outlines == {
        "full convolutions": {None},
        "separable convolutions": {"4 2"},
        "expanded separable convolutions": {"1.5 2"},
    }


def test_a_screen_reader_is_told_the_network() -> None:
    root = ET.fromstring(stage_diagram(preset("mobilediffusion-lite"), "mobilediffusion-lite"))
    assert root.get("role") == "img"
    assert [element.tag for element in root][:2] == [f"{SVG}title", f"{SVG}desc"]
    assert "mobilediffusion-lite" in (root[0].text or "")
    told = root[1].text or ""
    assert "ReLU attention" in told
    assert "Stage 2: 16 × 16, 864 channels, separable convolutions; way down 2 × " in told


def test_a_stage_says_only_what_it_has_otherwise() -> None:
    config = with_(preset("sd15"), **{"stages[1].attention.kv": "shared_everywhere"})
    rows = Network(config, "one").rows
    assert [row.label[2:] for row in rows] == [
        [],
        ["keys and values shared", "in all attention"],
        [],
        [],
        ["1280 channels"],
    ]
    assert "separate keys and values" in Network(config, "one").options


@settings(max_examples=40)
@given(configs, configs)
def test_marks_account_for_every_difference(one: UNetConfig, other: UNetConfig) -> None:
    old, new = unit_changes(plan(one), plan(other))
    counts = [Counter(changes.values()) for changes in (old, new)]
    units = [len(list(plan(config).placed())) for config in (one, other)]
    assert units[0] - counts[0]["removed"] == units[1] - counts[1]["added"]
    assert counts[0]["changed"] == counts[1]["changed"]
    assert unit_changes(plan(one), plan(one)) == ({}, {})
    assert (old == new == {}) == (list(plan(one).placed()) == list(plan(other).placed()))
    drawn = boxes(diff_diagram(Architecture("one", one), Architecture("other", other)))
    marked = Counter(mark for box in drawn for mark in (box.get("class") or "").split()[1:])
    assert marked == counts[0] + counts[1]


@pytest.mark.parametrize(
    ("path", "value", "removed", "added", "changed"),
    [
        ("stages[3].up.length", 2, {"stages[3].up[2].residual"}, set(), set()),
        ("middle[1].layers", ["ca"], set(),
         {"middle[1].projection", "middle[1].transformers[0].cross_attention"}, set()),
        ("stages[0].up[0].layers", ["sa", "ff"],
         {"stages[0].up[0].transformers[0].cross_attention"}, set(), set()),
        ("stages[3].conv", "separable", set(), set(),
         {*(f"stages[3].down[{n}].residual" for n in range(2)),
          *(f"stages[3].up[{n}].residual" for n in range(3)),
          *(f"middle[{n}].residual" for n in range(2))}),
        ("in_channels", 8, set(), set(), {"input"}),
        ("stages[0].attention.head_dim", 40, set(), set(), set()),  # eight heads, as before
    ],
)  # fmt: skip
def test_exactly_what_differs_is_marked(
    path: str, value: Any, removed: set[str], added: set[str], changed: set[str]
) -> None:
    before = preset("sd15")
    after = with_(before, **{path: value})
    old, new = unit_changes(plan(before), plan(after))
    assert old == dict.fromkeys(removed, "removed") | dict.fromkeys(changed, "changed")
    assert new == dict.fromkeys(added, "added") | dict.fromkeys(changed, "changed")


def test_a_diff_lists_widths_and_options(cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / "diff.svg"
    assert cli("arch", "diff", "sd15", "mobilediffusion", "--svg", target)[0] == 0
    told = text(target.read_text())
    assert "896 channels (were 1280)" in told
    assert "attention.normalizer softmax relu" in told
    assert "stages[2].conv full separable" in told  # what is left out is inherited
    assert "stages[3].channels" not in told  # a stage that is not there is seen
    assert "sd15 compared with mobilediffusion" in told


def test_an_option_that_a_stage_inherits_is_told_with_its_value() -> None:
    before = with_(preset("sd15"), **{"stages[0].conv": "separable"})
    after = with_(before, conv="separable")
    assert paths.option_differences(before, after) == {"conv": ("full", "separable")}
    assert paths.option_differences(preset("sd15"), before) == {
        "stages[0].conv": ("full", "separable")
    }


def test_what_cannot_be_written_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = cli("arch", "show", "sd15", "--svg", tmp_path / "file" / "sd15.svg")
    assert code == 1
    assert "Traceback" not in err


def test_the_pictures_of_the_page_are_those_drawn_now() -> None:
    drawn = diagrams()
    committed = {path.name: path.read_text(encoding="utf-8") for path in IMAGES.glob("stages-*")}
    assert committed == {name: picture + "\n" for name, picture in drawn.items()}, (
        "docs/images is out of date: run `make diagrams`"
    )
    page = (IMAGES.parent / "architectures.md").read_text(encoding="utf-8")
    for name, picture in drawn.items():
        assert f"(images/{name})" in page
        assert len(picture) < 60_000


def test_the_example_of_the_page_runs() -> None:
    page = (IMAGES.parent / "architectures.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    assert kinds(names["picture"]) == planned(preset("mobilediffusion"))
