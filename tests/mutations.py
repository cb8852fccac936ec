"""Files as accidents and strangers leave them: whole ones of every kind that archsearch reads, and
what becomes of them by a random change. ``tests/test_mutations.py`` tries a few of these,
``benchmarks/mutations.py`` thousands.
"""

import copy
import json
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from archsearch.adapters.control import encoder_for
from archsearch.adapters.training import FILE, About, base_of, load_adapter, save_adapter
from archsearch.api import Study
from archsearch.catalog import load_architecture, packaged
from archsearch.cost.price import price
from archsearch.data.latent import PIXELS
from archsearch.data.pictures import check_source
from archsearch.data.records import UnusableError, caption_text, records_of, square
from archsearch.data.spec import DataSpec
from archsearch.diffusion.spec import Recipe
from archsearch.diffusion.trained import Conditions, load_trained, save_trained
from archsearch.errors import ArchsearchError
from archsearch.latency.phone.returned import import_results
from archsearch.latency.predict import load_table, predict
from archsearch.search_space.space import load_space
from archsearch.study.doctor import examine
from archsearch.study.setting import load_setting
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet
from archsearch.unet.presets import preset
from tests.data import made
from tests.study.conftest import SPACE, STUDY
from tests.unet.published import SD21, SDXL

HERE = Path(__file__).parent
SECONDS = 20.0
"""Of processor time that a damaged file may take: far more than any takes, far less than for ever.
"""
# Every unit of it is in the golden tables.
TINY: dict[str, Any] = {
    "schema": 1,
    "sample_size": 8,
    "norm_groups": 8,
    "attention": {"normalizer": "relu", "kv": "shared"},
    "stages": [{"channels": 32, "down": [{}], "up": [{"transformers": 1, "layers": ["sa"]}, {}]}],
}
TABLE = HERE / "latency" / "golden" / "cpu-onnxruntime-fp32.json"


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        folder: Where its files lie, whole ones.
        targets: Those that are changed, by their names in the folder.
        load: Reads the folder as commands do, given the file that was changed.
        commands: Command lines that read the file; ``{}`` stands for it, ``{folder}`` for the
            folder.
    """

    folder: Path
    targets: tuple[str, ...]
    load: Callable[[Path], object]
    commands: tuple[str, ...]


# Values that are put in the place of others.
ODD: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        3.5,
        2**31,
        2**63,
        10**30,
        10**400,
        -1e308,
        1e-320,
        1e999,
        -1e999,
    ),
    *(float("nan"), "", " ", "x", "1", "²", "x" * 3000, "\x1b[2J\x07", "\ud83d", "Zu\u0308rich"),
    *("../../etc/passwd", "/dev/zero", "/", ".", "~nobody/x", "a\0b", "a\nb", "[x]:fire:", "%s{}"),
    *([], [[]], [None], ["sa"], [1, 2], {}, {"": 0}, {"a": {"b": []}}, {"schema": 2}),
]
KEYS = ["", "schema", "a.b", "<<", "\x1b[2J", "path", "evil", "_class_name", "x" * 300]
# What is written into the middle of others.
FRAGMENTS = [
    *("!!bool x", "!!timestamp x", "!!int ''", "!!float x", "!!binary x", "!!set {a}", "!!omap"),
    *(".nan: 1\n", "? [a]\n: b\n", "&a [*a]", "*unknown", "<<: *x", "1:30", "010", "0x", "1e999"),
    *("NaN", "-Infinity", "null", "true", "9" * 5000, "-" * 50, "[" * 3000, '{"a":' * 3000, "{"),
    *('"\\ud800"', '"\\UFFFFFFFF"', "\x1b[2J", "\x85", "\u2028", "\ufeff", "\0", "\t", "%YAML 9\n"),
    *("not " * 300, "9**9**9", "²", ": ", "- ", "#", "|", ">", "@", "`", "\r", "\n\n", ",,", '""'),
]


def mutated(content: bytes, name: str, rng: random.Random) -> bytes:
    """A random change of a file: of what it says, where it is JSON or YAML, or of its bytes."""
    is_text = name.endswith((".json", ".yaml", ".jsonl", ".txt", ".csv", ".log"))
    if name.endswith((".json", ".yaml")) and rng.random() < 0.6:
        data = json.loads(content) if name.endswith(".json") else yaml.safe_load(content)
        for _ in range(rng.choice((1, 1, 2))):
            data = _changed(copy.deepcopy(data), rng)
        if name.endswith(".json"):
            return json.dumps(data).encode(errors="surrogatepass")
        return yaml.safe_dump(data).encode(errors="surrogatepass")
    start = rng.randrange(len(content) + 1)
    end = min(len(content), start + rng.choice((0, 1, 4, 30, 300)))
    match rng.randrange(7):
        case 0:
            return content[:start]
        case 1:
            return content[:start] + content[end:]
        case 2:
            return content[:end] + content[start:]
        case 3:
            return content[:start] + rng.randbytes(end - start) + content[end:]
        case 4 if is_text:
            return content[:start] + content[start:].replace(b" ", b"\n", 1)
        case _ if is_text:
            fragment = rng.choice(FRAGMENTS).encode(errors="surrogatepass")
            return content[:start] + fragment + content[rng.choice((start, end)) :]
        case _:
            flipped = bytearray(content)
            for _ in range(rng.choice((1, 3, 20))):
                if flipped:
                    flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
            return bytes(flipped)


def _changed(data: Any, rng: random.Random) -> Any:
    place = data
    while isinstance(place, dict | list) and place:
        key = rng.choice(sorted(place, key=str) if isinstance(place, dict) else range(len(place)))
        below = place[key]
        if isinstance(below, dict | list) and below and rng.random() < 0.8:
            place = below
            continue
        match rng.randrange(6):
            case 0:
                del place[key]
            case 1 if isinstance(place, dict):
                place[rng.choice(KEYS)] = place.pop(key)
            case 1:
                place.append(below)
            case 2 if isinstance(place, dict):
                place[rng.choice(KEYS)] = rng.choice(ODD)
            case _:
                place[key] = copy.deepcopy(rng.choice(ODD))
        return data
    return rng.choice(ODD)


@contextmanager
def changed(kind: Kind, rng: random.Random) -> Iterator[tuple[Path, bytes]]:
    """One of a kind's files, changed at random, with what it holds now; whole again afterwards."""
    path = kind.folder / rng.choice(kind.targets)
    whole = path.read_bytes()
    content = mutated(whole, path.name, rng)
    path.unlink()
    path.write_bytes(content)
    try:
        yield path, content
    finally:
        path.unlink()
        path.write_bytes(whole)


@contextmanager
def in_time() -> Iterator[None]:
    """Nothing may take more than ``SECONDS`` of processor time."""

    def too_long(*_: object) -> None:
        raise AssertionError(f"took more than {SECONDS:g} s")

    before = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def outcome(kind: Kind, path: Path) -> str:
    """What comes of reading a changed file: ``read``, or the first line of what is wrong with it.

    Raises:
        Exception: Something that the command line would not tell in a sentence.
    """
    with in_time():
        try:
            kind.load(path)
            said = "read"
        except ArchsearchError as error:
            said = str(error)
        except Exception as error:  # what ``archsearch.cli.main`` tells in a sentence too
            library = type(error).__module__.partition(".")[0]
            if not isinstance(error, OSError) and library not in ("optuna", "sqlalchemy"):
                raise
            said = str(error)
    assert said.strip()
    return said.splitlines()[0]


# Kinds


def kinds(home: Path) -> dict[str, Kind]:
    """Whole files of seven of the eight kinds, below the folder ``home``."""
    return {
        "study": _studies(home / "study"),
        "space": _spaces(home / "space"),
        "table": _tables(home / "table"),
        "network": _networks(home / "network"),
        "data": _data(home / "data"),
        "phone": _phones(home / "phone"),
        "trained": _trained(home / "trained"),
    }


def _written(folder: Path, files: dict[str, Any]) -> tuple[str, ...]:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, bytes):
            path.write_bytes(data)
        elif name.endswith(".yaml"):
            path.write_text(yaml.safe_dump(data, sort_keys=False))
        else:
            path.write_text(json.dumps(data))
    return tuple(files)


def _studies(folder: Path) -> Kind:
    table = json.loads(TABLE.read_text())
    more = {
        "deployment": {"tables": ["table.json"], "on_missing": "predict"},
        "limits": {"params": 1e9},
        "search": {"trials": 3, "points": [{"outer": 64}]},
    }
    study = STUDY | {"space": "small.yaml"}
    names = _written(folder, {"study.yaml": study, "full.yaml": study | more})
    _written(folder, {"small.yaml": SPACE, "table.json": table})
    return Kind(folder, names, load_setting, ("run {} --dry-run --output {folder}/run",))


def _spaces(folder: Path) -> Kind:
    shipped = [packaged() / "search_spaces" / f"{name}.yaml" for name in ("quickstart",)]
    shipped.append(HERE / "golden" / "spaces" / "every-feature.yaml")
    files = {path.name: path.read_bytes() for path in shipped}
    names = _written(folder, files | {"small.yaml": SPACE})

    def load(path: Path) -> object:
        return load_space(str(path)).sample(2)

    return Kind(folder, names, load, ("space show {}", "space sample {} -n 2"))


def _tables(folder: Path) -> Kind:
    published = packaged() / "latency_tables" / "iphone-15-pro.published.json"
    names = _written(
        folder,
        {
            path.name: path.read_bytes()
            for path in (TABLE, TABLE.parent / f"first-{TABLE.name}", published)
        },
    )
    tiny = UNetConfig.model_validate(TINY)
    lite = preset("mobilediffusion-lite")

    def load(path: Path) -> object:
        table = load_table(path)
        return predict(lite if "published" in path.name else tiny, table, "predict")

    return Kind(folder, names, load, ("latency show {}", "arch show sd15 --table {}"))


def _networks(folder: Path) -> Kind:
    files: dict[str, Any] = {
        path.name: json.loads(path.read_text())["config"]
        for path in sorted((HERE / "golden" / "configs").glob("*.json"))
    }
    files["sd15.yaml"] = files["sd15.json"]
    for name, config in (("sd21", SD21), ("sdxl-base", SDXL)):
        files[f"{name}/unet/config.json"] = {"_class_name": "UNet2DConditionModel"} | config
    names = _written(folder, files)

    def load(path: Path) -> object:
        return price(load_architecture(str(path)).config)

    return Kind(folder, names, load, ("arch show {}", "arch diff sd15 {}"))


def _data(folder: Path) -> Kind:
    specs = {}
    for source in ("folder", "coco", "webdataset"):
        keys = made.MAKERS[source](folder / source, 4).keys
        specs[source] = DataSpec(source=source, size=16, **keys)
    names = tuple(
        path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()
    )

    def load(path: Path) -> object:
        source = path.relative_to(folder).parts[0]
        spec, usable = specs[source], []
        for record in records_of(source, check_source(spec)[source], spec):
            with suppress(UnusableError):
                usable.append((caption_text(record), square(record, spec.size, 2)))
        return usable

    return Kind(folder, names, load, ())


def _phones(folder: Path) -> Kind:
    for name in ("onnx", "executorch", "coreml"):
        shutil.copytree(HERE / "latency" / "recorded" / name, folder / name)
    names = tuple(
        path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()
    )

    def load(path: Path) -> object:
        bundle = folder / path.relative_to(folder).parts[0]
        file = bundle / "results.json"
        results = file if file.is_file() and "results" not in path.parts else bundle / "results"
        return import_results(bundle, results, "phone", "chip", "system", "1", max_drift=10)

    made = (
        "--device phone --soc chip --os system --runtime-version 1 --output {folder}/t.json --force"
    )
    commands = [f"latency import --bundle {{folder}}/{name} {made}" for name in ("onnx", "coreml")]
    return Kind(
        folder,
        names,
        load,
        (
            f"{commands[0]} --results {{folder}}/onnx/results",
            f"{commands[0]} --results {{folder}}/onnx/results.json",
            f"{commands[1]} --results {{folder}}/coreml/results.json",
        ),
    )


def _trained(folder: Path) -> Kind:
    config = UNetConfig.model_validate(TINY | {"in_channels": 3, "out_channels": 3})
    recipe, spec = Recipe(), DataSpec(size=8, tokens=4)
    conditions = Conditions(
        text="minilm", tokens=4, latent="pixels", prediction="v", data=spec, recipe=recipe
    )
    save_trained(folder, UNet(config), conditions, {})
    encoder = encoder_for(config, "control", 1)
    about = About(method="control", network=base_of(config))
    save_adapter(folder / FILE, about, encoder.state_dict())

    def load(path: Path) -> object:
        model, _ = load_trained(folder, torch.device("cpu"))
        return load_adapter(folder / FILE).on(model, PIXELS)

    draw = "generate {folder} red --steps 1 --output {folder}.png --adapter {folder}"
    names = ("config.json", "trained.json", "weights.safetensors", FILE)
    return Kind(folder, names, load, (draw,))


def kinds_of_run(run: Path) -> dict[str, Kind]:
    """The eighth: the files of a run in the folder ``run``, a copy that may be written; as those
    read them who look at the run, and as the doctor does.
    """
    endings = (".json", ".yaml", ".db", ".png")
    files = sorted(path for path in run.rglob("*") if path.suffix in endings)
    tensors = sorted(run.rglob("*.safetensors"))[:2]
    names = tuple(path.relative_to(run).as_posix() for path in (*files, *tensors))

    def look(path: Path) -> object:
        study = Study.open(run)
        study.progress()
        study.trials()
        for trial in study.results.trials.complete()[:2]:
            study.network(trial.number)
        return study.results.pareto()

    looking = ("status {folder}", "pareto {folder}", "plot {folder}", "arch show {folder}#0")
    return {
        "run": Kind(run, names, look, looking),
        "doctor": Kind(
            run, names, lambda _: examine(run, mend=False), ("doctor {folder} --dry-run",)
        ),
    }


def command_of(kind: Kind, path: Path, rng: random.Random) -> list[str]:
    """One of the command lines that read a changed file."""
    words = rng.choice(kind.commands).split()
    return [word.format(path, folder=kind.folder) for word in words]
