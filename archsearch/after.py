"""What is made from a trained network: one that draws in fewer steps, and adapters for it; and
whether the members of a front keep their order when that is done to each.

What is done to a front the run keeps: scores in few steps as metrics of its records, distilled
networks and adapters as derived networks (``archsearch.study.derived``). ``Study.after_search``
reads all of it back, and the report shows it.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from archsearch import catalog, versions
from archsearch.adapters import training as adapters
from archsearch.adapters.work import Report, Scores, begin_work, check_metrics, read_checkpoint
from archsearch.api import Study
from archsearch.data.prepare import prepare
from archsearch.diffusion.adversarial import METHODS
from archsearch.diffusion.distill import (
    ROUNDS,
    WEIGHTS,
    distilled_weights,
    plan_rounds,
    progressive,
)
from archsearch.diffusion.generators import (
    CURVE,
    GENERATOR_GUIDANCE,
    adversarial,
    check_generator,
    generator_weights,
    read_curve,
)
from archsearch.diffusion.recipe import pick_device
from archsearch.diffusion.trained import SCORES as SCORES_FILE
from archsearch.diffusion.trained import Trained, begin, load_trained
from archsearch.diffusion.trainer import TrainingEndedError
from archsearch.errors import InputError, check_known
from archsearch.files import write_json
from archsearch.study.agreement import correlate
from archsearch.study.derived import Derived, What
from archsearch.study.finish import save_grid
from archsearch.study.results import ScoredTrial
from archsearch.study.setting import read_study
from archsearch.study.spec import OF_PROXY, cost_axis, is_score, quality_axis, score_of
from archsearch.study.store import Record

FRONT = "front.json"
"""In the folder of what was made from a whole front: a row a network, and how orders agree."""
STEPS = (50, 8, 4, 1)
"""Numbers of steps that a front is scored in, where nothing else is said."""
DISTILLATIONS = ("progressive", *METHODS)
LEARNING_RATE = 1e-4
"""Of distillations, where nothing else is said."""
FOLDING_RATE = 1e-3
"""Of the round that gives guidance in one pass, where nothing else is said."""
GUIDANCE = {"progressive": WEIGHTS, **GENERATOR_GUIDANCE}
"""Weights that one pass of a distilled proxy gives, where nothing else is said."""


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
        learning_rate: By default 1e-4, and 1e-3 in the first round of ``progressive``.
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
    check_known(method, DISTILLATIONS, f"--method: '{method}' is not known")
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
    rate = LEARNING_RATE if learning_rate is None else learning_rate
    if not rate > 0:
        raise InputError(f"--learning-rate: must be more than 0, but got {rate:g}.")
    changes = {"caption_dropout": 0.0, "learning_rate": rate}
    changes |= {} if samples is None else {"samples": samples}
    settings = {"method": method, "to": to, "from": start, "guidance": list(weights), "seed": seed}
    settings["distilling"] = versions.DISTILLING[method]
    work = begin_work(trained, checkpoint, output, "distill.json", settings, changes, report)
    score, common = Scores(work, metrics, images, seed), (weights, seed, work.device, report)
    if method == "progressive":
        folding_rate = FOLDING_RATE if learning_rate is None else None
        rows = progressive(
            trained, work.data, work.recipe, output, to, start, *common, score, folding_rate
        )
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


def few_steps(
    run: str | Path,
    steps: Sequence[int] = STEPS,
    metrics: Sequence[str] = ("kid_effnet",),
    report: Report = lambda _, __: None,
) -> dict[str, Any]:
    """Score what the members of a run's front, and the presets, draw in several numbers of steps,
    as the search has trained them: quality against the latency of a picture. The run keeps the
    scores, so that none is taken twice.

    Args:
        run: Folder of the run.
        steps: Numbers of DDIM steps.
        metrics: Scores of the pictures.
        report: Told how far it is.

    Returns:
        As ``Study.after_search``.

    Raises:
        InputError: The folder is no run with a front, a score is not known, or the run lacks a file
            that it needs.
    """
    check_metrics(metrics)
    if not metrics or not steps:
        raise InputError("few-steps: needs a number of steps and a score.")
    if wrong := [each for each in steps if not 1 <= each <= 1000]:
        raise InputError(f"--steps: {wrong[0]} is none of the numbers from 1 to 1000.")
    study = Study.open(run)
    sampling = study.spec.sampling
    if set(steps) <= {*sampling.searched, sampling.steps}:
        listed = ", ".join(map(str, sorted(set(steps))))
        raise InputError(
            f"--steps: in {listed} the study draws anyway (sampling.steps); give another number "
            "besides."
        )
    shown = _shown(study)
    study.prepare(metrics, report)
    asked = sorted(set(steps), reverse=True)
    for number, trial in enumerate(shown):
        for place, each in enumerate(asked):
            share = (number + place / len(asked)) / len(shown)
            report(f"{trial.name}: pictures in {in_steps(each)}", share)
            study.store.metrics(_record(study, trial), metrics, _own(study, each))
    found = study.after_search()
    assert found is not None
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

    The run keeps what came of each, under a key of all that was done: the same settings again, also
    with another ``output``, train nothing again. Scores of pictures are taken as the study takes
    its own: of as many pictures, of the same captions and noise.

    Args:
        run: Folder of the run.
        output: Folder of what is made: a folder a network, ``front.json``. One that is there goes
            on.
        method: As for :func:`distill`.
        to: Steps to reach.
        metrics: Scores of the pictures that the distilled networks draw, after each round, and of
            those that the undistilled draw in as many steps.
        report: Told how far it is.
        options: More options of :func:`distill`, but ``images``.

    Returns:
        ``rows``: a network each, with what the search believes of it and what came of it, or
        ``ended``, why its training ended by itself; ``agreement``: Kendall's τ, with its interval
        and the number of networks, between the order before and that by each score after; 1 where
        both are the same.

    Raises:
        InputError: The folder is no run with a front, or as :func:`distill`.
        TrainingEndedError: The trainings of all networks ended by themselves.
    """
    if options.pop("images", None) is not None:
        raise InputError(
            "--images: with --front, scores are taken of as many pictures as the study says "
            "(metrics.images), so that they compare with its own. Leave --images out."
        )
    check_known(method, DISTILLATIONS, f"--method: '{method}' is not known")
    check_metrics(metrics)
    study = Study.open(run)
    guidance, rate, asked = (options.get(n) for n in ("guidance", "learning_rate", "samples"))
    settings = {
        "method": method,
        "to": to,
        "from": options.get("start"),
        "guidance": [float(weight) for weight in guidance or GUIDANCE[method]],
        "samples": asked or study.spec.proxy.samples,
        "learning_rate": LEARNING_RATE if rate is None else rate,
        "seed": options.get("seed", 0),
        "device": pick_device().type,
    }
    place, of_rounds = f"{method}-{to}", method == "progressive"
    if of_rounds and rate is None:
        settings["folding_rate"] = FOLDING_RATE

    def make(network: Path) -> list[dict[str, Any]]:
        rows = distill(network, network.parent / place, method, to, report=report, **options)
        # The looks of a generator's training are not networks of their own.
        return rows if of_rounds else [{"steps": to} | rows[-1]]

    def score(trial: ScoredTrial, derived: Derived, network: Path) -> dict[str, float]:
        last: dict[str, float] = {}
        for steps in [row["steps"] for row in derived.rows if row["steps"]] if metrics else ():
            report(f"{trial.name}: pictures in {in_steps(steps)}", 0.0)

            def load(steps: int = steps) -> Trained:
                folder = network.parent / place
                folder = folder / ROUNDS / str(steps) if of_rounds else folder
                if not (folder / SCORES_FILE).is_file():  # made elsewhere, or cut off here
                    make(_network(study, trial, network))
                return load_trained(folder, study.store.device)

            last = dict(study.store.metrics_of_derived(derived, metrics, steps, load))
            plain = study.store.metrics(_record(study, trial), metrics, _own(study, steps))
            last |= {f"undistilled_{name}": value for name, value in plain.items()}
        return last

    if metrics:
        study.prepare(metrics, report)
    kept = {"method": method, "to": to, "distilling": versions.DISTILLING[method], **options}
    return _each_of_the_front(study, Path(output), "distill", settings, kept, make, score)


def adapt_front(
    run: str | Path,
    output: str | Path,
    method: str = "lora",
    report: Report = lambda _, __: None,
    **options: Any,
) -> dict[str, Any]:
    """Train an adapter for every member of a run's front, and for the presets, with one budget
    each; see :func:`adapt`. Which of them takes it best?

    The run keeps what came of each, as :func:`distill_front` says.

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
        TrainingEndedError: As :func:`distill_front`.
    """
    check_known(method, adapters.METHODS, f"--method: '{method}' is not known")
    study, other = Study.open(run), options.get("study")
    data = None
    if other is not None:
        spec = read_study(catalog.find("study", str(other)), options.get("overrides", ()))[1].data
        data = prepare(spec, study.spec.proxy.latent, report).fingerprint
    rate = options.get("learning_rate")
    settings = {
        "method": method,
        "rank": options.get("rank", 8) if method == "lora" else None,
        "samples": options.get("samples") or study.spec.proxy.samples,
        "learning_rate": study.spec.proxy.learning_rate if rate is None else rate,
        "seed": options.get("seed", 0),
        "data": data,
        "device": pick_device().type,
    }

    def make(network: Path) -> list[dict[str, Any]]:
        return [adapt(network, network.parent / method, method, report=report, **options)]

    kept = {"method": method, **options}
    return _each_of_the_front(study, Path(output), "adapt", settings, kept, make)


def _each_of_the_front(
    study: Study,
    output: Path,
    what: What,
    settings: dict[str, Any],
    kept: dict[str, Any],
    make: Callable[[Path], list[dict[str, Any]]],
    score: Callable[[ScoredTrial, Derived, Path], dict[str, float]] = lambda *_: {},
) -> dict[str, Any]:
    """Make something from each network that a run shows, or take what the run knows of it.

    Args:
        study: The run.
        output: Folder of what is made.
        what: Whether it is distilled or adapted.
        settings: What is done to the network: it is named by them.
        kept: What must be the same when the folder is taken up again.
        make: Makes something from the network in a folder, beside that.
        score: Takes further scores of it.
    """
    shown, objectives = _shown(study), study.spec.objectives
    quality, cost = quality_axis(objectives), cost_axis(objectives)
    assert quality is not None  # where networks were trained
    kept = {"schema": 1, "run": str(study.folder.resolve()), **kept}
    begin(output, "front_of.json", json.loads(json.dumps(kept, default=str)))
    rows: list[dict[str, Any]] = []
    ended: list[TrainingEndedError] = []
    believed, known = f"{quality} believed", study.store.derived

    def came_of(trial: ScoredTrial, network: Path) -> dict[str, Any]:
        key = known.key(trial.key, trial.budget, what, settings)
        with study.store.claims.held(f"derive {key}", poll_seconds=0.5):
            derived = known.find(key)
            if derived is None:
                made = make(_network(study, trial, network))
                derived = known.keep(trial.key, trial.budget, what, settings, made)
        numbers = {k: v for k, v in derived.rows[-1].items() if isinstance(v, int | float)}
        return numbers | score(trial, derived, network)

    for trial in shown:
        row: dict[str, Any] = {"network": trial.name}
        if cost is not None:
            row[cost] = trial.known[cost]
        row[believed] = trial.believed.get(quality, (trial.known[quality],))[0]
        try:
            row |= came_of(trial, output / trial.name.removeprefix("#") / "network")
        except TrainingEndedError as error:  # the others are worth having without it
            ended.append(error)
            row["ended"] = str(error)
        rows.append(row)
    if len(ended) == len(shown):
        raise ended[-1]
    made_well = [row for row in rows if "ended" not in row]
    before = [_sign(quality) * row[believed] for row in made_well]
    agreement = {}
    for name in made_well[0]:
        sign = _sign(name)
        if sign and all(name in row for row in made_well):
            found = correlate(before, [sign * row[name] for row in made_well])
            if found is not None:
                tau = {"tau": found.tau, "low": found.low, "high": found.high}
                agreement[name] = {**tau, "networks": len(made_well)}
    found_all = {"schema": 1, "order_of": quality, "rows": rows, "agreement": agreement}
    write_json(output / FRONT, found_all)
    return found_all


def _shown(study: Study) -> list[ScoredTrial]:
    """The front and the presets.

    Raises:
        InputError: There is no front of networks that were trained.
    """
    shown = list({trial.digest: trial for trial in reversed(study.results.shown())}.values())[::-1]
    if not shown or quality_axis(study.spec.objectives) is None:
        raise InputError(f"{study.folder}: has no front of trained networks.")
    for trial in shown:
        _record(study, trial)
    return shown


def _record(study: Study, trial: ScoredTrial) -> Record:
    record = study.store.find(trial.key, trial.budget)
    if record is None:
        raise InputError(f"{study.folder}: trial {trial.number} has no trained network.")
    return record


def _network(study: Study, trial: ScoredTrial, folder: Path) -> Path:
    """The folder of a trial's proxy, written where it is not there yet."""
    if not (folder / SCORES_FILE).is_file():
        study.save_proxy(trial.number, folder)
    return folder


def _own(study: Study, steps: int) -> int | None:
    """Steps as the store names them: None for those that the study draws in anyway."""
    return None if steps == study.spec.sampling.steps else steps


def in_steps(steps: int) -> str:
    """``8 steps``, ``1 step``."""
    return f"{steps} step{'' if steps == 1 else 's'}"


def _sign(name: str) -> int:
    """1 where less of a score is better, -1 where more is, 0 for what says nothing of quality."""
    score = name.removeprefix("undistilled_")
    if is_score(score) and score_of(score).source in OF_PROXY:
        return 1 if score_of(score).direction == "minimize" else -1
    return int(name in ("error", "error_before"))
