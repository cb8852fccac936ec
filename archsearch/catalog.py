"""Where architectures, spaces, tables and studies are found: by name, by path, or packaged."""

import csv
import io
import json
import os
import re
import shlex
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from archsearch import documents
from archsearch.errors import InputError, nearest
from archsearch.files import printable, write_bytes
from archsearch.unet.config import UNetConfig
from archsearch.unet.diffusers import from_diffusers
from archsearch.unet.presets import PRESETS, preset

FOLDERS = {
    "space": "search_spaces",
    "recipe": "search_spaces/recipes",
    "table": "latency_tables",
    "study": "studies",
}
SUFFIX = {"space": ".yaml", "recipe": ".yaml", "table": ".json", "study": ".yaml"}
FILES = (".yaml", ".yml", ".json")  # endings by which a path is told from a name


def packaged() -> Path:
    """Folder that holds the shipped ``search_spaces``, ``latency_tables`` and ``studies``."""
    inside_wheel = Path(__file__).parent / "packaged"
    return inside_wheel if inside_wheel.is_dir() else Path(__file__).parent.parent


def inside_wheel(path: Path) -> bool:
    """Whether a file belongs to an installed package, where nothing is to be written."""
    return (Path(__file__).parent / "packaged").resolve() in path.resolve().parents


def find(kind: str, name: str, near: Path | None = None) -> Path:
    """Find a space, recipe, table or study by path or by name.

    A path is taken as it is. A name is looked for in ``search_spaces/`` (``latency_tables/``,
    ``studies/``) beside the folder of ``near`` (the file that names it), in the working folder,
    then in the package.

    Raises:
        InputError: There is none; the message lists the names there are.
    """
    given = Path(name)
    if given.suffix in FILES or len(given.parts) > 1:
        for candidate in (*([near.parent / given] if near else []), given):
            if candidate.is_file():
                return candidate
        raise InputError(f"{kind} '{name}': there is no such file.")
    bases = [Path(), packaged()]
    if near:  # not near.parent.parent: of "study.yaml" that would be the working folder again
        bases = [Path(os.path.normpath(near.parent / "..")), near.parent, *bases]
    for base in bases:
        candidate = base / FOLDERS[kind] / f"{name}{SUFFIX[kind]}"
        if candidate.is_file():
            return candidate
    files = [file for base in bases for file in _files(base / FOLDERS[kind])]
    known = sorted({file.stem for file in files if file.suffix == SUFFIX[kind]})
    raise InputError(
        f"{kind} '{name}' is not known; there are: "
        f"{', '.join(known) or 'none'}.{nearest(name, known)}"
    )


def _files(folder: Path) -> list[Path]:
    # Without measurements that are not finished.
    return [
        file for file in sorted(folder.glob("*")) if file.is_file() and ".partial" not in file.name
    ]


def initialise(folder: Path) -> list[Path]:
    """Copy the shipped spaces, recipes, tables and studies into ``folder``; files that are there
    already are left alone.

    Returns:
        The files that were written.

    Raises:
        InputError: ``folder`` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give the folder that the files are to go into.")
    written = []
    for name in FOLDERS.values():
        for source in _files(packaged() / name):
            target = folder / name / source.name
            if not target.exists():
                write_bytes(target, source.read_bytes())
                written.append(target)
    return written


@dataclass(frozen=True)
class Architecture:
    """A configuration and the name it goes by."""

    name: str
    config: UNetConfig


TRIALS = "trials.csv"
"""Table of the trials in a run's folder."""
PARETO = "pareto.json"
"""The front in a run's folder."""
PICKS = ("knee", "min-latency", "best-quality")
"""Members of a front that go by a name: ``RUN_DIR#knee``."""

# diffusers' name for the file in every folder: it does not name the architecture, the folder does.
CONFIG = "config.json"
# A repository's folder in a cache of the Hugging Face hub; below it lies ``snapshots/COMMIT/``.
HUB_FOLDER = re.compile(r"models--(.+)")


def load_architecture(name: str, near: Path | None = None) -> Architecture:
    """Load a preset by name, a file or folder (relative to ``near``'s folder, or the working one),
    or a trial of a run, ``RUN_DIR#TRIAL``: its number, or one of ``PICKS``.

    A file is a UNetConfig in .json or .yaml, or a diffusers config.json. A folder holds a
    config.json, itself (a model of diffusers) or in its folder ``unet`` (a pipeline). An
    architecture goes by the name of its file, of the folder where the file is a config.json, of the
    pipeline's folder where it lies in one, of the repository where that is in a cache of the hub.

    Raises:
        InputError: There is no such preset, file, folder or trial, or the file is not an
            architecture.
    """
    if name in PRESETS:
        return Architecture(name, preset(name))
    run, separator, _ = name.rpartition("#")
    if separator:
        number = trial_number(name)
        _check_run(name, run)
        return Architecture(
            printable(f"{Path(run).name}#{number}"), trial_network(Path(run), number)
        )
    path = Path(name)
    file = (config_file(near.parent / path) if near else None) or config_file(path)
    if file is None and (path / "study.yaml").is_file():
        raise InputError(
            f"'{name}' is a run, which has many networks: name one by its trial, {name}#0 say. "
            f"`archsearch pareto {shlex.quote(name)}` lists the best."
        )
    if file is None:
        raise InputError(
            f"'{name}' is neither a preset ({', '.join(sorted(PRESETS))}) nor a .json or .yaml "
            "file that exists, "
            f"nor a folder with a {CONFIG} of diffusers.{nearest(name, PRESETS)}"
        )
    return Architecture(printable(_title(file)), read_config(file))


def trial_number(name: str) -> int:
    """The number of the trial that a name such as ``RUN#7`` or ``RUN#knee`` is of.

    Raises:
        InputError: It is of none, or the run has no such member of the front.
    """
    run, _, text = name.rpartition("#")
    if re.fullmatch("[0-9]{1,15}", text):
        return int(text)
    if text not in PICKS:
        raise InputError(
            f"'{name}': after # comes the number of a trial, or {', '.join(PICKS[:-1])} or "
            f"{PICKS[-1]}, but got '{text}'.{nearest(text, PICKS)}"
        )
    _check_run(name, run)
    path = Path(run) / PARETO
    if not path.is_file():
        raise InputError(f"'{name}': there is no {path}: the run has no front yet.")
    picks = documents.read(path).data.get("picks")
    number = picks.get(text) if isinstance(picks, dict) else None
    if not isinstance(number, int):
        raise InputError(
            f"'{name}': {path} names no such member of the front: the study has no such "
            "objective, or the file is of an earlier version. Name the trial by its number."
        )
    return number


def _check_run(name: str, run: str) -> None:
    if not (Path(run) / "study.yaml").is_file():
        raise InputError(f"'{name}': {run} is not a run: it has no study.yaml.")


def _title(file: Path) -> str:
    """What an architecture is called by its file."""
    if file.name != CONFIG:
        return file.stem
    folder = Path(os.path.abspath(file)).parent  # links are not followed: they lead into a cache
    if folder.name == "unet":
        folder = folder.parent
    if folder.parent.name == "snapshots" and (kept := HUB_FOLDER.fullmatch(folder.parts[-3])):
        return kept[1].replace("--", "/", 1)
    return folder.name or file.stem


def config_file(path: Path) -> Path | None:
    """The architecture's file at ``path``: itself, or the ``config.json`` of a diffusers model or
    pipeline; None without one.
    """
    if path.is_file():
        return path if path.suffix in FILES else None
    return next((file for file in (path / CONFIG, path / "unet" / CONFIG) if file.is_file()), None)


def trial_network(run: Path, number: int, digest: str | None = None) -> UNetConfig:
    """The architecture of a trial of the run in the folder ``run``.

    Args:
        run: The run's folder.
        number: Of the trial.
        digest: Of its architecture, where the caller knows it; else it is asked of the run's own
            database.

    Raises:
        InputError: The run has no such trial, or it was never built, or its file holds another
            architecture.
    """
    path = run / "trials" / str(number) / CONFIG
    if not path.is_file():
        raise InputError(f"{run}: {_why_absent(run, number)}")
    network = read_config(path)
    digest = digest or _noted_digest(run / "study.db", number)
    if digest not in (None, network.digest):
        raise InputError(
            f"{path}: holds the architecture {network.digest}, but that of trial {number} is "
            f"{digest}. `archsearch doctor {shlex.quote(str(run))}` mends it."
        )
    return network


def _noted_digest(database: Path, number: int) -> str | None:
    # Read without Optuna, whose import takes seconds. None where nothing is noted of the trial, or
    # the database lies elsewhere: whoever opens the study checks it.
    query = (
        "SELECT value_json FROM trial_user_attributes JOIN trials USING (trial_id) "
        "WHERE number = ? AND key = 'candidate'"
    )
    try:
        address = f"{database.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as connection:
            row = connection.execute(query, (number,)).fetchone()
        return None if row is None else str(json.loads(row[0])["digest"])
    except (sqlite3.Error, ValueError, LookupError, TypeError):
        return None


def _why_absent(run: Path, number: int) -> str:
    """Why a run has no architecture of a trial, as far as its ``trials.csv`` tells."""
    status = f"`archsearch status {shlex.quote(str(run))}`"
    try:
        text = io.StringIO(documents.read_text(run / TRIALS), newline="")
        rows = {int(row["trial"]): row for row in csv.DictReader(text)}
    except (InputError, ValueError, KeyError, TypeError, csv.Error):  # none yet, or a torn one
        rows = {}
    if not rows:
        return f"there is no architecture of trial {number}; see {status}."
    if number not in rows:
        there = f"its trials are 0 to {max(rows)}" if len(rows) > 1 else "it has trial 0 alone"
        return f"there is no trial {number}; {there}."
    outcome, reason = rows[number].get("outcome"), rows[number].get("reason")
    why = f"{outcome}: {reason}" if reason else outcome
    if outcome == "waiting":
        return f"trial {number} waits to be run and has no architecture yet."
    if outcome and outcome.startswith("infeasible"):
        return (
            f"trial {number} was refused before it had an architecture ({why}). Trials with scores "
            f"are listed by {status}."
        )
    return f"trial {number} has no architecture ({why}); see {status}."


def read_config(path: Path) -> UNetConfig:
    """Read a UNetConfig file or a diffusers ``config.json``.

    Raises:
        InputError: Unreadable, or neither; one line for each problem.
    """
    document = documents.read(path)
    documents.check_kind(document, "network")
    data = document.data
    if "_class_name" in data:
        try:
            return from_diffusers(data)
        except InputError as error:
            lines = str(error).splitlines()
            raise InputError("\n".join(f"{path}: {line}" for line in lines)) from error
    if "schema" not in data:
        raise InputError(f"{path}: schema: is missing; a UNetConfig file begins with schema: 1.")
    return documents.validate(document, UNetConfig)
