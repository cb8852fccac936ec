"""The devices of a study: their latency tables, and what each of them says of a network, a reference and a pipeline."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from archsearch import documents, resources
from archsearch.architectures import load_architecture
from archsearch.errors import InputError, nearest
from archsearch.latency.load import load_table
from archsearch.latency.parts import Role
from archsearch.latency.predict import AnyTable, MissingEntryError, OnMissing, Prediction, predict
from archsearch.latency.published import PublishedTable
from archsearch.study.deployment import Deployment
from archsearch.study.scores import device_of, of_device
from archsearch.study.spec import StudySpec
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import Plan, plan

ResultT = TypeVar("ResultT")

PUBLISHED_PARTS: dict[Role, str] = {"text_encoder": "text-encoder", "decoder": "decoder"}
"""What published tables call a part: they have one of each role, their own."""


class OutsideFamilyError(InputError):
    """A published table says nothing of a network: it is of another family."""


@dataclass(frozen=True)
class Device:
    """A latency table of the study, and the name its device goes by."""

    name: str
    table: AnyTable
    path: Path
    reference: Prediction | None = None
    """Latency of the reference network."""
    parts_ms: float | None = None
    """What the pipeline takes beside the UNet: text encoder and decoder, once each."""

    def predict(self, network: Plan, on_missing: OnMissing) -> Prediction:
        """Predict the latency of a network.

        Raises:
            MissingEntryError: The table lacks units of it.
            OutsideFamilyError: The table is a published one, of another family.
        """
        try:
            return predict(network, self.table, on_missing)
        except MissingEntryError:
            raise
        except InputError as error:
            raise OutsideFamilyError(str(error)) from error


def distinct(names: Iterable[str]) -> list[str]:
    """The names in order; one that was there before gets a number: ``a, b, a`` becomes ``a, b, a-2``."""
    found: list[str] = []
    for name in names:
        number, candidate = 1, name
        while candidate in found:
            number += 1
            candidate = f"{name}-{number}"
        found.append(candidate)
    return found


def load_devices(document: documents.Document, spec: StudySpec, reference: UNetConfig | None) -> tuple[Device, ...]:
    """Read the tables of a study and check them against it.

    Args:
        document: The study's file: messages name its lines, and tables are looked for beside it.
        spec: What it says.
        reference: The network of ``deployment.reference``.

    Raises:
        InputError: A table is missing, damaged, of another device than the study names, lacks a part of the pipeline or says
            nothing of the reference; or a score is of a device that is not there.
    """
    found = [_load(document, index, *named) for index, named in enumerate(spec.deployment.named_tables)]
    names = distinct(name or table.name for name, table, _ in found)
    devices = []
    for name, (_, table, path) in zip(names, found, strict=True):
        latency = None if reference is None else _of_reference(document, spec.deployment, table, path, reference)
        devices.append(Device(name, table, path, latency, _parts_ms(document, spec.deployment, table, path)))
    _check_names(document, spec, names)
    return tuple(devices)


def load_reference(document: documents.Document, deployment: Deployment) -> UNetConfig | None:
    """Read the architecture that ``latency_ratio`` compares with, if the study names one.

    Raises:
        InputError: It is none.
    """
    if deployment.reference is None:
        return None
    return _at(document, ("deployment", "reference"), lambda: load_architecture(str(deployment.reference), document.path).config)


def _load(document: documents.Document, index: int, device: str | None, given: str) -> tuple[str | None, AnyTable, Path]:
    key: documents.Key = ("deployment", "tables", index if device is None else device)
    path = _at(document, key, lambda: resources.find("table", given, document.path))
    table = load_table(path)
    if device is not None and table.device != device:
        raise InputError(
            f"{document.where(key)}: {documents.dotted(key)}: {path} is a table of another device than the study names: "
            f"of '{table.device}', but got it under '{device}'."
        )
    return device, table, path


def _of_reference(
    document: documents.Document, deployment: Deployment, table: AnyTable, path: Path, reference: UNetConfig
) -> Prediction:
    key = ("deployment", "reference")
    return _at(document, key, lambda: predict(plan(reference), table, deployment.on_missing), f"{deployment.reference} in {path}: ")


def _parts_ms(document: documents.Document, deployment: Deployment, table: AnyTable, path: Path) -> float | None:
    parts = deployment.pipeline.parts if deployment.pipeline else {}
    if not parts:
        return None
    published = isinstance(table, PublishedTable)
    known = {line.part: line.p50 for line in table.parts}
    total = 0.0
    for role, given in parts.items():
        part = PUBLISHED_PARTS[role] if published else given
        if part not in known:
            key = ("deployment", "pipeline", role)
            there = f"it has {', '.join(known)}" if known else "it has none"
            cure = f" Measure it with: archsearch latency measure --part {given}" if not published else ""
            raise InputError(f"{document.where(key)}: {documents.dotted(key)}: table {path} has no part '{part}', {there}.{cure}")
        total += known[part]
    return total


def _check_names(document: documents.Document, spec: StudySpec, names: list[str]) -> None:
    for section, scores in (("objectives", spec.objectives), ("limits", spec.limits), ("report", spec.report)):
        for score in scores:
            device = device_of(score)
            if device is not None and device not in names:
                allowed = ", ".join(of_device(name) for name in names)
                raise InputError(
                    f"{document.where((section, score))}: {section}: '{score}' is of no table of the study."
                    f"{nearest(device, names)} Allowed are: {allowed}."
                )


def _at(document: documents.Document, key: documents.Key, work: Callable[[], ResultT], what: str = "") -> ResultT:
    """Do ``work``; what it complains of is said to be at ``key``."""
    try:
        return work()
    except InputError as error:
        raise InputError(f"{document.where(key)}: {documents.dotted(key)}: {what}{error}") from error
