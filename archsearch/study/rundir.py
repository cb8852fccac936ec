"""RUN_DIR: where a run keeps everything, and how it is told from the run of another study."""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sql
import yaml
from filelock import FileLock
from pydantic import BaseModel, Field

from archsearch import documents, files
from archsearch.data.spec import BUILT_IN_LATENTS, MINILM
from archsearch.errors import ArchsearchError, InputError
from archsearch.files import expanded
from archsearch.latency.predict import AnyTable
from archsearch.study.artifacts import Artifacts
from archsearch.study.setting import Setting, distinct, load_setting
from archsearch.study.storage import HIDDEN, TABLES, Database, masked
from archsearch.unet.presets import PRESETS

SCHEMA = 3
"""Of a run's folder: 2 since scores lie in its database, 3 since several studies can share one."""

_STUDIES = sql.Table(
    "archsearch_studies",
    TABLES,
    sql.Column("study", sql.String(255), primary_key=True),
    sql.Column("identity", sql.JSON, nullable=False),
    sql.Column("data", sql.String(255)),  # fingerprint, known once the data are prepared
)
"""The studies of a database that is not a run's own: who joins must be of the same."""


def environment(setting: Setting) -> dict[str, Any]:
    """What a run's numbers were made with.

    Raises:
        InputError: The text encoder or the latent space is not there.
    """
    import torch

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
        "id": uuid.uuid4().hex,
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
    ("storage",),  # machines may know one place under two addresses; a folder keeps to its own
    ("artifacts",),
    ("data", "fewest_held_out"),
}
# What names a file, of which the run keeps a copy: compared by what it holds.
COPIED_KEYS = {("space",), ("deployment", "tables"), ("deployment", "reference")}
# What may have moved: a model or data by the place where they lie. What they hold is compared, not
# where.
MOVABLE_KEYS = {
    ("data", "path"),
    ("data", "images"),
    ("data", "text"),
    ("proxy", "latent"),
    ("proxy", "parent"),
}
NAMED = {MINILM, *BUILT_IN_LATENTS, None}
REFERENCE = "reference.json"
DATA = "data.json"
ENVIRONMENT = "environment.json"
PLACES = "storage.json"
"""Where database and artifacts lie when it is not in the folder. It may hold a password: only its
owner can read it, and nothing prints it."""


class _Places(BaseModel):
    """What is read of ``PLACES``."""

    storage: str | None = None
    artifacts: str | None = None


class _Ends(BaseModel):
    channels: int = Field(ge=1)
    context_dim: int = Field(ge=1)


class _Environment(BaseModel):
    """What is read of ``ENVIRONMENT``."""

    study: str = Field(pattern=r"^[^/\\]+$")  # it names a folder where artifacts are shared
    proxy: _Ends
    versions: dict[str, Any]


_RECORD_NAME = re.compile(r"[0-9a-f]{16}-[0-9]{1,18}")


def is_record_name(name: str) -> bool:
    """Whether it is what a record may be called: its key, 16 hex digits, and its budget."""
    return _RECORD_NAME.fullmatch(name) is not None


def record_name(name: str) -> str:
    """The name of a record, of which paths are made.

    Raises:
        ArchsearchError: It is none: a database from elsewhere may name any file.
    """
    if not is_record_name(name):
        raise ArchsearchError(
            f"'{name}' is not the name of a record, which is a key of 16 hex digits, '-' and a "
            "budget: the run's database is damaged, or not of archsearch's making."
        )
    return name


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

    @cached_property
    def places(self) -> dict[str, str | None]:
        """Addresses of ``storage`` and ``artifacts``, passwords and all; None for the folder."""
        path = self.path / PLACES
        if not path.is_file():
            return dict(_Places())
        return dict(documents.validate(documents.read(path), _Places))

    @property
    def storage(self) -> Database:
        """The database of trials, records and claims."""
        address = self.places["storage"]
        return Database.of_file(self.database) if address is None else Database.at(address)

    @cached_property
    def artifacts(self) -> Artifacts:
        """Weights, checkpoints and what is kept of trials: of this study, where several share the
        place.
        """
        address = self.places["artifacts"]
        name = self.environment()["study"] if address else ""
        return Artifacts(self.path, address and f"{address.rstrip('/')}/{name}")

    def environment(self) -> dict[str, Any]:
        """What the run began with.

        Raises:
            InputError: The folder is of another version of archsearch, or damaged.
        """
        document = documents.read(self.path / ENVIRONMENT)
        if (schema := document.data.get("schema")) != SCHEMA:
            raise InputError(
                f"{self.path}: is a run of another version of archsearch (schema "
                f"{schema}; this one has {SCHEMA}). Give another --output."
            )
        documents.validate(document, _Environment)
        known: dict[str, Any] = document.data
        return known

    @property
    def weights(self) -> Path:
        """Weights of trained proxies that are kept, by name of their record."""
        return self.path / "weights"

    @property
    def trainings(self) -> Path:
        """Logs of trainings, and their checkpoints while these are kept."""
        return self.path / "training"

    def training(self, name: str) -> Path:
        """Log and checkpoint of the training whose record is called ``name``."""
        return self.trainings / record_name(name)

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
        if self.places["storage"] is not None:
            self._keep_data_of_all(fingerprint)
        if not path.is_file():
            files.write_json(path, {"schema": 1, "fingerprint": fingerprint})
            return
        known = documents.read(path).data.get("fingerprint")
        if known != fingerprint:
            raise _changed_data(self.path, known, fingerprint)

    def _keep_data_of_all(self, fingerprint: str) -> None:
        """The same for every machine that shares the storage."""
        storage, name = self.storage, self.environment()["study"]
        engine, mine = storage.create_tables(), _STUDIES.c.study == name
        with storage.told(), engine.begin() as connection:
            blank = mine & _STUDIES.c.data.is_(None)
            connection.execute(_STUDIES.update().where(blank).values(data=fingerprint))
            known = connection.scalar(sql.select(_STUDIES.c.data).where(mine))
        if known != fingerprint:
            raise _changed_data(f"{storage}, study '{name}'", known, fingerprint)

    def setting(self) -> Setting:
        """The study of this run, from its own copies of space and tables.

        Raises:
            InputError: The folder is not a run, or its files are damaged.
        """
        if not self.study.is_file():
            raise InputError(
                f"{self.path}: is not a run: it has no study.yaml. `archsearch run STUDY "
                f"--output {shlex.quote(str(self.path))}` makes one."
            )
        setting = load_setting(self.study)
        known = self.environment()
        ends = known["proxy"]["channels"], known["proxy"]["context_dim"]
        return replace(setting, name=known["study"], proxy_ends=ends)


def open_run(path: Path, setting: Setting) -> RunDir:
    """Create the folder of a run, or take one up again.

    Raises:
        InputError: The folder holds the run of another study (the keys that differ are named), or
            something else; or what is said to have moved are other data.
        ArchsearchError: It cannot be written.
    """
    with _alone(path):
        return _open_run(path, setting)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process of this machine at a time create a folder or compare it with its study: of
    two studies that are started at once for one folder the second is refused. Some folders share
    a lock, so that at most 4,096 of these files are left on a machine.
    """
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:3]
    name = f"archsearch-{os.getuid() if hasattr(os, 'getuid') else 0}-{place}.lock"
    with FileLock(Path(tempfile.gettempdir()) / name):
        yield


def _open_run(path: Path, setting: Setting) -> RunDir:
    run = RunDir(path)
    if run.study.is_file():
        kept = _check_same_study(run, setting)
        _write_places(run, setting, kept)
        if run.places["storage"] is not None:
            _join(run.storage, replace(setting, name=kept.name))
        if _has_moved(kept, setting):  # before the run forgets where its own data lie
            from archsearch.data.prepare import prepare

            run.keep_data(prepare(setting.spec.data, setting.spec.proxy.latent).fingerprint)
        _write_study(run, replace(setting, devices=kept.devices))
        return run
    if path.exists() and (not path.is_dir() or any(not _is_own(item) for item in path.iterdir())):
        raise InputError(
            f"{path}: exists and is not a run, nor an empty folder. Choose another --output."
        )
    _check_outside_data(path, setting)
    made_with = environment(setting)
    if setting.spec.storage is not None:  # before there is a folder: it may be another study's
        _join(Database.at(_known(setting.spec.storage, "storage")), setting)
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
    _write_places(run, setting)
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


def _write_places(run: RunDir, setting: Setting, kept: Setting | None = None) -> None:
    """Note where database and artifacts lie.

    Raises:
        InputError: That is elsewhere than when the run began, or a password is missing.
    """
    given = {key: getattr(setting.spec, key) for key in ("storage", "artifacts")}
    if kept is not None:
        for key, address in given.items():
            before = getattr(kept.spec, key)
            if (address and masked(address)) != before:
                raise InputError(
                    f"{run.path}: has its {key} in {before or 'the folder'}, but got "
                    f"{masked(address) if address else 'none'}. Give another --output, or --{key} "
                    "as it was."
                )
            if address is not None and HIDDEN in address:  # read from the run's own study.yaml
                given[key] = run.places[key]
    if any(given.values()):
        content = {"schema": 1} | {key: a and _known(a, key) for key, a in given.items()}
        text = json.dumps(content, indent=1) + "\n"
        files.write_through(run.path / PLACES, lambda path: path.write_text(text), mode=0o600)
        run.__dict__.pop("places", None)  # read it anew
        run.__dict__.pop("artifacts", None)
    run.artifacts.check()


def _known(address: str, key: str) -> str:
    """An address, unless it is one whose password was taken out.

    Raises:
        InputError: It is.
    """
    if HIDDEN in address:
        raise InputError(
            f"{key}: {address}: the password was taken out of it. Give the whole address with "
            f"--{key}; PostgreSQL's can also come from PGPASSWORD or ~/.pgpass."
        )
    return address


def _join(storage: Database, setting: Setting) -> None:
    """Begin a study in a database that several share, or take part in it.

    Raises:
        InputError: The database cannot be used, or holds another study of this name.
    """
    mine, at = _identity(setting, setting.versions()), _STUDIES.c.study == setting.name
    engine = storage.create_tables()
    with storage.told(), storage.alone(), engine.begin() as connection:
        kept = connection.scalar(sql.select(_STUDIES.c.identity).where(at))
        if kept is None:
            connection.execute(_STUDIES.insert().values(study=setting.name, identity=mine))
    if kept is not None and (differing := _differing(kept, mine)):
        raise InputError(
            f"{storage}: holds another study named '{setting.name}'; these differ: "
            f"{', '.join(differing)}. Rename this one (a study goes by the name of its file), or "
            "give another --storage."
        )


def _changed_data(where: object, known: object, fingerprint: str) -> InputError:
    return InputError(
        f"{where}: the data have changed since this run began (fingerprint {str(known)[:16]} "
        f"then, {fingerprint[:16]} now), so that new scores would not compare with those it has. "
        "Give another --output."
    )


def _copies(setting: Setting) -> list[str]:
    """Where the run keeps its tables: two files of one name from different folders stay two."""
    return [
        f"tables/{stem}.json" for stem in distinct(device.path.stem for device in setting.devices)
    ]


_OWN = (
    "weights",
    "training",
    "study.db",
    "tables",
    "logs",
    "space.yaml",
    "study.yaml",
    ENVIRONMENT,
    REFERENCE,
    DATA,
    PLACES,
)


def _is_own(item: Path) -> bool:
    """Whether a file was left by a run that was cut off while its folder was made: finished, or as
    a hidden one beside it.
    """
    return item.name in _OWN or item.name.startswith(tuple(f".{name}." for name in _OWN))


def _check_outside_data(path: Path, setting: Setting) -> None:
    """Refuse a run inside the study's own data: its pictures and weights would be read as data.

    Raises:
        InputError: It would lie there.
    """
    for key in ("path", "images"):
        folder = expanded(getattr(setting.spec.data, key) or "")
        if (
            str(folder) != "."
            and folder.is_dir()
            and path.resolve().is_relative_to(folder.resolve())
        ):
            raise InputError(
                f"{path}: lies inside data.{key} ({folder}), and what a run writes there would be "
                "read as data. Choose another --output."
            )


def _check_same_study(run: RunDir, setting: Setting) -> Setting:
    kept = run.setting()
    before = _identity(kept, run.environment()["versions"])
    if differing := _differing(before, _identity(setting, setting.versions())):
        raise InputError(
            f"{run.path}: holds the run of another study; these differ: {', '.join(differing)}. "
            "Give another --output, run the study it holds, or begin beside it with its front: "
            "--fork."
        )
    return kept


def _identity(setting: Setting, versions: Mapping[str, Any]) -> dict[str, Any]:
    """All that two runs of one study have in common, as JSON values; digests of what is long."""
    tables = [(device.name, what_predicts(device.table)) for device in setting.devices]
    return {
        "spec": setting.spec.to_dict(),
        "space": _digest(setting.space.file.model_dump(mode="json", exclude={"base"}))
        + setting.space.base.digest,
        "tables": _digest(tables),
        "reference": setting.reference and setting.reference.digest,
        "versions": versions,
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _differing(kept: dict[str, Any], mine: dict[str, Any]) -> list[str]:
    """What differs between two studies, in words; nothing where they are one."""
    differing = sorted(_differences(kept["spec"], mine["spec"], ()))
    for key, words in (
        ("space", "the search space"),
        ("tables", "the latency tables"),
        ("reference", "the reference network"),
    ):
        if kept[key] != mine[key]:
            differing.append(words)
    return differing + [
        f"the version of {name} ({kept['versions'].get(name)} → {version})"
        for name, version in mine["versions"].items()
        if kept["versions"].get(name) != version
    ]


def _has_moved(kept: Setting, setting: Setting) -> bool:
    return (kept.spec.data, kept.spec.proxy.latent) != (
        setting.spec.data,
        setting.spec.proxy.latent,
    )


def what_predicts(table: AnyTable) -> dict[str, Any]:
    """A table without what no prediction rests on: whole networks are added to it by validating,
    and that changes no study.
    """
    return table.model_dump(mode="json", exclude={"date", "cooling", "whole", "failed"})


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
