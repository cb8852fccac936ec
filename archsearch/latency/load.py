"""Tables of either sort, read from their files."""

from pathlib import Path

from archsearch.latency.document import read_json
from archsearch.latency.predict import AnyTable
from archsearch.latency.published import PublishedTable
from archsearch.latency.table import LatencyTable


def load_table(path: Path) -> AnyTable:
    """Read a measured or a published table: the latter says so in ``provenance``.

    Raises:
        InputError: It cannot be read, or holds what is not allowed.
    """
    data = read_json(path)
    published = isinstance(data, dict) and "provenance" in data
    return PublishedTable.load(path) if published else LatencyTable.load(path)
