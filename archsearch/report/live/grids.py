"""optuna-dashboard on the storage of a run, the sample pictures of its trials as artifacts."""

import io
import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import RDBStorage

from archsearch.errors import import_package
from archsearch.report.live.guard import Application
from archsearch.study.notes import notes_of
from archsearch.study.trials import Trials

if TYPE_CHECKING:
    from archsearch.api import Study

FOLDER = "optuna-artifacts"
"""In the run's folder."""
LOOK_SECONDS = 30.0
_CLAIM = "attaching pictures"


def optuna_page(study: "Study") -> Application:
    """The application of optuna-dashboard on the run's storage. Pictures are attached now, and
    those that come later within half a minute.

    Args:
        study: Of the run.

    Raises:
        InputError: optuna-dashboard is not installed.
    """
    package = import_package("optuna_dashboard", extra="dashboard")
    trials, database = study.results.trials, study.run_dir.storage
    attach_pictures(trials)

    def attach_later() -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            try:
                attach_pictures(trials)
            except Exception as error:  # a locked database, say: the next look does it
                logging.getLogger(__name__).warning("pictures not attached: %s", error)

    threading.Thread(target=attach_later, daemon=True).start()
    storage = RDBStorage(database.address, engine_kwargs=database.engine_arguments)
    application: Application = package.wsgi(storage, artifact_store=_place(trials))
    return application


def attach_pictures(trials: Trials) -> int:
    """Attach the sample pictures of trials to Optuna's study, each once; returns how many were new.

    To the study, not to its trials, since Optuna lets nothing be attached to a trial that has
    ended; the name of each says which trial it is of.
    """
    with trials.store.claims.held(_CLAIM, wait=False) as mine:
        if not mine:  # another dashboard is at it
            return 0
        place, new = _place(trials), 0
        known = {each.filename: each.artifact_id for each in get_all_artifact_meta(trials.study)}
        for name, picture in _pictures(trials):
            if name not in known:
                _upload(place, trials.study, name, picture)
                new += 1
            elif _content(place, known[name]) != picture:  # drawn again, or on another machine
                place.write(known[name], io.BytesIO(picture))
        return new


def _pictures(trials: Trials) -> Iterator[tuple[str, bytes]]:
    for trial in trials.complete():
        path = trials.run.artifacts.fetch(f"trials/{trial.number}/samples.png")
        if path is not None:
            preset = notes_of(trial).get("preset")
            yield f"trial {trial.number}{f', {preset}' if preset else ''}.png", path.read_bytes()


def _upload(place: FileSystemArtifactStore, study: optuna.Study, name: str, picture: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name  # Optuna names an artifact by its file
        path.write_bytes(picture)
        upload_artifact(artifact_store=place, file_path=str(path), study_or_trial=study)


def _content(place: FileSystemArtifactStore, artifact: str) -> bytes | None:
    try:
        with place.open_reader(artifact) as file:
            return file.read()
    except ArtifactNotFound:
        return None


def _place(trials: Trials) -> FileSystemArtifactStore:
    folder = trials.run.path / FOLDER
    folder.mkdir(exist_ok=True)
    return FileSystemArtifactStore(folder)
