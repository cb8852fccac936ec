"""Loading models without the progress bars and reports of the libraries they come from."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet(logging: Any) -> Iterator[None]:
    """Silence a library while it loads a model: ``quiet(transformers.utils.logging)``, and the same of diffusers.

    What matters of it is checked by the caller: weights that are missing, files that cannot be read.
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
