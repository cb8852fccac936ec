"""The card that lies beside every export: what the network is, where it is from, what is known of
it, and how it is loaded. Markdown, with the diagram of the stages as a file beside it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from archsearch import catalog, documents
from archsearch.catalog import Architecture
from archsearch.cost.price import price
from archsearch.data.pictures import licences
from archsearch.data.spec import DataSpec
from archsearch.diffusion.trained import SCORES, Conditions
from archsearch.errors import InputError
from archsearch.export.phones import cautions
from archsearch.export.writing import Exported
from archsearch.files import printable, write_text
from archsearch.latency.predict import AnyTable, load_table, predict
from archsearch.latency.table import PublishedTable
from archsearch.report.diagram import stage_diagram
from archsearch.study.results import Results, ScoredTrial, changed_knobs
from archsearch.study.spec import OF_PROXY, score_of
from archsearch.unet.presets import PRESETS

CARD, STAGES = "card.md", "stages.svg"


def beside(path: Path, folder: bool) -> tuple[Path, Path]:
    """Where the card and the diagram of an export lie: in it where it is a folder of its own, else
    beside it, called after it.
    """
    if folder:
        return path / CARD, path / STAGES
    return path.with_name(f"{path.name}.{CARD}"), path.with_name(f"{path.name}.{STAGES}")


Row = tuple[str, ...]


@dataclass(frozen=True)
class About:
    """What is known of a network beside its architecture.

    Attributes:
        origin: Where it is from, in sentences.
        sections: Further tables of what is known: title, header and rows of each.
        tables: Latency tables that say something of it; None for all that ship.
        deployed: The network at deployment scale that it stands for, where it is a proxy.
    """

    origin: Sequence[str] = ()
    sections: Sequence[tuple[str, Row, Sequence[Row]]] = ()
    tables: Sequence[AnyTable] | None = None
    deployed: Architecture | None = None


def about_architecture(source: str, weights: Path | None) -> About:
    """What is known of an architecture by its name or file alone.

    Args:
        source: How the user named it.
        weights: The file of its weights; None where they are random.
    """
    if source in PRESETS:
        told = (PRESETS[source].__doc__ or "").partition("\n\n")[0].replace("``", "`")
        origin = [f"The preset `{source}` of archsearch: {' '.join(told.split())}"]
    else:
        origin = [f"The architecture was read from {code(source)}."]
    if weights is not None:
        origin.append(f"The weights were read from {code(str(weights))}.")
    return About(origin)


def about_trained(folder: Path, conditions: Conditions) -> About:
    """What the folder of a trained network says of it.

    Args:
        folder: As ``archsearch train`` or ``archsearch distill`` wrote it.
        conditions: What it was trained under.
    """
    origin = [f"The network and its weights are those that were trained in {code(str(folder))}."]
    if conditions.steps is not None:
        origin.append(f"It was distilled to {conditions.steps} steps.")
    sections = [] if conditions.data is None else [_data(conditions.data)]
    path = folder / SCORES
    known = documents.read(path).data.get("scores") if path.is_file() else None
    rows = [
        (name, number(value))
        for name, value in (known if isinstance(known, dict) else {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    if rows:
        sections.append(("Scores, taken when it had been trained", ("score", "value"), rows))
    return About(origin, sections)


def about_trial(results: Results, number: int, proxy: bool) -> About:
    """What a run knows of one of its trials.

    Args:
        results: Of the run.
        number: Of the trial.
        proxy: Whether its trained proxy is exported, not the network at deployment scale.
    """
    setting, spec = results.setting, results.setting.spec
    network = Architecture(
        printable(f"{results.run.path.name}#{number}"), results.trials.network(number)
    )
    trial = next((each for each in results.complete() if each.number == number), None)
    origin = [
        f"Trial {number} of the run {code(str(results.run.path))}, of the study "
        f"{code(setting.name)}."
    ]
    data = (
        f"pictures of {spec.data.size}² pixels with captions "
        f"({', '.join(spec.data.sources)}), of which it has seen "
        f"{trial.budget if trial else spec.proxy.samples:,}"
    )
    if proxy:
        origin.append(
            f"It is the proxy of that trial, {spec.proxy.width:g} of the width of the network at "
            f"deployment scale. Its weights are those that were trained: the running average, over "
            f"{data}, in {spec.proxy.precision}."
        )
    else:
        origin.append(
            "Its quality was not taken of the network itself but of a small proxy, "
            f"{spec.proxy.width:g} of its width, trained on {data}."
        )
    sections = [_data(spec.data), *_scores(results, trial), *_knobs(results, trial)]
    return About(
        origin,
        sections,
        [device.table for device in setting.devices],
        network if proxy else None,
    )


def _data(spec: DataSpec) -> tuple[str, Row, Sequence[Row]]:
    try:
        known = licences(spec)
    except InputError as error:
        known = {"not known here": str(error)}
    rows = [("source", ", ".join(spec.sources)), ("captions", f"{spec.text}, {spec.tokens} tokens")]
    rows += [(f"licence of {name}", licence) for name, licence in known.items()]
    if not known:
        rows.append(("licence", "that of your own pictures: archsearch does not know it"))
    return "Data", ("", ""), rows


def _scores(results: Results, trial: ScoredTrial | None) -> list[tuple[str, Row, Sequence[Row]]]:
    if trial is None:
        return []
    spec = results.setting.spec
    names = [n for n in dict.fromkeys((*spec.objectives, *spec.report)) if n in trial.known]
    noises = results.noises([n for n in names if score_of(n).source in OF_PROXY])
    rows: list[Row] = []
    for name in names:
        score, value = score_of(name), trial.known[name]
        scale = "proxy" if score.source in OF_PROXY else "deployment"
        shown, interval = number(value), ""
        if name in trial.believed:
            mean, low, high = trial.believed[name]
            shown = number(mean)
            interval = f"{number(low)} to {number(high)}, by the model of all trainings; one "
            interval += f"training measured {number(value)}"
        elif f"{name}_low" in trial.known:
            low, high = trial.known[f"{name}_low"], trial.known[f"{name}_high"]
            interval = f"{number(low)} to {number(high)}, over the pictures that were drawn"
        elif name in noises and (margin := noises[name].margin) is not None:
            interval = f"± {margin:.2g}, over seeds of the training"
        elif scale == "proxy":
            interval = "not measured"
        rows.append((f"{name}: {score.label}", shown, interval, scale))
    return [("Scores", ("score", "value", "interval of 95 %", "taken at scale"), rows)]


def _knobs(results: Results, trial: ScoredTrial | None) -> list[tuple[str, Row, Sequence[Row]]]:
    if trial is None:
        return []
    for name, base in results.references().items():
        changed = changed_knobs(trial.point, base)
        rows = [(knob, str(theirs), str(own)) for knob, (theirs, own) in changed.items()]
        if rows:
            return [(f"What differs from {name}", ("knob", name, "here"), rows)]
    return []


def write_card(
    found: Architecture,
    title: str,
    path: Path,
    places: tuple[Path, Path],
    exported: Exported,
    about: About,
    random: bool,
) -> None:
    """Write the card of an export and the diagram that it shows.

    Args:
        found: The network that was exported.
        title: What the format is called.
        path: The export.
        places: Where card and diagram go, see :func:`beside`.
        exported: What is known of the file.
        about: What is known of the network.
        random: Whether its weights are random numbers.

    Raises:
        ArchsearchError: It cannot be written.
    """
    card, stages = places
    write_text(stages, stage_diagram(found.config, found.name))
    parts = [
        f"# {plain(found.name)}",
        f"{code(path.name)}: the UNet of a text-to-image diffusion model, {title}. Written by "
        f"archsearch {version('archsearch')} on {date.today().isoformat()}.",
    ]
    if random:
        parts.append(
            "**Its weights are random numbers**: good for measuring speed and memory, not for "
            "pictures."
        )
    parts += [
        f"![Stages of the UNet]({_link(stages)})",
        *(["## Where it is from", *about.origin] if about.origin else []),
        "## Network",
        _table(("", "", ""), _figures(found)),
        *_latencies(about.deployed or found, about),
    ]
    for heading, header, rows in about.sections:
        parts += [f"## {plain(heading)}", _table(header, rows)]
    parts += [
        "## File",
        _table(("", ""), [*exported.facts.items(), ("size", f"{_size(path):,} bytes")]),
        *_operators(exported),
        "To load it, in its folder:",
        f"```{exported.language}\n{exported.load}```",
        "## On a phone",
        "What accelerators do not take, or take badly, as far as somebody has said so, and how "
        "much of it this network has. On which processor an operator really runs is decided on "
        "the device: on a Mac, `MLComputePlan` of coremltools tells.",
        _table(
            ("", "this network", "source"),
            [(c.what, c.here, c.source) for c in cautions(found.config)],
        ),
    ]
    write_text(card, "\n\n".join(parts) + "\n")


def _figures(found: Architecture) -> list[Row]:
    config, cost = found.config, price(found.config)
    kinds = cost.macs_by_kind
    sample = f"{config.in_channels} × {config.sample_size} × {config.sample_size}"
    return [
        ("architecture", code(config.digest), "the digest that `archsearch arch show` prints"),
        ("sample", sample, "channels × height × width"),
        ("context", f"{config.context_tokens} × {config.context_dim}", "tokens × width"),
        ("parameters", number(cost.params), "counted"),
        ("MACs", number(cost.macs), "counted, one pass at batch 1"),
        ("of these in convolutions", number(kinds.conv), "counted"),
        ("in linear layers", number(kinds.linear), "counted"),
        ("in the products of attention", number(kinds.attention), "counted"),
        (
            "peak activation bytes",
            number(cost.peak_activation_bytes),
            "counted, batch 1, float32, held skips included",
        ),
    ]


def _latencies(network: Architecture, about: About) -> list[str]:
    rows: list[Row] = []
    lacking = []
    for table in _shipped() if about.tables is None else about.tables:
        try:
            found = predict(network.config, table, "error" if about.tables is None else "predict")
        except InputError:  # units that it lacks, or another family
            lacking.append(table.name)
            continue
        how = found.mark or "predicted from measured units"
        rows.append((table.name, f"{number(found.latency_ms)} ms", how, _device(table)))
    parts = ["## Latency"]
    if about.deployed is not None and rows:
        parts.append(
            f"Of the network at deployment scale, {plain(network.name)}, not of its proxy:"
        )
    elif rows:
        parts.append("Of one pass at batch 1, predicted, not measured:")
    if rows:
        parts.append(_table(("table", "latency", "how", "device"), rows))
    if lacking:
        names = ", ".join(map(code, lacking))
        parts.append(f"Nothing is predicted by {names}: units of this network are not in it.")
    return parts if rows or lacking else []


def _shipped() -> list[AnyTable]:
    folder = catalog.packaged() / catalog.FOLDERS["table"]
    return [
        load_table(file) for file in sorted(folder.glob("*.json")) if ".partial" not in file.name
    ]


def _device(table: AnyTable) -> str:
    if isinstance(table, PublishedTable):
        return f"{table.soc}; published figures: {table.source}"
    threads = f"{table.threads} thread{'' if table.threads == 1 else 's'}"
    return (
        f"{table.soc}, {table.os}; {table.runtime}, {table.dtype}, {threads}; measured {table.date}"
    )


def _operators(exported: Exported) -> list[str]:
    found = {"Operators": exported.operators, "Operators outside of delegates": exported.outside}
    parts = []
    for title, counts in found.items():
        if counts:
            ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            told = ", ".join(f"{count} {code(name)}" for name, count in ordered)
            parts.append(f"{title}: {told}.")
    return parts


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    if path.is_file() and (data := path.with_name(f"{path.name}.data")).is_file():
        files.append(data)
    return sum(each.stat().st_size for each in files if each.name not in (CARD, STAGES))


def number(value: float) -> str:
    """A number as the card shows it: whole from a thousand on, else with four digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


_MARKS = re.compile(r"([\\`*_{}\[\]<>#|!])")


def plain(text: str) -> str:
    """Text as it is, whatever marks of Markdown it holds."""
    return _MARKS.sub(r"\\\1", " ".join(printable(text).split()))


def code(text: str) -> str:
    """Text as code, whatever marks it holds."""
    text = " ".join(printable(text).split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    edge = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{edge}{text}{edge}{fence}"


def _link(path: Path) -> str:
    # A relative link of Markdown may hold anything between < and >, these and line ends aside.
    return (
        f"<{re.sub(r'[<>]', '_', path.name)}>" if re.search(r"[\s()<>]", path.name) else path.name
    )


def _table(header: Row, rows: Iterable[Sequence[Any]]) -> str:
    def line(cells: Iterable[Any]) -> str:
        texts = (" ".join(printable(str(cell)).split()).replace("|", "\\|") for cell in cells)
        return f"| {' | '.join(texts)} |"

    return "\n".join([line(header), line("---" for _ in header), *map(line, rows)])
