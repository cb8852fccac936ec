"""Measuring in another process: what it answers, what it survives, what it leaves behind."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from archsearch.errors import ArchsearchError, InputError
from archsearch.latency import process
from archsearch.latency.paired import Bench
from archsearch.latency.process import Process
from archsearch.latency.stopwatch import MeasureSettings
from archsearch.runtimes.base import facts
from archsearch.runtimes.registry import get_runtime
from archsearch.unet import units

SETTINGS = MeasureSettings(warmup=1, runs=3, max_drift=1e9)
UNIT = units.FeedForward(32, 16, 4, "gelu")
DEADLY = units.Downsample(32, 16)
REFUSED = units.Upsample(32, 8)

ODD_WORKER = """#!{python}
import os, signal, sys
from archsearch.errors import ArchsearchError
from archsearch.latency import process
from archsearch.runtimes.registry import RUNTIMES
from archsearch.runtimes.torch import TorchRuntime

class Odd(TorchRuntime):
    full = TorchRuntime()
    def convert(self, module, inputs, folder, threads=1):
        print("the library greets you")
        os.system("echo so does the system")
        shape = tuple(inputs[0].shape)
        if shape == (1, 32, 16, 16):  # the downsampling of 32 channels at 16
            os.kill(os.getpid(), signal.SIGSEGV)
        if shape == (1, 64, 16, 16):  # the output
            signal.pause()
        if shape == (1, 32, 8, 8):  # the upsampling of 32 channels at 8
            raise RuntimeError("no kernel for it")
        return super().convert(module, inputs, folder, threads)

RUNTIMES["torch"] = Odd()
process.main(sys.argv[sys.argv.index("--runtime"):])
"""


@pytest.fixture
def odd_python(tmp_path: Path) -> Path:
    """Stands for a Python whose torch prints, refuses and crashes."""
    path = tmp_path / "python"
    path.write_text(ODD_WORKER.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def _folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("archsearch-process-*"))


def _children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if "archsearch.latency.process" in " ".join(child.cmdline())
    ]


def test_measures_as_a_bench_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with (
        Process("onnxruntime", SETTINGS) as remote,
        Bench(get_runtime("onnxruntime"), SETTINGS) as local,
    ):
        assert remote.facts == local.facts == facts(get_runtime("onnxruntime"))
        assert remote.settings == local.settings
        for bench in (remote, local):
            for full in (False, True):
                sample, quiet = bench.measure(UNIT, full=full)
                assert quiet
                assert len(sample.ratios) == 3
                assert min(*sample.ratios, *sample.reference) > 0
        assert len(_children()) == 1
    assert not _children()
    assert not list(tmp_path.iterdir())


def test_full_is_refused_where_there_is_none() -> None:
    with Process("torch", SETTINGS) as remote, Bench(get_runtime("torch"), SETTINGS) as local:
        for bench in (remote, local):
            with pytest.raises(InputError, match="runtime torch has one graph level only"):
                bench.measure(UNIT, full=True)
            bench.measure(UNIT)


def test_what_a_library_prints_does_no_harm(odd_python: Path) -> None:
    with Process("torch", SETTINGS, odd_python) as bench:
        assert bench.measure(UNIT)[1]
        (output,) = bench.run(UNIT)
        assert output.shape == (1, 16, 32)


def test_a_unit_the_runtime_refuses_is_named(odd_python: Path) -> None:
    with Process("torch", SETTINGS, odd_python) as bench:
        with pytest.raises(
            ArchsearchError,
            match=r"upsample\(channels=32, size=8\): torch cannot convert it: no kernel for it",
        ):
            bench.measure(REFUSED)
        assert bench.measure(UNIT)[1]


def test_a_crash_names_the_unit_and_the_signal_and_is_survived(odd_python: Path) -> None:
    with Process("torch", SETTINGS, odd_python) as bench:
        for _ in range(2):
            with pytest.raises(
                ArchsearchError,
                match=r"downsample\(channels=32, size=16\): torch: its process died of .* SIGSEGV",
            ):
                bench.measure(DEADLY)
            assert bench.measure(UNIT)[1]


def test_a_runtime_that_hangs_is_given_up_and_survived(
    odd_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Process("torch", SETTINGS, odd_python) as bench:
        with monkeypatch.context() as patch:
            patch.setattr(process, "PATIENCE_S", 3.0)
            with pytest.raises(
                ArchsearchError,
                match=r"output\(.*: torch: its process gave no answer for 0 minutes",
            ):
                bench.measure(units.Output(64, 4, 16, 8))
        assert not _children()
        assert bench.measure(UNIT)[1]


def test_a_process_killed_between_measurements_is_survived() -> None:
    with Process("torch", SETTINGS) as bench:
        bench.measure(UNIT)
        (child,) = _children()
        child.kill()
        with pytest.raises(
            ArchsearchError, match=r"SIGKILL \(the system's memory may have run out\)"
        ):
            bench.measure(UNIT)
        assert bench.measure(UNIT)[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--runtime-python .*nowhere: does not start: No such file"),
        (
            "import nonsense_package",
            "ended with exit code 1, and last said: ModuleNotFoundError: No module named "
            "'nonsense_package'",
        ),
        (
            "",
            "ended with exit code 0. It must be Python 3.11 or later with torch, numpy, "
            "pydantic, PyYAML and the package of torch",
        ),
    ],
)
def test_a_python_that_will_not_do(content: str | None, message: str, tmp_path: Path) -> None:
    python = tmp_path / "nowhere"
    if content is not None:
        python.write_text(f"#!{sys.executable}\n{content}\n")
        python.chmod(0o755)
    before = _folders()
    with pytest.raises(InputError, match=message):
        Process("torch", SETTINGS, python)
    assert _folders() == before


def test_unknown_runtime() -> None:
    with pytest.raises(InputError, match="'torhc' is not a runtime"):
        Process("torhc", SETTINGS)


def test_interrupting_leaves_no_process_behind(tmp_path: Path) -> None:
    script = (
        "import signal\n"  # which the background of a shell ignores
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from archsearch.latency.process import Process\n"
        "from archsearch.latency.stopwatch import MeasureSettings\n"
        "from archsearch.unet import units\n"
        "bench = Process('torch', MeasureSettings(runs=10**6, seconds=1e6, max_drift=1e9))\n"
        "print(bench._process.pid, flush=True)\n"
        "bench.measure(units.FeedForward(32, 16, 4, 'gelu'))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.5)
    os.killpg(parent.pid, signal.SIGINT)  # as the terminal does
    assert parent.wait(20) != 0
    worker.wait(20)
    parent.stdout.close()
