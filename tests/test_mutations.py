"""No accident of a file, and no stranger's file, ends in a traceback or takes the machine: random
changes of all that archsearch reads, a few here, thousands in ``benchmarks/mutations.py``.
"""

import random

import pytest

from tests.conftest import Cli
from tests.mutations import Kind, changed, command_of, in_time, kinds, outcome

NAMES = ("study", "space", "table", "network", "data", "phone", "trained")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    return kinds(tmp_path_factory.mktemp("whole"))


def try_files(name: str, kind: Kind, count: int) -> None:
    for number in range(count):
        seed = f"{name}:{number}"
        with changed(kind, random.Random(seed)) as (path, content):
            try:
                outcome(kind, path)
            except Exception as error:
                raise AssertionError(f"{seed}: {path.name} is now {content[-500:]!r}") from error


def try_commands(every: dict[str, Kind], cli: Cli, count: int) -> None:
    every = {name: kind for name, kind in every.items() if kind.commands}
    for number in range(count):
        rng = random.Random(f"command {number}")
        kind = every[rng.choice(sorted(every))]
        with changed(kind, rng) as (path, content):
            command = command_of(kind, path, rng)
            told = f"command {number}: {' '.join(command)}: {content[-500:]!r}"
            try:
                with in_time():
                    code, _, err = cli(*command)
            except Exception as error:
                raise AssertionError(told) from error
            assert (code, "error: " in err) in ((0, False), (1, True), (2, True), (1, False)), told
            assert "Traceback" not in err, told


@pytest.mark.parametrize("name", NAMES)
def test_whole_files_are_read(name: str, whole: dict[str, Kind]) -> None:
    if name == "data":  # shards are read with an extra
        pytest.importorskip("braceexpand")
    for target in whole[name].targets:
        assert outcome(whole[name], whole[name].folder / target) == "read"


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_file_is_read_or_told(name: str, whole: dict[str, Kind]) -> None:
    try_files(name, whole[name], 40)


def test_commands_tell_it_too(whole: dict[str, Kind], cli: Cli) -> None:
    try_commands({name: whole[name] for name in ("space", "table", "network")}, cli, 30)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_many_changed_files(name: str, whole: dict[str, Kind]) -> None:
    try_files(name, whole[name], 2000)
