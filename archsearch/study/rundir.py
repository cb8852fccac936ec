"""RUN_DIR: where a run keeps everything, and how it is told from the run of another study."""

import importlib.metadata
import os
import platform
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy
import torch
import yaml

from archsearch import documents, files
from archsearch.data.latent import BUILT_IN
from archsearch.data.prepare import prepare
from archsearch.data.text import MiniLM
from archsearch.errors import InputError
from archsearch.latency.predict import AnyTable
from archsearch.study.setting import Setting, distinct, load_setting
from archsearch.unet.presets import PRESETS

SCHEMA = 2
"""Of a run's folder: 2 since scores lie in its database."""


def environment(setting: Setting) -> dict[str, Any]:
    """What a run's numbers were made with.

    Raises:
        InputError: The text encoder or the latent space is not there.
    """
    channels, width = setting.read_proxy_ends()
    packages = (
        "archsearch",
        "torch",
        "optuna",
        "diffusers",
        "transformers",
        "onnxruntime",
        "numpy",
    )
    return {
        "schema": SCHEMA,
        "study": setting.name,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "proxy": {"channels": channels, "context_dim": width},
        "versions": setting.versions(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }


# What may differ when a run is taken up again: how long and with what, not what is searched.
FREE_KEYS = {
    ("engine",),
    ("report",),
    *(
        ("search", key)
        for key in ("trials", "minutes", "confirm_seeds", "repeats", "margin", "compare_at")
    ),
}
# What names a file, of which the run keeps a copy: compared by what it holds.
COPIED_KEYS = {("space",), ("deployment", "tables"), ("deployment", "reference")}
# What may have moved: a model or data by the place where they lie. What they hold is compared, not
# where.
MOVABLE_KEYS = {("data", "path"), ("data", "images"), ("data", "text"), ("proxy", "latent")}
NAMED = {MiniLM.name, *BUILT_IN}
REFERENCE = "reference.json"
DATA = "data.json"
ENVIRONMENT = "environment.json"


@dataclass(frozen=True)
class RunDir:
    """Paths inside a run's folder."""

    path: Path

    @property
    def database(self) -> Path:
        """Optuna's storage."""
        return self.path / "study.db"

    @property
    def study(self) -> Path:
        """The study, every key spelled out."""
        return self.path / "study.yaml"

    @property
    def database_url(self) -> str:
        """The database as SQLAlchemy names it, which quotes the path: it may hold a ``?``."""
        url = sqlalchemy.URL.create("sqlite", database=str(self.database.resolve()))
        return url.render_as_string()

    @property
    def weights(self) -> Path:
        """Weights of trained proxies that are kept, by name of their record."""
        return self.path / "weights"

    @property
    def trainings(self) -> Path:
        """Logs of trainings, and their checkpoints while these are kept."""
        return self.path / "training"

    def training(self, name: str) -> Path:
        """Log and checkpoint of one training."""
        return self.trainings / name

    @property
    def remeasured(self) -> Path:
        """What was measured of whole networks on this machine, a file a table."""
        return self.path / "remeasured"

    def trial(self, number: int) -> Path:
        """Folder of a trial."""
        return self.path / "trials" / str(number)

    def keep_data(self, fingerprint: str) -> None:
        """Note which data the run's scores are of, the first time; afterwards refuse others: their
        losses do not compare.

        Raises:
            InputError: The data have changed since the run began.
        """
        path = self.path / DATA
        if not path.is_file():
            files.write_json(path, {"schema": 1, "fingerprint": fingerprint})
            return
        known = documents.read(path).data.get("fingerprint")
        if known != fingerprint:
            raise InputError(
                f"{self.path}: the data have changed since this run began (fingerprint "
                f"{str(known)[:16]} then, {fingerprint[:16]} "
                "now), so that new scores would not compare with those it has. Give another "
                "--output."
            )

    def setting(self) -> Setting:
        """The study of this run, from its own copies of space and tables.

        Raises:
            InputError: The folder is not a run, or its files are damaged.
        """
        if not self.study.is_file():
            raise InputError(
                f"{self.path}: is not a run: it has no study.yaml. `archsearch run STUDY "
                f"--output {self.path}` makes one."
            )
        setting = load_setting(self.study)
        known = documents.read(self.path / ENVIRONMENT).data
        if known.get("schema") != SCHEMA:
            raise InputError(
                f"{self.path}: is a run of another version of archsearch (schema "
                f"{known.get('schema')}; this one has {SCHEMA}). Give another --output."
            )
        ends = known["proxy"]["channels"], known["proxy"]["context_dim"]
        return replace(setting, name=known["study"], proxy_ends=ends)


def open_run(path: Path, setting: Setting) -> RunDir:
    """Create the folder of a run, or take one up again.

    Raises:
        InputError: The folder holds the run of another study (the keys that differ are named), or
            something else; or what is said to have moved are other data.
        ArchsearchError: It cannot be written.
    """
    run = RunDir(path)
    if run.study.is_file():
        kept = _check_same_study(run, setting)
        if _has_moved(kept, setting):  # before the run forgets where its own data lie
            run.keep_data(prepare(setting.spec.data, setting.spec.proxy.latent).fingerprint)
        _write_study(run, replace(setting, devices=kept.devices))
        return run
    if path.exists() and (not path.is_dir() or any(not _is_own(item) for item in path.iterdir())):
        raise InputError(f"{path}: exists and is not a run. Choose another --output or empty it.")
    made_with = environment(setting)
    for folder in (path, run.weights, path / "tables"):
        _make_folder(folder)
    space = documents.read(setting.space_path).data
    if not isinstance(space["base"], str) or space["base"] not in PRESETS:
        space["base"] = (
            setting.space.base.to_dict()
        )  # a file beside the space is not beside its copy
    files.write_text(
        path / "space.yaml", yaml.safe_dump(space, sort_keys=False, allow_unicode=True)
    )
    for name, device in zip(_copies(setting), setting.devices, strict=True):
        files.write_bytes(path / name, device.path.read_bytes())
    if setting.reference is not None and setting.spec.deployment.reference not in PRESETS:
        files.write_json(path / REFERENCE, setting.reference.to_dict())
    files.write_json(path / ENVIRONMENT, made_with)
    _write_study(run, setting)
    return run


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be created: {error.strerror}.") from error


def _write_study(run: RunDir, setting: Setting) -> None:
    """Write the resolved study, which reads its space and tables from the run's own copies."""
    data = setting.spec.to_dict()
    data["space"] = "space.yaml"
    data["deployment"]["tables"] = copies = _copies(setting)
    if isinstance(setting.spec.deployment.tables, dict):
        data["deployment"]["tables"] = dict(
            zip(setting.spec.deployment.tables, copies, strict=True)
        )
    if setting.reference is not None and setting.spec.deployment.reference not in PRESETS:
        data["deployment"]["reference"] = REFERENCE
    files.write_text(run.study, yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


def _copies(setting: Setting) -> list[str]:
    """Where the run keeps its tables: two files of one name from different folders stay two."""
    return [
        f"tables/{stem}.json" for stem in distinct(device.path.stem for device in setting.devices)
    ]


def _is_own(item: Path) -> bool:
    """Whether a file was left by a run that was cut off while its folder was made."""
    return item.name.startswith(".") or item.name in (
        "weights",
        "training",
        "study.db",
        "tables",
        "logs",
        "space.yaml",
        "environment.json",
        REFERENCE,
        DATA,
    )


def _check_same_study(run: RunDir, setting: Setting) -> Setting:
    kept = run.setting()
    differing = sorted(_differences(kept.spec.to_dict(), setting.spec.to_dict(), ()))
    dimensions = [each.space.file.model_dump(exclude={"base"}) for each in (kept, setting)]
    if dimensions[0] != dimensions[1] or kept.space.base != setting.space.base:
        differing.append("the search space")
    tables = [
        [(device.name, what_predicts(device.table)) for device in each.devices]
        for each in (kept, setting)
    ]
    if tables[0] != tables[1]:
        differing.append("the latency tables")
    if kept.reference != setting.reference:
        differing.append("the reference network")
    began_with = documents.read(run.path / ENVIRONMENT).data["versions"]
    differing += [
        f"the version of {name} ({began_with.get(name)} → {version})"
        for name, version in setting.versions().items()
        if began_with.get(name) != version
    ]
    if differing:
        raise InputError(
            f"{run.path}: holds the run of another study; these differ: {', '.join(differing)}. "
            "Give another --output, or run the study it holds."
        )
    return kept


def _has_moved(kept: Setting, setting: Setting) -> bool:
    return (kept.spec.data, kept.spec.proxy.latent) != (
        setting.spec.data,
        setting.spec.proxy.latent,
    )


def what_predicts(table: AnyTable) -> dict[str, Any]:
    """A table without what no prediction rests on: whole networks are added to it by validating,
    and that changes no study.
    """
    return table.model_dump(exclude={"date", "cooling", "whole", "failed"})


def _differences(left: Any, right: Any, key: tuple[str, ...]) -> list[str]:
    if (
        key in FREE_KEYS
        or key in COPIED_KEYS
        or (key in MOVABLE_KEYS and left not in NAMED and right not in NAMED)
    ):
        return []
    if isinstance(left, dict) and isinstance(right, dict):
        return [
            item
            for name in sorted(left.keys() | right.keys())
            for item in _differences(left.get(name), right.get(name), (*key, name))
        ]
    return [] if left == right else [f"{'.'.join(key)} ({left} → {right})"]


def free_disk_bytes(path: Path) -> int:
    """Free space on the disk that will hold ``path``."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
