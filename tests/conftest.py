"""One thread a test process, no time limits of hypothesis, and the command line as it is typed."""

import os
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

from archsearch.cli import main

Cli = Callable[..., tuple[int, str, str]]

torch.set_num_threads(1)
settings.register_profile("archsearch", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("archsearch")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command; returns exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["archsearch", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
