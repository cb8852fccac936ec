"""The command line's contract: what is printed, what exit codes say, what a mistake is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from PIL import Image

from archsearch.catalog import read_config
from archsearch.cli.app import COMMANDS, interruptible
from archsearch.files import write_json
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet
from archsearch.unet.presets import preset
from archsearch.unet.weights import load_weights, save_weights
from tests.conftest import Cli
from tests.edit.networks import small, weights
from tests.unet.published import SD15


def test_the_presets_are_listed_with_their_cost(cli: Cli) -> None:
    code, out, _ = cli("arch", "list", "--json")
    listed = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert listed["sd15"]["params"] == 859_520_964


def test_show_prints_what_the_contract_promises(cli: Cli) -> None:
    code, out, _ = cli("arch", "show", "mobilediffusion-lite", "--json")
    shown = json.loads(out)
    assert code == 0
    assert {
        "name",
        "params",
        "macs",
        "macs_by_kind",
        "peak_activation_bytes",
        "stages",
    } <= shown.keys()
    assert set(shown["macs_by_kind"]) == {"conv", "linear", "attention"}
    assert sum(stage["params"] for stage in shown["stages"]) == shown["params"]


def test_show_asks_another_counter(cli: Cli) -> None:
    _, out, _ = cli("arch", "show", "mobilediffusion-lite", "--json", "--counter", "torch")
    shown = json.loads(out)
    assert shown["counter"] == {"name": "torch", "params": shown["params"], "macs": shown["macs"]}


def test_show_draws_the_network(cli: Cli, tmp_path: Path) -> None:
    code, _, _ = cli("arch", "show", "mobilediffusion-lite", "--svg", tmp_path / "lite.svg")
    assert code == 0
    assert "<svg" in (tmp_path / "lite.svg").read_text()


def test_show_with_a_table_adds_measured_latency(cli: Cli) -> None:
    _, out, _ = cli(
        "arch", "show", "mobilediffusion-lite", "--json", "--table", "cpu-onnxruntime-fp32"
    )
    shown = json.loads(out)
    assert shown["latency_ms"] > 0
    assert shown["latency_table"] == "cpu-onnxruntime-fp32"
    assert sum(stage["ms"] for stage in shown["stages"]) == pytest.approx(
        shown["latency_ms"], rel=0.2
    )


def test_a_network_outside_the_table_names_the_entries_it_lacks(cli: Cli) -> None:
    code, _, err = cli("arch", "show", "sdxl", "--table", "cpu-onnxruntime-fp32")
    assert code == 2
    assert "cpu-onnxruntime-fp32 lacks" in err
    assert "norm_groups=32" in err  # the fields of a missing unit
    assert "archsearch latency measure" in " ".join(err.split())


def test_brackets_in_tables_are_printed(cli: Cli) -> None:
    _, out, _ = cli("arch", "show", "mobilediffusion-lite")
    assert "2 × (R + 3 [sa ca ff])" in out


def test_diff_shows_keys_and_what_they_buy(cli: Cli) -> None:
    _, out, _ = cli("arch", "diff", "sd15", "mobilediffusion-lite", "--json")
    differing = json.loads(out)
    assert differing["config"]["attention.normalizer"] == [None, "relu"]
    assert differing["cost"]["params"] == [859_520_964, 276_828_936]


def test_edit_applies_a_recipe_step_by_step(cli: Cli, tmp_path: Path) -> None:
    steps = [
        {"name": "narrow", "set": {"stages[2].channels": 640}},
        {"name": "full", "set": {"stages[2].conv": "full"}},
    ]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"schema": 1, "steps": steps}))
    output = tmp_path / "edited.json"
    code, out, _ = cli(
        "arch",
        "edit",
        "mobilediffusion-lite",
        "--recipe",
        tmp_path / "recipe.yaml",
        "--output",
        output,
        "--json",
    )
    params = [step["params"] for step in json.loads(out)]
    assert code == 0
    assert params[1] < params[0]  # narrower than before
    assert params[1] < params[2]  # full convolutions cost more than separable ones
    assert read_config(output).conv_of(2) == "full"


def test_edit_takes_weights_along_and_draws_what_each_step_saves(cli: Cli, tmp_path: Path) -> None:
    config = small(**{"stages[0].*.layers": ["ca", "ff"]})
    write_json(tmp_path / "small.json", config.to_dict())
    save_weights(weights(config), tmp_path / "small.safetensors")
    steps = [
        {"name": "share", "set": {"attention.kv": "shared"}},
        {"name": "thin", "set": {"stages[1].channels": 48}},
    ]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"schema": 1, "steps": steps}))
    targets = {name: tmp_path / f"edited.{name}" for name in ("json", "safetensors", "png")}
    outputs = (
        "--output",
        targets["json"],
        "--output-weights",
        targets["safetensors"],
        "--plot",
        targets["png"],
    )
    call = (
        "arch",
        "edit",
        tmp_path / "small.json",
        "--recipe",
        tmp_path / "recipe.yaml",
        "--weights",
        tmp_path / "small.safetensors",
    )
    code, out, _ = cli(*call, *outputs, "--json")
    assert code == 0
    start, share, thin = json.loads(out)
    assert "output_change" not in start
    assert 0 < share["output_change"] == share["output_change_in_all"] < 1
    assert thin["params"] < share["params"] < start["params"]
    load_weights(
        read_config(targets["json"]), targets["safetensors"]
    )  # complete, and of its shapes
    with Image.open(targets["png"]) as plot:
        assert plot.size[0] > 400
    code, _, err = cli(*call, *outputs)
    assert code == 2
    assert "is there already" in err


def test_the_shipped_recipe_is_found_by_name(cli: Cli) -> None:
    code, out, _ = cli("arch", "edit", "sd15", "--recipe", "mobilediffusion", "--json")
    assert code == 0
    assert json.loads(out)[-1]["digest"] == preset("mobilediffusion").digest


@pytest.mark.parametrize(
    ("option", "path", "allowed"),
    [
        ("--output", "out.txt", "*.json or *.yaml"),
        ("--plot", "plot.jpg", "*.png"),
        ("--output-weights", "w.bin", "*.safetensors"),
    ],
)
def test_what_edit_writes_must_be_called_so_that_it_is_read_again(
    cli: Cli, tmp_path: Path, option: str, path: str, allowed: str
) -> None:
    weights_too = ("--weights", tmp_path / "w.safetensors") if option == "--output-weights" else ()
    code, _, err = cli(
        "arch", "edit", "sd15", "--recipe", "mobilediffusion", *weights_too, option, tmp_path / path
    )
    assert code == 2
    assert f"{option}: must be called {allowed}" in err


def test_diff_says_what_defaults_mean(cli: Cli) -> None:
    _, out, _ = cli("arch", "diff", "sd15", "mobilediffusion-lite")
    kv = next(line for line in out.splitlines() if "attention.kv" in line)
    assert "separate" in kv
    assert "shared" in kv


def test_weights_to_write_need_weights_to_read(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli(
        "arch",
        "edit",
        "sd15",
        "--recipe",
        "mobilediffusion",
        "--output-weights",
        tmp_path / "x.safetensors",
    )
    assert code == 2
    assert "--output-weights: needs --weights" in err


def test_show_lists_every_layer(cli: Cli) -> None:
    _, out, _ = cli("arch", "show", "mobilediffusion-lite", "--layers", "--json")
    shown = json.loads(out)
    assert sum(layer["params"] for layer in shown["layers"]) == shown["params"]
    assert sum(layer["macs"] for layer in shown["layers"]) == shown["macs"]
    _, out, _ = cli("arch", "show", "mobilediffusion-lite", "--layers")
    assert "stages[2].down[1].transformers[2].cross_attention" in out
    assert shown["weight_bytes"]["float16"] == 2 * shown["params"]


def test_space_show_and_sample(cli: Cli) -> None:
    _, out, _ = cli("space", "show", "quickstart", "--json")
    assert json.loads(out)["presets"] == ["mobilediffusion-lite"]
    _, once, _ = cli("space", "sample", "quickstart", "-n", 3, "--seed", 5, "--json")
    _, again, _ = cli("space", "sample", "quickstart", "-n", 3, "--seed", 5, "--json")
    assert once == again
    assert len({row["digest"] for row in json.loads(once)}) == 3


def test_latency_show(cli: Cli) -> None:
    code, out, _ = cli("latency", "show", "cpu-onnxruntime-fp32", "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["unit"] == "ms"
    assert shown["entries"] > 100


def test_init_copies_what_ships_and_leaves_what_is_there(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "quickstart.yaml").write_text("mine")
    code, _, _ = cli("init", tmp_path)
    assert code == 0
    assert (tmp_path / "studies" / "quickstart.yaml").read_text() == "mine"
    assert (tmp_path / "search_spaces" / "quickstart.yaml").is_file()
    assert (tmp_path / "latency_tables" / "cpu-onnxruntime-fp32.json").is_file()


def test_the_command_line_shows_and_exports_a_diffusers_network(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "some-sd15" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"_class_name": "UNet2DConditionModel", **SD15}))
    code, out, _ = cli("arch", "show", path, "--json")
    assert code == 0
    shown = json.loads(out)
    assert (shown["name"], shown["params"]) == ("some-sd15", 859_520_964)
    code, _, _ = cli("export", path.parent, "--format", "json", "--output", tmp_path / "mine.json")
    assert code == 0
    assert read_config(tmp_path / "mine.json") == preset("sd15")


def test_weights_are_exported_under_the_other_names(cli: Cli, tmp_path: Path) -> None:
    block = {"layers": ["sa", "ca", "ff"]}
    stages = [{"channels": 16, "down": [block], "up": [block] * 2}]
    config = UNetConfig.model_validate({"sample_size": 8, "norm_groups": 8, "stages": stages})
    (tmp_path / "net.json").write_text(config.to_json())
    state = UNet(config).state_dict()
    save_weights(state, tmp_path / "net.safetensors")
    given = ("--format", "diffusers", "--weights", tmp_path / "net.safetensors")
    assert cli("export", tmp_path / "net.json", *given, "--output", tmp_path / "net")[0] == 0
    written = load_weights(config, tmp_path / "net" / "diffusion_pytorch_model.safetensors")
    assert all(written[name].equal(state[name]) for name in state)
    code, _, err = cli(
        "export",
        "sd15",
        "--format",
        "json",
        "--weights",
        tmp_path / "net.safetensors",
        "--output",
        tmp_path / "x",
    )
    assert code == 2
    assert "format json holds no weights" in err


def test_export_rebuilds_the_same_network(cli: Cli, tmp_path: Path) -> None:
    code, _, _ = cli(
        "export", "mobilediffusion-lite", "--format", "yaml", "--output", tmp_path / "lite.yaml"
    )
    assert code == 0
    assert read_config(tmp_path / "lite.yaml") == preset("mobilediffusion-lite")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("arch show mobilediffusion-light", "Did you mean 'mobilediffusion-lite'?"),
        ("arch show sd15 --counter flops", "allowed are torch, fvcore, thop"),
        ("arch show nowhere#3", "nowhere is not a run"),
        ("space show quikstart", "Did you mean 'quickstart'?"),
        ("latency show no-table", "table 'no-table' is not known"),
        (
            "latency measure --runtime onnx --output t.json --arch sd15",
            "Did you mean 'onnxruntime'?",
        ),
        ("latency measure --runtime torch --output t.json --arch sd51", "Did you mean 'sd15'?"),
        (
            "latency measure --runtime torch --output t.json --part vae",
            "allowed are clip-vit-l-14-text",
        ),
        (
            "latency measure --runtime torch --output t.json --whole 3",
            "--whole, --fit: need --space",
        ),
        (
            "latency measure --runtime torch --output t.json --recipe mobilediffusion",
            "--recipe: needs --arch",
        ),
        (
            "latency measure --runtime torch --output t.json",
            "nothing to measure: name a --space, an --arch or a --part",
        ),
        ("generate nowhere a --output a.png", "nowhere: there is no such folder"),
        ("generate docs a --output a.png", "`archsearch train ARCH --output DIR` makes one"),
        ("generate docs a --output a.txt", "--output: must be called *.png"),
        ("evaluate nowhere --reference docs", "no such folder of pictures"),
        ("evaluate docs --reference no/where", "no/where: there is no such folder, study, or"),
        ("evaluate docs --reference nowhere", "--reference: is no folder of pictures, and study"),
        ("init README.md", "README.md: is a file; give the folder"),
        ("export sd15 --format onnx --output x.txt", "must be called *.onnx"),
        ("arch show sd15 --svg x.txt", "--svg: must be called *.svg"),
        ("arch show studies/quickstart.yaml", "is a study (it has the key 'objectives')"),
        (
            "run quickstart --dry-run --set report=val_loss",
            "report: must be a list, such as [val_loss], but got 'val_loss'",
        ),
        (
            "latency measure --runtime torch --output t --arch sd15",
            "--output: must be called *.json",
        ),
        (
            "latency measure --runtime torch --output t.json --arch sd15 --device a/b",
            "device: String should match pattern",
        ),
        (
            "latency measure --runtime torch --output t.json --arch sd15 --arch-whole --full 1",
            "one graph level only",
        ),
        ("latency measure --runtime ncnn --output t.json --arch sd15", "--runtime-python"),
        (
            "latency measure --runtime torch --output t.json --arch sd15 --runtime-python nowhere",
            "nowhere",
        ),
        (
            "latency validate --table iphone-15-pro.published --space quickstart",
            "published table has no entries",
        ),
        (
            "arch show sd15 --table iphone-15-pro.published",
            "published figures of the MobileDiffusion family only: needs 3 stages",
        ),
        ("arch show sdxl --table cpu-onnxruntime-fp32", "lacks"),
        (
            "arch show sd15 --table cpu-onnxruntime-fp32 --on-missing guess",
            "allowed are error, predict",
        ),
        ("run quickstat", "Did you mean 'quickstart'?"),
        (
            "run quickstart --dry-run --set search.trails=3",
            "search.trails: is not a known key. Did you mean 'trials'?",
        ),
        (
            "run quickstart --dry-run --set proxy.batch=0",
            "proxy.batch: must be greater than or equal to 1, but got 0",
        ),
        ("run quickstart --dry-run --set proxy.batch", "must have the form key=value"),
        ("run quickstart --dry-run --set limits.params=1000", "within the limits: params ≤ 1,000"),
        ("run quickstart --dry-run --set limits.fid=3", "limits.fid is not a cost"),
        ("run quickstart --dry-run --set report=[fid]", "inception-2015-12-05.pt"),
        ("run quickstart --dry-run --set report=[clip_score]", "metrics.clip"),
        ("run quickstart --dry-run --set metrics.inception=nowhere.pt", "nowhere.pt: no such file"),
        (
            "run quickstart --dry-run --set objectives.val_loss=maximize",
            "objectives.val_loss must be minimized",
        ),
        ("run quickstart --dry-run --set deployment.tables=[]", "needs a latency table"),
        (
            'run quickstart --dry-run --set search.sampler={"name":"tpe","population_size":4}',
            "population_size belongs to the sampler nsga2",
        ),
        ("run quickstart --fork --output nowhere", "there is no run with a front to begin from"),
        ("status nowhere", "is not a run"),
        ("pareto nowhere", "is not a run"),
        ("compare nowhere elsewhere", "is not a run"),
        ("drive quickstat", "Did you mean 'quickstart'?"),
        ("export sd15 --format jason --output x", "Did you mean 'json'?"),
        ("export sd15 --knee --format json --output x", "is not a run's folder"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_exit_code_2(cli: Cli, command: str, told: str) -> None:
    code, _, err = cli(*command.split())
    assert code == 2
    assert told in " ".join(err.split())
    assert "Traceback" not in err
    assert err.startswith("error: ")


def test_an_error_in_a_study_names_its_line(cli: Cli, tmp_path: Path) -> None:
    study = tmp_path / "mine.yaml"
    study.write_text(
        "schema: 1\nspace: quickstart\nobjectives: {macs: minimize}\nserach:\n  trials: 3\n"
    )
    code, _, err = cli("run", study, "--dry-run")
    assert code == 2
    assert f"{study}:4: serach: is not a known key. Did you mean 'search'?" in " ".join(err.split())


def test_bad_usage_has_exit_code_2(cli: Cli) -> None:
    assert cli("run")[0] == 2
    assert cli("nonsense")[0] == 2


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_there(cli: Cli, command: str) -> None:
    code, out, _ = cli(*command.split(), "--help")
    assert code == 0
    assert "Usage" in out


def test_commands_are_listed_with_the_help_that_they_have(cli: Cli) -> None:
    _, listed, _ = cli("--help")
    for name, (_, text) in COMMANDS.items():
        assert name in listed
        _, out, _ = cli(name, "--help")
        assert " ".join(text.split()).rstrip(".") in " ".join(out.split()), name


def test_help_imports_none_of_the_libraries_that_take_seconds() -> None:
    script = (
        "import sys; sys.argv = ['archsearch', '--help']\n"
        "from archsearch.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted(m.partition('.')[0] for m in sys.modules), file=sys.stderr)\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert all(name in found.stdout for name in COMMANDS)
    slow = ("torch", "optuna", "diffusers", "scipy", "transformers", "pandas", "sqlalchemy")
    assert [name for name in slow if f"'{name}'" in found.stderr] == []


@pytest.mark.parametrize(
    ("command", "kept", "told"),
    [
        ("archsearch run x", "", "interrupted; to go on: archsearch run x"),
        (None, "all is kept", "interrupted; all is kept; to go on: archsearch train 'a b'"),
    ],
)
def test_ctrl_c_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str | None,
    kept: str,
    told: str,
) -> None:
    monkeypatch.setattr("sys.argv", ["archsearch", "train", "a b"])
    with pytest.raises(typer.Exit) as stopped, interruptible(command, kept):
        raise KeyboardInterrupt
    assert stopped.value.exit_code == 130
    assert capsys.readouterr().err.strip() == told
