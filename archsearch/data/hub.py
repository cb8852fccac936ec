"""Models and data sets of the Hugging Face hub, or of a folder."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from archsearch.errors import InputError
from archsearch.files import expanded


@contextmanager
def quiet(logging: Any) -> Iterator[None]:
    """Silence a library while it loads a model: ``quiet(transformers.utils.logging)``, and the same
    of diffusers.

    What matters of it is checked by the caller: weights that are missing, files that cannot be
    read.
    """
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


_COMMIT = re.compile(r"[0-9a-f]{40}")
_ID = re.compile(r"[\w.-]+/[\w.-]+(/[\w.-]+)*(@[\w./-]+)?")
WEIGHTS = ("*.safetensors", "*.bin")
"""Weight files in the order in which they are looked for. A .bin is read with
``weights_only=True``.
"""
_SMALL = ("*.json", "*.txt", "*.model")
"""Configuration and tokenizer."""


@dataclass(frozen=True)
class ModelFolder:
    """A model's files, by the name that a key of the study gives: a folder, or an id such as
    ``org/name/subfolder@revision``.

    Attributes:
        key: The key, for messages.
        name: The name.
        needed: What the key wants, in words, for messages.
    """

    key: str
    name: str
    needed: str

    @property
    def is_local(self) -> bool:
        """Whether it is a folder here; an id's folder of the same name comes first."""
        return expanded(self.name).is_dir()

    def config(self) -> dict[str, Any]:
        """Read ``config.json``, without weights.

        Raises:
            InputError: It is not there or not JSON.
        """
        path = self._folder(("config.json",)) / "config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise self.unusable("it has no config.json") from error
        except (OSError, ValueError) as error:
            raise self.unusable(f"its config.json cannot be read: {error}") from error
        if not isinstance(config, dict):
            raise self.unusable("its config.json holds no object")
        return config

    def folder(self) -> Path:
        """The folder with all that is needed to load the model, fetched if it is on the hub.

        Raises:
            InputError: It cannot be fetched, or holds no weights.
        """
        for weights in WEIGHTS:
            folder = self._folder((*_SMALL, weights))
            if list(folder.glob(weights)):
                return folder
        raise self.unusable("it has no weights (.safetensors, or .bin)")

    def version(self, beside: Callable[[Path], Path] | None = None) -> str:
        """What identifies the model wherever it lies: commit and path inside it, or the SHA-256 of
        its files.

        Args:
            beside: Says which other folder holds files of the model, given its own: a pipeline's
                tokenizer.

        Raises:
            InputError: There are no weights, or a file cannot be read.
        """
        folder = self.folder()
        if not self.is_local:
            at = next((i for i, part in enumerate(folder.parts) if _COMMIT.fullmatch(part)), 0)
            return "/".join(folder.parts[at:])
        ending = next(ending for ending in WEIGHTS if list(folder.glob(ending)))
        files = {path for pattern in (ending, *_SMALL) for path in folder.glob(pattern)}
        files |= (
            {path for pattern in _SMALL for path in beside(folder).glob(pattern)}
            if beside
            else set()
        )
        try:
            return _digest(
                tuple((str(path), path.stat().st_mtime_ns) for path in sorted(files)), str(folder)
            )
        except OSError as error:
            raise self.unusable(f"{error.filename} cannot be read: {error.strerror}") from error

    def unusable(self, reason: str) -> InputError:
        """The error that says why it cannot be used, and what is needed."""
        return InputError(f"{self.key}: {self.name}: {reason}. Needed: {self.needed}.")

    def _folder(self, patterns: Sequence[str]) -> Path:
        if self.is_local:
            return expanded(self.name)
        if not _ID.fullmatch(self.name) or self.name.startswith("."):
            raise self.unusable("there is no such folder, and it is no id of the form org/name")
        path, _, revision = self.name.partition("@")
        repository, inside = "/".join(path.split("/")[:2]), "/".join(path.split("/")[2:])
        # Tokenizers of pipelines lie beside their text encoder.
        wanted = (
            [f"{inside}/{pattern}" for pattern in patterns] + [f"tokenizer*/{p}" for p in patterns]
            if inside
            else [*patterns]
        )
        from huggingface_hub import snapshot_download

        try:
            root = snapshot_download(repository, revision=revision or None, allow_patterns=wanted)
        except Exception as error:  # no network, no such repository, no permission: whatever the hub's library raises
            raise self.unusable(
                f"there is no such folder, and the hub does not give it ({_first_line(error)})"
            ) from error
        return Path(root) / inside


def dataset_revision(key: str, name: str) -> str:
    """Return the commit that a data set's id means now; of ``org/name@<commit>`` that commit,
    without asking the hub.

    Raises:
        InputError: The hub does not say it.
    """
    path, _, revision = name.partition("@")
    if _COMMIT.fullmatch(revision):
        return revision
    if not _ID.fullmatch(name) or name.startswith("."):
        raise InputError(
            f"{key}: {name}: there is no such folder, and it is no id of the form org/name."
        )
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(path, revision=revision or None).sha)
    except Exception as error:  # as above
        raise InputError(
            f"{key}: {name}: there is no such folder, and the hub does not give it "
            f"({_first_line(error)})."
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


@lru_cache(maxsize=32)
def _digest(files: tuple[tuple[str, int], ...], folder: str) -> str:
    """SHA-256 over the files and their paths from ``folder``; their times are there so that a
    changed file is read again.
    """
    digest = hashlib.sha256()
    for path, _ in files:
        with open(path, "rb") as file:
            digest.update(
                f"{os.path.relpath(path, folder)}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode(
                    errors="surrogateescape"
                )
            )
    return digest.hexdigest()
