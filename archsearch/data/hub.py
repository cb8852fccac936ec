"""Models and data sets that a study names: a folder, or an id on the Hugging Face hub."""

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archsearch import documents
from archsearch.errors import InputError, nearest
from archsearch.files import expanded

# In the order in which they are looked for. Both libraries read a .bin with `weights_only=True`.
_WEIGHTS = ("*.safetensors", "*.bin")
_SMALL = ("*.json", "*.txt", "*.model")  # configuration and tokenizer
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "spiece.model")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ID = re.compile(r"(?!\.)[\w.-]+/[\w.-]+(/[\w.-]+)*(@[\w./-]+)?")
_NO_ID = "there is no such folder, and it is no id of the form org/name"


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
        path = self._fetch("config.json") / "config.json"
        if not path.is_file():
            raise self.unusable("it has no config.json")
        try:
            config = documents.read_json(path)
        except InputError as error:
            raise self.unusable(f"its config.json cannot be read ({error})") from error
        if not isinstance(config, dict):
            raise self.unusable("its config.json holds no object")
        return config

    def folder(self) -> Path:
        """The folder with all that is needed to load the model, fetched if it is on the hub.

        Raises:
            InputError: It cannot be fetched, or holds no weights.
        """
        for weights in _WEIGHTS:
            folder = self._fetch(*_SMALL, weights)
            if any(folder.glob(weights)):
                return folder
        raise self.unusable("it has no weights (.safetensors, or .bin)")

    def version(self) -> str:
        """What identifies the model wherever it lies: commit and path inside it, or the SHA-256 of
        weights, configuration and tokenizer.

        Raises:
            InputError: There are no weights, or a file cannot be read.
        """
        folder = self.folder()
        if not self.is_local:
            at = next((i for i, part in enumerate(folder.parts) if _COMMIT.fullmatch(part)), 0)
            return "/".join(folder.parts[at:])
        weights = next(found for each in _WEIGHTS if (found := {*folder.glob(each)}))
        places = (folder, tokenizer_folder(folder))
        small = {path for place in places for ending in _SMALL for path in place.glob(ending)}
        try:
            return _digest(sorted(weights | small), folder)
        except OSError as error:
            raise self.unusable(f"{error.filename} cannot be read: {error.strerror}") from error

    def load(self, library: Any, kind: str, **options: Any) -> Any:
        """The model as ``library``'s class ``kind`` reads it, frozen: from the folder alone.

        Args:
            library: ``transformers`` or ``diffusers``.
            kind: The class, which has a method ``from_pretrained``.
            options: For that method.

        Raises:
            InputError: Weights are missing or damaged.
        """
        with self.loading(library) as folder:
            model, report = getattr(library, kind).from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=any(folder.glob("*.safetensors")),
                output_loading_info=True,
                **options,
            )
        # Both libraries fill what is missing with random numbers.
        missing = sorted({*report["missing_keys"], *map(str, report["mismatched_keys"])})
        if missing:
            raise self.unusable(f"its weights lack {len(missing)} tensors, such as {missing[0]}")
        return model.eval().requires_grad_(False)

    @contextmanager
    def loading(self, library: Any) -> Iterator[Path]:
        """The folder, while ``library`` reads from it: silently, and with one sentence for whatever
        it raises.

        Raises:
            InputError: Something is missing or damaged.
        """
        folder = self.folder()
        try:
            with quiet(library.utils.logging):
                yield folder
        except Exception as error:  # the libraries, tokenizers and safetensors have no common error
            raise self.unusable(f"cannot be loaded ({first_line(error)})") from error

    def unusable(self, reason: str) -> InputError:
        """The error that says why it cannot be used, and what is needed."""
        return InputError(f"{self.key}: {self.name}: {reason}. Needed: {self.needed}.")

    def _fetch(self, *patterns: str) -> Path:
        if self.is_local:
            return expanded(self.name)
        if not _ID.fullmatch(self.name):
            raise self.unusable(_NO_ID)
        path, _, revision = self.name.partition("@")
        owner, repository, *inside = path.split("/")
        if inside:  # a pipeline's; its tokenizers lie beside its text encoders
            place = "/".join(inside)
            patterns = tuple(f"{at}/{each}" for at in (place, "tokenizer*") for each in patterns)
        from huggingface_hub import snapshot_download

        try:
            root = snapshot_download(
                f"{owner}/{repository}", revision=revision or None, allow_patterns=[*patterns]
            )
        except Exception as error:  # no network, no such repository, no permission, and more
            raise self.unusable(
                f"there is no such folder, and the hub does not give it ({first_line(error)})"
            ) from error
        return Path(root, *inside)


def find_model(key: str, name: str, known: Collection[str], needed: str) -> ModelFolder:
    """The model that ``key`` names, which is none of the ``known`` ones that come with the library.

    Raises:
        InputError: It is no folder and cannot be an id: a slip of one of the known names, say.
    """
    model = ModelFolder(key, name, needed)
    if "/" not in name and not model.is_local:
        raise InputError(
            f"{key}: '{name}' is not known.{nearest(name, known)} Allowed are: "
            f"{', '.join([*known, needed])}."
        )
    return model


def tokenizer_folder(model: Path) -> Path:
    """The folder of the tokenizer: the model's own or, in a pipeline, the one beside it,
    ``tokenizer_2`` for ``text_encoder_2``.
    """
    beside = model.parent / model.name.replace("text_encoder", "tokenizer")
    own = any((model / name).is_file() for name in _TOKENIZER)
    return model if own or not beside.is_dir() else beside


def dataset_revision(key: str, name: str) -> str:
    """Return the commit that a data set's id means now; of ``org/name@<commit>`` that commit,
    without asking the hub.

    Raises:
        InputError: The hub does not say it.
    """
    path, _, revision = name.partition("@")
    if _COMMIT.fullmatch(revision):
        return revision
    if not _ID.fullmatch(name):
        raise InputError(f"{key}: {name}: {_NO_ID}.")
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(path, revision=revision or None).sha)
    except Exception as error:  # as above
        raise InputError(
            f"{key}: {name}: there is no such folder, and the hub does not give it "
            f"({first_line(error)})."
        ) from error


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def _digest(files: Iterable[Path], folder: Path) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        line = f"{os.path.relpath(path, folder)}\0{content}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()
