"""A runtime with the reference block loaded, measuring one thing after another."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.entry import describe
from archsearch.latency.inputs import unit_inputs, unit_module
from archsearch.latency.paired import REFERENCE_UNIT, MeasureSettings, Sample, measure_quietly
from archsearch.runtimes.base import Runtime, Session
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, example_inputs
from archsearch.unet.units import Unit


class RefusedError(ArchsearchError):
    """The reference would not hold still beside some units: the machine is too busy or too hot to measure them."""


class Bench:
    """A runtime with the reference block loaded: measures one thing after another.

    Raises:
        InputError: The runtime does not run on this machine.
    """

    def __init__(self, runtime: Runtime, settings: MeasureSettings) -> None:
        reason = runtime.available()
        if reason:
            raise InputError(f"runtime {runtime.name} cannot measure here: {reason}")
        self.runtime = runtime
        self.settings = settings
        self._folder = tempfile.TemporaryDirectory(prefix="archsearch-latency-")
        self._reference = self._convert(REFERENCE_UNIT, Path(self._folder.name))

    def close(self) -> None:
        """Remove the converted reference."""
        self._folder.cleanup()

    def measure(self, thing: Unit | UNetConfig) -> tuple[Sample, bool]:
        """Measure a unit or a whole network.

        Returns:
            The sample, and whether the reference held still beside it.

        Raises:
            ArchsearchError: The runtime cannot convert or run it.
        """
        with tempfile.TemporaryDirectory(prefix="archsearch-latency-") as folder:
            session = self._convert(thing, Path(folder))
            return measure_quietly(session, self._reference, self.settings)

    def _convert(self, thing: Unit | UNetConfig, folder: Path) -> Session:
        module, inputs = _built(thing, self.settings.seed)
        try:
            return self.runtime.convert(module, inputs, folder, self.settings.threads)
        except ArchsearchError:
            raise
        except Exception as error:
            raise ArchsearchError(f"{name_of(thing)}: {self.runtime.name} cannot convert it: {error}") from error


def _built(thing: Unit | UNetConfig, seed: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Module with random weights and its inputs."""
    if not isinstance(thing, UNetConfig):
        return unit_module(thing, seed), unit_inputs(thing, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(thing).eval(), example_inputs(thing)


def name_of(thing: Unit | UNetConfig) -> str:
    """What messages call it: fields of a unit, digest of a network."""
    return f"network {thing.digest}" if isinstance(thing, UNetConfig) else describe(thing)
