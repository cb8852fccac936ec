"""One worker on a grid: ``python -m archsearch.study.grid_worker RUN N PARENT``; N is not used."""

import sys

from archsearch.data.prepare import prepare
from archsearch.diffusion.recipe import pick_device
from archsearch.study.grid import Grid
from archsearch.study.rundir import RunDir
from archsearch.study.scoring import Scorer
from archsearch.study.setting import check_data
from archsearch.study.worker import run_as_process


def work(run: RunDir, _: int) -> None:
    """Train the cells of a run that no other worker is at."""
    setting = run.setting()
    check_data(setting.document, setting.spec)
    data = prepare(setting.spec.data, setting.spec.proxy.latent)
    Grid.read(run).work(Scorer(run, setting, data, pick_device()))


if __name__ == "__main__":
    sys.exit(run_as_process(work, *sys.argv[1:]))
