"""The known sources of captioned pictures."""

from archsearch.data.captioned import CaptionedImages, Source
from archsearch.data.spec import DataSpec
from archsearch.data.twemoji import Twemoji

__all__ = ["SOURCES", "CaptionedImages", "Source", "load_source"]

SOURCES: dict[str, Source] = {"twemoji": Twemoji()}


def load_source(spec: DataSpec) -> CaptionedImages:
    """Load the pictures of ``spec.source``. Nothing is cached here: see :func:`archsearch.data.prepare.prepare`."""
    return SOURCES[spec.source].load(spec)
