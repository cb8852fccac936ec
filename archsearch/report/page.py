"""The report of a run: one HTML page that needs nothing but itself.

Data, charts' templates, styles and scripts lie in the page. A content-security policy allows what
they are by their hashes and nothing else: no request leaves the page, and words of a study (names,
captions, reasons) can never run, since they are escaped here and written as text by the script.
"""

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from archsearch.data.cache import cache_dir
from archsearch.errors import ArchsearchError, import_package
from archsearch.files import write_text
from archsearch.report import charts
from archsearch.report.contents import gather

if TYPE_CHECKING:
    from archsearch.run import Run

STATIC = Path(__file__).parent / "static"
SCRIPTS = (
    "base.js",
    "chart.js",
    "looking.js",
    "front.js",
    "compare.js",
    "choose.js",
    "knobs.js",
    "trials.js",
    "after.js",
    "start.js",
    "framed.js",
)
"""Parts of the page's script, in order; together they are one function."""
REPORT = "report.html"


def write(study: "Run", path: Path | None = None, others: Sequence["Run"] = ()) -> Path:
    """Write the report of a run; returns the file.

    Args:
        study: The run.
        path: The file; by default ``report.html`` in the run's folder.
        others: Runs that it is compared with.

    Raises:
        InputError: The extra ``report`` is not installed, or the folder is not a run.
        ArchsearchError: The file cannot be written.
    """
    path = study.folder / REPORT if path is None else path
    write_text(path, render(study, others))
    return path


def render(study: "Run", others: Sequence["Run"] = ()) -> str:
    """The report of a run as HTML; the same run gives the same page, byte for byte.

    Args:
        study: The run.
        others: Runs that it is compared with, in one plot and one table.

    Raises:
        InputError: The extra ``report`` is not installed, or the folder is not a run.
    """
    jinja = import_package("jinja2", "Jinja2", "report")
    import_package("vl_convert", "vl-convert-python", "report")
    contents = gather(study, others)
    contents["command"] = shlex.join(["archsearch", "export", str(study.folder), "--trial"])
    diagrams = {number: Markup(bill.pop("diagram")) for number, bill in contents["bills"].items()}
    drawings = {"specs": charts.templates(), "styles": charts.STYLES, "palette": charts.PALETTE}
    environment = jinja.Environment(
        loader=jinja.FileSystemLoader(STATIC),
        autoescape=True,
        undefined=jinja.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"signed": _signed, "number": _number, "decimal": _decimal}
    environment.filters |= {"ratio": "× {:.2f}".format}
    style = (STATIC / "page.css").read_text(encoding="utf-8")
    scripts = [_vega(), _script()]
    html: str = environment.get_template("page.html").render(
        contents,
        knob_rows=_by_knob(contents["effects"]),
        step_rows=_by_network(contents["after"]),
        diagrams=diagrams,
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        blocks={"contents": _json(contents), "drawings": _json(drawings)},
        policy="; ".join(
            (
                "default-src 'none'",
                "img-src data:",
                f"style-src {_hash(style)}",
                f"script-src {' '.join(map(_hash, scripts))}",
                "base-uri 'none'",
                "form-action 'none'",
            )
        ),
    )
    return html


def _json(value: Any) -> Markup:
    """Plain data inside a script element: nothing in it can end the element."""
    text = json.dumps(
        value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    return Markup(text.replace("<", "\\u003c"))


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@lru_cache(maxsize=1)
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script, which offers ``vegaEmbed``. To put it together
    takes seconds, so it is kept in the cache.
    """
    package = import_package("vl_convert", "vl-convert-python", "report")
    kept = cache_dir() / f"vega-{package.__version__}.js"
    with suppress(OSError):
        return kept.read_text(encoding="utf-8")
    bundle: str = package.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    bundle = bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    script = f"(() => {{\n{bundle}\n}})();\n"
    with suppress(ArchsearchError):  # without a cache it is put together each time
        write_text(kept, script)
    return script


def _script() -> str:
    parts = [(STATIC / name).read_text(encoding="utf-8") for name in SCRIPTS]
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "\n})();\n"


# Tables that are there without a script


def _by_knob(effects: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Effects by knob, each interval with its place on a line from 0 to 200 whose middle is no
    difference.
    """
    reach: dict[str, float] = {}
    for effect in effects:
        for name, of in effect["qualities"].items():
            ends = [abs(of[end]) for end in ("low", "high") if of[end] is not None]
            reach[name] = max([reach.get(name, 0.0), *ends])
    rows: dict[str, dict[str, Any]] = {}
    for effect in effects:
        row = rows.setdefault(
            effect["knob"],
            {"knob": effect["knob"], "reference": effect["reference"], "choices": []},
        )
        places = {
            name: {
                end: round(100 + 95 * (of[end] or 0.0) / (reach[name] or 1.0), 1)
                for end in ("low", "difference", "high")
            }
            for name, of in effect["qualities"].items()
        }
        row["choices"].append({**effect, "places": places})
    return list(rows.values())


def _by_network(after: Mapping[str, Any] | None) -> list[list[dict[str, Any]]]:
    """Rows of the networks in few steps, network by network, in their order."""
    rows = after["steps"] if after else []
    return [list(of) for _, of in groupby(rows, key=itemgetter("trial"))]


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}".replace("-", "−")


def _decimal(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    whole = abs(value) >= 1000 or isinstance(value, int)
    return (f"{value:,.0f}" if whole else f"{value:,.4g}").replace("-", "−")
