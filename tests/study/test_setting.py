"""What is refused before anything is trained, and in which words."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from archsearch.errors import InputError
from archsearch.latency.table import LatencyTable
from archsearch.study.check import check_feasibility, estimate, foreign_processors
from archsearch.study.setting import InfeasibleError, load_setting
from archsearch.unet.presets import preset

from .conftest import WriteStudy, WriteTable


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"objectives": {"val_los": "minimize"}},
            "'val_los' is not a known score. Did you mean 'val_loss'?",
        ),
        (
            {"objectives": {"alignment": "minimize"}},
            "objectives.alignment must be maximized, but got minimize",
        ),
        ({"objectives": {"latency_ms": "minimize"}}, "latency_ms needs a latency table"),
        ({"report": ["fid"]}, "metrics.inception"),
        ({"report": ["clip_score"]}, "metrics.clip"),
        ({"limits": {"params": -3}}, "limits.params.max: must be greater than 0, but got -3"),
        ({"limits": {"parms": 3}}, "Did you mean 'params'?"),
        (
            {"limits": {"params": {"min": 4_000, "max": 300}}},
            "limits.params: min 4000 is larger than max 300",
        ),
        ({"limits": {"params": {}}}, "limits.params: needs a number (the largest allowed value)"),
        ({"search": {"compare_at": ["parms"]}}, "Did you mean 'params'?"),
        (
            {"search": {"points": [{"outr": 64}]}},
            "'outr' is no dimension of the space.",
        ),
        (
            {"search": {"points": [{"outer": 65}]}},
            "'outer' must be one of 64, 128, 256",
        ),
        ({"search": {"configs": ["sd15"]}}, "sd15 does not lie in space 'small'"),
        ({"search": {"warm_start": "nowhere"}}, "nowhere"),
        ({"data": {"size": 24}}, r"proxy.sample_size (16) must be data.size (24) divided by 1"),
        ({"data": {"size": 17}}, "data.size: must be a multiple of 8, but got 17"),
        ({"proxy": {"width": 0}}, "proxy.width: must be greater than 0, but got 0"),
        ({"proxy": {"samles": 3}}, "proxy.samles: is not a known key. Did you mean 'samples'?"),
        ({"search": {"sampler": {"name": "nsga4"}}}, "search.sampler.name"),
        ({"schema": 2}, "schema: must be 1, but got 2"),
        ({"deployment": {"tables": ["nowhere"]}}, "table 'nowhere' is not known"),
        ({"space": "nowhere"}, "space 'nowhere' is not known"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused(
    write_study: WriteStudy, changes: dict[str, Any], told: str
) -> None:
    study = {"deployment": {}} | changes
    path = write_study(**{key: value for key, value in study.items() if key != "deployment"})
    if "deployment" in changes:
        path.write_text(path.read_text() + f"deployment: {changes['deployment']}\n")
    with pytest.raises(InputError) as raised:
        load_setting(path).check_files()
    assert told in str(raised.value)
    assert str(path) in str(raised.value)


def test_every_fault_of_a_study_is_told_a_line_each(write_study: WriteStudy) -> None:
    path = write_study(
        space="nowhere",
        objectives={"val_loss": "minimize", "latency_ms[phone]": "minimize"},
        deployment={"tables": ["no-table"], "reference": "no-network"},
    )
    with pytest.raises(InputError) as raised:
        load_setting(path)
    lines = str(raised.value).splitlines()
    assert len(lines) == 3
    for line, key in zip(
        lines, ("space", "deployment.reference", "deployment.tables"), strict=True
    ):
        assert line.startswith(f"{path}:")
        assert f": {key}" in line
    written = path.read_text().splitlines()
    assert "nowhere" in written[int(lines[0].split(":")[1]) - 1]


def test_a_point_is_priced_or_said_to_be_infeasible_and_why(write_study: WriteStudy) -> None:
    setting = load_setting(write_study(limits={"params": 3_000_000}))
    candidate = setting.candidate({"outer": 64, "inner": 64, "layers": []})
    assert candidate.network == setting.space.build(candidate.point)
    assert candidate.costs == setting.priced(candidate.network)
    with pytest.raises(InfeasibleError, match=r"params [\d.e+,]+ > 3e\+06") as raised:
        setting.candidate({"outer": 256, "inner": 256, "layers": []})
    assert raised.value.outcome == "infeasible: limits"
    assert raised.value.broken == ["limits.params"]
    assert raised.value.network is not None
    assert raised.value.costs["params"] > 3_000_000


def test_a_space_whose_every_network_breaks_the_limits_is_refused(write_study: WriteStudy) -> None:
    with pytest.raises(InputError, match=r"within the limits: params ≤ 10, seen [\d,]+ to"):
        check_feasibility(load_setting(write_study(limits={"params": 10})), draws=20)


def test_a_table_that_lacks_entries_is_refused_by_name(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    golden = next((Path(__file__).parents[1] / "latency" / "golden").glob("*.json"))
    LatencyTable.load(golden)
    path = write_study(objectives={"latency_ms": "minimize"})
    path.write_text(path.read_text() + f"deployment: {{tables: ['{golden}']}}\n")
    with pytest.raises(
        InputError, match=r"has no entry for \d+ units of space 'small'.*latency measure"
    ):
        check_feasibility(load_setting(path), draws=5)


def test_precision_is_settled_when_the_study_is_read(write_study: WriteStudy) -> None:
    assert load_setting(write_study(proxy={"precision": "auto"})).spec.proxy.precision in (
        "fp32",
        "bf16",
    )


def test_costs_are_taken_at_deployment_scale_and_quality_at_proxy_scale(
    write_study: WriteStudy,
) -> None:
    setting = load_setting(write_study())
    config = setting.space.base
    assert setting.priced(config).scores["params"] > 10_000
    assert setting.proxy(config).sample_size == 16
    assert setting.proxy(config).stages[0].channels == 8


def test_the_shipped_quickstart_is_complete() -> None:
    setting = load_setting(Path(__file__).parents[2] / "studies" / "quickstart.yaml")
    found = check_feasibility(setting)
    assert found.within_limits > 0.5 * found.drawn
    assert setting.space.locate(preset("mobilediffusion-lite")) is not None
    costs = setting.priced(preset("mobilediffusion-lite")).scores
    assert costs["pipeline_unet_ms"] == pytest.approx(8 * costs["latency_ms"])


def test_a_dry_run_says_what_it_would_take(write_study: WriteStudy, tmp_path: Path) -> None:
    setting = load_setting(write_study())
    expected = estimate(setting, check_feasibility(setting, draws=20), tmp_path, workers=2)
    assert expected["seconds_per_trial"] > 0
    assert expected["hours"] == pytest.approx((3 + 2) * expected["seconds_per_trial"] / 2 / 3600)
    assert expected["distinct_proxies"] <= expected["of_candidates"]
    assert expected["disk_bytes"] > 0


@pytest.mark.parametrize("section", ["search", "report", "engine", "limits", "deployment"])
def test_an_empty_section_means_the_defaults(write_study: WriteStudy, section: str) -> None:
    path = write_study()
    study = yaml.safe_load(path.read_text())
    without = {key: value for key, value in study.items() if key != section}
    path.write_text(yaml.safe_dump(without))
    expected = load_setting(path).spec
    path.write_text(f"{yaml.safe_dump(without)}{section}:\n")
    assert load_setting(path).spec == expected


def test_a_table_of_another_processor_is_told(
    write_study: WriteStudy, write_table: WriteTable
) -> None:
    here, there, phone = (
        load_setting(write_study(deployment={"tables": [str(table)]}))
        for table in (
            write_table("cpu"),
            write_table("cpu", folder="theirs", soc="Another"),
            write_table("phone", soc="Another"),
        )
    )
    assert foreign_processors(here) == []
    assert foreign_processors(phone) == [], "nobody takes it for this machine"
    (told,) = foreign_processors(there)
    assert told.startswith("Latency is predicted for Another, where table cpu was measured;")
    assert "archsearch latency measure --space small --runtime onnxruntime" in told
