"""What is made from a trained network: one that draws in fewer steps, and adapters for it; and
whether the members of a front keep their order when that is done to each.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from archsearch import catalog
from archsearch.adapters import training as adapters
from archsearch.adapters.work import Report, Scores, begin_work, check_metrics, read_checkpoint
from archsearch.api import Study
from archsearch.diffusion.adversarial import METHODS
from archsearch.diffusion.distill import distilled_weights, plan_rounds, progressive
from archsearch.diffusion.generators import (
    CURVE,
    adversarial,
    check_generator,
    generator_weights,
    read_curve,
)
from archsearch.diffusion.trained import SCORES as SCORES_FILE
from archsearch.diffusion.trained import begin, load_trained
from archsearch.errors import InputError, check_known
from archsearch.files import write_json
from archsearch.study.finish import save_grid
from archsearch.study.setting import read_study
from archsearch.study.spec import OF_PROXY, cost_axis, is_score, quality_axis, score_of
from archsearch.study.validation import correlate

FRONT = "front.json"
"""In the folder of what was made from a whole front: a row a network, and how orders agree."""


def distill(
    checkpoint: str | Path,
    output: str | Path,
    method: str = "progressive",
    to: int = 8,
    start: int | None = None,
    guidance: tuple[float, float] | None = None,
    samples: int | None = None,
    learning_rate: float | None = None,
    metrics: Sequence[str] = (),
    images: int = 128,
    seed: int = 0,
    report: Report = lambda _, __: None,
) -> list[dict[str, Any]]:
    """Distill a trained network to fewer steps, or go on where an earlier call stopped. See
    ``archsearch.diffusion.distill``.

    Args:
        checkpoint: Folder of the network, as ``Study.train`` or this function made it.
        output: Folder of the distilled network.
        method: ``progressive``, ``ufogen`` or ``dmd``.
        to: Steps to reach; 1, 2 or 4 for the latter two.
        start: ``progressive``: steps that halving begins from; by default 64, or those that the
            network was distilled to.
        guidance: The least and the largest guidance weight that one pass is to give. By default
            those that the network gives; else 1 and 8 (``progressive``) or 3 and 3 (``dmd``).
        samples: Pictures to see in each round; by default as many as the network's training saw.
        learning_rate: By default 3e-4 for ``progressive``, 1e-4 else.
        metrics: Scores of the pictures that the students draw.
        images: Pictures that a score is taken of.
        seed: Of the trainings.
        report: Told how far it is.

    Returns:
        ``progressive``: a row a round, with steps, the error against the teacher before and after,
        and the scores asked for. Else a row a look, with the losses of both networks, the last one
        with the scores.

    Raises:
        InputError: The folder holds no trained network or one that cannot be distilled so, or
            ``output`` holds something else.
        ArchsearchError: A training diverged, or memory ran out.
    """
    checkpoint, output = Path(checkpoint), Path(output)
    check_known(method, ("progressive", *METHODS), f"--method: '{method}' is not known")
    check_metrics(metrics)
    trained = read_checkpoint(checkpoint, output)
    if method == "progressive":  # what cannot be is refused before anything is written
        weights = distilled_weights(trained, guidance)
        plan_rounds(trained, to, start)
    else:
        weights = generator_weights(trained, guidance, method)
        check_generator(trained, to, method)
        if start is not None:
            raise InputError(f"--from: belongs to --method progressive, not to {method}.")
    rate = (3e-4 if method == "progressive" else 1e-4) if learning_rate is None else learning_rate
    if not rate > 0:
        raise InputError(f"--learning-rate: must be more than 0, but got {rate:g}.")
    changes = {"caption_dropout": 0.0, "learning_rate": rate}
    changes |= {} if samples is None else {"samples": samples}
    settings = {"method": method, "to": to, "from": start, "guidance": list(weights), "seed": seed}
    work = begin_work(trained, checkpoint, output, "distill.json", settings, changes, report)
    score, common = Scores(work, metrics, images, seed), (weights, seed, work.device, report)
    if method == "progressive":
        rows = progressive(trained, work.data, work.recipe, output, to, start, *common, score)
        write_json(output / "rounds.json", {"schema": 1, "rounds": rows})
    else:
        from archsearch.report.figures import draw_curves

        try:
            rows = adversarial(trained, work.data, work.recipe, output, method, to, *common)
        finally:
            if (output / CURVE).is_file():
                draw_curves(read_curve(output), method, output / "curve.png")
        rows[-1] |= score(*load_trained(output, work.device))
    save_grid(work.draw(*load_trained(output, work.device)), output / "samples.png")
    return rows


def adapt(
    checkpoint: str | Path,
    output: str | Path,
    method: str = "lora",
    study: str | Path | None = None,
    overrides: Iterable[str] = (),
    rank: int = 8,
    samples: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    report: Report = lambda _, __: None,
) -> dict[str, Any]:
    """Train an adapter for a trained network, or go on where an earlier call stopped.
    ``adapter.safetensors`` in its folder is the adapter; ``generate`` loads it onto the network and
    onto what was distilled from it.

    Args:
        checkpoint: Folder of the network, as ``Study.train`` made it.
        output: Folder of the adapter's training.
        method: ``lora``; ``control``, by the edges of a picture; ``inpaint``.
        study: One whose data are learned from, by name or path; by default what the network learned
            from.
        overrides: Keys of that study, as the command line has them.
        rank: Of a LoRA.
        samples: Pictures to see; by default as many as the network's study says.
        learning_rate: By default that of the network's training.
        seed: Of the training.
        report: Told how far it is.

    Returns:
        Held-out loss without and with the adapter, its parameters and their share of the network's.

    Raises:
        InputError: The folder holds no trained network or a distilled one, the data do not suit
            it, or ``output`` holds something else.
        ArchsearchError: The training diverged, or memory ran out.
    """
    checkpoint, output = Path(checkpoint), Path(output)
    check_known(method, adapters.METHODS, f"--method: '{method}' is not known")
    if learning_rate is not None and not learning_rate > 0:
        raise InputError(f"--learning-rate: must be more than 0, but got {learning_rate:g}.")
    trained = read_checkpoint(checkpoint, output)
    adapters.check_adaptable(trained, method)
    other = None
    if study is not None:
        other = read_study(catalog.find("study", str(study)), overrides)[1].data
    changes: dict[str, Any] = {"compile": False}
    changes |= {} if samples is None else {"samples": samples}
    changes |= {} if learning_rate is None else {"learning_rate": learning_rate}
    settings = {"method": method, "rank": rank if method == "lora" else None, "seed": seed}
    work = begin_work(trained, checkpoint, output, "adapt.json", settings, changes, report, other)
    found = adapters.train_adapter(work, method, rank, seed, report)
    write_json(output / SCORES_FILE, {"schema": 1, "scores": found})
    return found


def distill_front(
    run: str | Path,
    output: str | Path,
    method: str = "progressive",
    to: int = 8,
    metrics: Sequence[str] = (),
    report: Report = lambda _, __: None,
    **options: Any,
) -> dict[str, Any]:
    """Distill every member of a run's front, and the presets, with one budget each; see
    :func:`distill`. Does the order of the front survive?

    Args:
        run: Folder of the run.
        output: Folder of what is made: a folder a network, ``front.json``. One that is there goes
            on.
        method: As for :func:`distill`.
        to: Steps to reach.
        metrics: Scores of the pictures that the distilled networks draw.
        report: Told how far it is.
        options: More options of :func:`distill`.

    Returns:
        ``rows``: a network each, with what the search believes of it and what came of it;
        ``agreement``: Kendall's τ, with its interval, between the order before and that by each
        score after; 1 where both are the same.

    Raises:
        InputError: The folder is no run with a front, or as :func:`distill`.
    """

    def one(network: Path, folder: Path) -> Mapping[str, Any]:
        rows = distill(network, folder, method, to, metrics=metrics, report=report, **options)
        return rows[-1]

    settings = {"method": method, "to": to, "metrics": list(metrics), **options}
    return _each_of_the_front(Path(run), Path(output), f"{method}-{to}", settings, one)


def adapt_front(
    run: str | Path,
    output: str | Path,
    method: str = "lora",
    report: Report = lambda _, __: None,
    **options: Any,
) -> dict[str, Any]:
    """Train an adapter for every member of a run's front, and for the presets, with one budget
    each; see :func:`adapt`. Which of them takes it best?

    Args:
        run: Folder of the run.
        output: Folder of what is made: a folder a network, ``front.json``. One that is there goes
            on.
        method: As for :func:`adapt`.
        report: Told how far it is.
        options: More options of :func:`adapt`.

    Returns:
        As :func:`distill_front`.

    Raises:
        InputError: The folder is no run with a front, or as :func:`adapt`.
    """

    def one(network: Path, folder: Path) -> Mapping[str, Any]:
        return adapt(network, folder, method, report=report, **options)

    return _each_of_the_front(Path(run), Path(output), method, {"method": method, **options}, one)


def _each_of_the_front(
    run: Path,
    output: Path,
    name: str,
    settings: dict[str, Any],
    make: Callable[[Path, Path], Mapping[str, Any]],
) -> dict[str, Any]:
    """Make something from each network that a run shows, in folders called ``name``."""
    study = Study.open(run)
    shown, objectives = study.results.shown(), study.spec.objectives
    quality, cost = quality_axis(objectives), cost_axis(objectives)
    if not shown or quality is None:
        raise InputError(f"{run}: has no front of trained networks.")
    begin(output, "front_of.json", {"schema": 1, "run": str(run.resolve()), **settings})
    rows: list[dict[str, Any]] = []
    believed = f"{quality} believed"
    for trial in shown:
        network = output / trial.name.removeprefix("#") / "network"
        if not (network / SCORES_FILE).is_file():
            study.save_proxy(trial.number, network)
        row: dict[str, Any] = {"network": trial.name}
        if cost is not None:
            row[cost] = trial.known[cost]
        row[believed] = trial.believed.get(quality, (trial.known[quality],))[0]
        made = make(network, network.parent / name)
        rows.append(row | {k: v for k, v in made.items() if isinstance(v, int | float)})
    before = [_sign(quality) * row[believed] for row in rows]
    agreement = {}
    for score in rows[0]:
        sign = _sign(score)
        if sign and all(score in row for row in rows):
            found = correlate(before, [sign * row[score] for row in rows])
            if found is not None:
                agreement[score] = {"tau": found.tau, "low": found.low, "high": found.high}
    found_all = {"schema": 1, "order_of": quality, "rows": rows, "agreement": agreement}
    write_json(output / FRONT, found_all)
    return found_all


def _sign(name: str) -> int:
    """1 where less of a score is better, -1 where more is, 0 for what says nothing of quality."""
    score = name.removeprefix("undistilled_")
    if is_score(score) and score_of(score).source in OF_PROXY:
        return 1 if score_of(score).direction == "minimize" else -1
    return int(name in ("error", "error_before"))
