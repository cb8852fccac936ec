"""What was measured so far, beside the table to come: measuring can be cut off anywhere and goes on from here.

Ratios to the reference are kept, not times, so that what several sessions measured fits together.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from archsearch.errors import ArchsearchError, InputError
from archsearch.files import write_text
from archsearch.latency.document import explain
from archsearch.latency.entry import parse_unit
from archsearch.latency.paired import Sample
from archsearch.latency.parts import Part
from archsearch.latency.table import Header
from archsearch.latency.things import Thing, is_unit
from archsearch.unet.config import UNetConfig
from archsearch.unet.units import Unit, unit_fields

SCHEMA_VERSION = 1


def partial_path(output: Path) -> Path:
    """``<output>.partial.json``."""
    return output.with_name(output.name + ".partial.json")


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Keep other processes from measuring into the same table meanwhile.

    Raises:
        InputError: Another one does.
    """
    lock = FileLock(f"{partial_path(output)}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"{output}: another process is measuring into it.") from error
    except OSError as error:
        raise ArchsearchError(f"{output}: cannot be written: {error.strerror or error}.") from error
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def check_same(header: Header, found: Header, path: Path) -> None:
    """Refuse to mix what was measured under different conditions.

    Raises:
        InputError: ``found`` in ``path`` differs from ``header``; the message names what differs.
    """
    differing = [name for name in Header.model_fields if getattr(header, name) != getattr(found, name)]
    if differing:
        named = ", ".join(f"{name} ({getattr(found, name)!r} there, {getattr(header, name)!r} here)" for name in differing)
        raise InputError(f"{path}: was measured with another {named}; move it away or choose another output.")


class Partial:
    """Samples so far: of units, and under the names of ``job`` of everything that is measured whole."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.header = header
        self.units: dict[Unit, Sample] = {}
        self.whole: dict[str, Sample] = {}

    @classmethod
    def open(cls, path: Path, header: Header) -> "Partial":
        """Read what is there, or begin.

        Raises:
            InputError: The file is unreadable, or was measured under other conditions.
        """
        partial = cls(path, header)
        if not path.exists():
            return partial
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["schema"] != SCHEMA_VERSION:
                raise ValueError(f"schema: must be {SCHEMA_VERSION}, but got {data['schema']!r}")
            found = Header.model_validate(data["header"])
            for line in data["units"]:
                sample = Sample.model_validate(line.pop("sample"))
                partial.units[parse_unit(line)] = sample
            partial.whole = {name: Sample.model_validate(sample) for name, sample in data["whole"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = explain(error, Header) if isinstance(error, ValidationError) else str(error)
            raise InputError(f"{path}: is no partial latency table ({reason}); delete it to begin anew.") from error
        check_same(header, found, path)
        return partial

    def get(self, thing: Thing, variant: str = "") -> Sample | None:
        """The sample of a thing, if there is one. ``variant`` keeps apart several of one network: measured again, or in full."""
        return self.units.get(thing) if is_unit(thing) else self.whole.get(job(thing, variant))

    def put(self, sample: Sample, thing: Thing, variant: str = "") -> None:
        """Keep the sample of a thing."""
        if is_unit(thing):
            self.units[thing] = sample
        else:
            self.whole[job(thing, variant)] = sample

    def save(self) -> None:
        """Write atomically."""
        lines = [{**unit_fields(unit), "sample": sample.model_dump()} for unit, sample in self.units.items()]
        content: dict[str, Any] = {
            "schema": SCHEMA_VERSION,
            "header": self.header.model_dump(),
            "whole": {name: sample.model_dump() for name, sample in self.whole.items()},
        }
        head = json.dumps(content, ensure_ascii=False)[:-1]
        write_text(self.path, head + ', "units": [\n' + ",\n".join(json.dumps(line) for line in lines) + "\n]}\n")

    def forget_unquiet(self, max_drift: float) -> None:
        """Drop what was measured while the reference spread more than is allowed now."""
        self.units = {unit: sample for unit, sample in self.units.items() if sample.drift <= max_drift}
        self.whole = {name: sample for name, sample in self.whole.items() if sample.drift <= max_drift}

    def consumed(self, units: Collection[Unit], things: Iterable[Thing]) -> None:
        """Forget what stands in the table now, and delete the file where nothing else is left: another job's samples stay."""
        names = {job(thing) for thing in things if not is_unit(thing)}
        self.units = {unit: sample for unit, sample in self.units.items() if unit not in units}
        self.whole = {name: sample for name, sample in self.whole.items() if name.partition(":")[0] not in names}
        if self.units or self.whole:
            self.save()
        else:
            self.path.unlink(missing_ok=True)

    def reference_medians(self) -> list[float]:
        """Median of the reference beside everything measured so far, in ms."""
        return [sample.reference_p50 for sample in (*self.units.values(), *self.whole.values())]


def job(thing: UNetConfig | Part, variant: str = "") -> str:
    """Name of what is measured whole: a network's digest or a part's name, and the variant."""
    name = thing.digest if isinstance(thing, UNetConfig) else thing.name
    return f"{name}:{variant}" if variant else name
