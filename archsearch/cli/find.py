"""ARCH on the command line: a preset, a UNetConfig file, a diffusers config.json or its folder, or RUN_DIR#TRIAL."""

from pathlib import Path

from archsearch.architectures import Architecture, load_architecture
from archsearch.errors import InputError
from archsearch.study.results import trial_config
from archsearch.study.rundir import RunDir


def find_architecture(text: str) -> Architecture:
    """Resolve ARCH.

    Raises:
        InputError: It is none of these; the message says what is allowed.
    """
    folder, separator, trial = text.rpartition("#")
    if not separator:
        return load_architecture(text)
    if not trial.isdigit():
        raise InputError(f"'{text}': after # comes the number of a trial, but got '{trial}'.")
    run = RunDir(Path(folder))
    if not run.study.is_file():
        raise InputError(f"'{text}': {folder} is not a run: it has no study.yaml.")
    return Architecture(f"{run.path.name}#{trial}", trial_config(run, int(trial)))
