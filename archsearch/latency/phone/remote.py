"""Converting with another Python, for formats whose library lives in an environment of its own."""

from pathlib import Path
from types import TracebackType
from typing import Self

from archsearch.latency.peer import Peer
from archsearch.latency.phone.manifest import Format, Input
from archsearch.latency.things import Thing, name_of, to_data


class RemoteConverter:
    """A ``Converter`` in another process, which is started again for the next thing where one has ended it.

    Args:
        format: What it writes.
        python: A Python with torch, numpy, pydantic and the format's library.

    Attributes:
        facts: What tables say of the runtime.

    Raises:
        InputError: ``python`` does not start, or lacks something.
    """

    def __init__(self, format: Format, python: Path) -> None:
        self._format = format
        self._peer = Peer("archsearch.latency.phone.worker", ["--format", format], python, f"the library of {format}")
        self.facts = self._peer.facts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __call__(self, thing: Thing, seed: int, folder: Path) -> tuple[str, list[Input]]:
        """Convert ``thing`` into ``folder``.

        Raises:
            InputError: The other Python lacks something.
            ArchsearchError: It cannot convert it, or died of it.
        """
        request = {"thing": to_data(thing), "seed": seed, "folder": str(folder.resolve())}
        answer = self._peer.ask(request, f"{name_of(thing)}: {self._format}")
        return answer["file"], [Input.model_validate(each) for each in answer["inputs"]]

    def close(self) -> None:
        """End the process and remove its files."""
        self._peer.close()
