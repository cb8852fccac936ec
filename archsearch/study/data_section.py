"""What a study learns from: pictures, the encoder of their captions, the latent space. Paths made absolute; checked."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from archsearch import documents
from archsearch.data.latent import BUILT_IN, latent_space
from archsearch.data.source import check_source
from archsearch.data.text import MiniLM, text_encoder
from archsearch.errors import InputError
from archsearch.files import expanded
from archsearch.study.spec import StudySpec

_PATTERN = "*?[{"


def resolve_data(document: documents.Document, spec: StudySpec) -> StudySpec:
    """Make the paths of the data absolute. Nothing is opened, nor asked of the hub: a run can be looked at without its models.

    A path is looked for beside the study's file, then in the working folder; what is in neither is left as it is, an id perhaps.
    """
    near = document.path.parent
    found = {key: _found(getattr(spec.data, key), near) for key in ("path", "images")}
    text, latent = spec.data.text, spec.proxy.latent
    data = spec.data.model_copy(update=found | {"text": text if text == MiniLM.name else _found(text, near)})
    proxy = spec.proxy.model_copy(update={"latent": latent if latent in BUILT_IN else _found(latent, near)})
    return spec.model_copy(update={"data": data, "proxy": proxy})


def check_data(document: documents.Document, spec: StudySpec) -> None:
    """Refuse keys of the data that do not fit together: from the models' configurations, before anything is loaded.

    Raises:
        InputError: A source, encoder or latent space is not known or not there, or the sizes do not fit together.
    """
    data, proxy = spec.data, spec.proxy
    with located(document):
        check_source(data)
        longest = text_encoder(data.text).max_tokens
        if data.tokens > longest:
            raise InputError(f"data.tokens: {data.tokens} is more than the {longest} tokens that data.text ({data.text}) takes.")
        space = latent_space(proxy.latent)
        if proxy.sample_size * space.factor != data.size:
            raise InputError(
                f"proxy.sample_size ({proxy.sample_size}) must be data.size ({data.size}) divided by {space.factor}, "
                f"the factor of proxy.latent ({space.name})."
            )


def check_data_files(document: documents.Document, spec: StudySpec) -> None:
    """Refuse a study whose data do not fit together or are not there. Looking at its results needs none.

    Raises:
        InputError: The key, and the folder or file where there is one, are named.
    """
    check_data(document, spec)
    with located(document):
        for source in check_source(spec.data).values():
            source.versions()
            source.state(spec.data)


def _found(name: str | None, near: Path) -> str | None:
    """An absolute path if there is such a file, folder or, for a pattern, the folder it lies in; else the name itself."""
    if name is None:
        return None
    given = expanded(name)
    for candidate in (near / given, given):
        there = candidate.parent.is_dir() if any(sign in candidate.name for sign in _PATTERN) else candidate.exists()
        if there:
            return str(candidate.resolve())
    return name


@contextmanager
def located(document: documents.Document) -> Iterator[None]:
    """Put file and line before a message that begins with a key of the data: ``data.path: …``."""
    try:
        yield
    except InputError as error:
        key = tuple(str(error).partition(":")[0].partition(" ")[0].split("."))
        raise InputError(f"{document.where(key)}: {error}") if key[0] in ("data", "proxy") else error from error
