"""Files of a run that accidents or strangers changed: whoever looks at the run is told in a
sentence, and so is whoever lets it be mended. ``tests/test_mutations.py`` has the other kinds of
files.
"""

from pathlib import Path

import pytest

from archsearch.data.prepare import Prepared
from tests.conftest import Cli
from tests.mutations import kinds, kinds_of_run
from tests.test_mutations import try_commands, try_files

from .conftest import finish


@pytest.mark.slow
def test_changed_files_of_a_run(tmp_path: Path, data: Prepared, cli: Cli) -> None:
    of_run = kinds_of_run(finish(tmp_path, data))
    for name, kind in of_run.items():
        try_files(name, kind, 150)
    try_commands(kinds(tmp_path / "others") | of_run, cli, 100)
