"""The pictures of docs/architectures.md: ``python -m tools.diagrams docs/images``.

Every preset at one scale, some with their shares of a shipped latency table, and two compared.
"""

import sys
from pathlib import Path

from archsearch.catalog import find, load_architecture
from archsearch.errors import InputError
from archsearch.files import write_text
from archsearch.latency.predict import Predictor, load_table
from archsearch.report.diagram import diff_diagram, stage_diagram
from archsearch.unet.presets import PRESETS

TABLE = "cpu-onnxruntime-fp32"
WITH_LATENCY = ("sd15", "mobilediffusion")
COMPARED = ("mobilediffusion", "mobilediffusion-lite")


def diagrams() -> dict[str, str]:
    """Every picture by the name of its file."""
    table = Predictor(load_table(find("table", TABLE)))
    made = {}
    for name in PRESETS:
        config = load_architecture(name).config
        made[f"stages-{name}.svg"] = stage_diagram(config, name)
        if name in WITH_LATENCY:
            latency = table.by_unit(config)
            picture = stage_diagram(config, name, latency, source=TABLE)
            made[f"stages-{name}-latency.svg"] = picture
    made["stages-compared.svg"] = diff_diagram(*map(load_architecture, COMPARED))
    return made


def main(arguments: list[str]) -> None:
    """Write the pictures into the folder that is the only argument.

    Raises:
        InputError: There is no argument, or more than one.
    """
    if len(arguments) != 1:
        raise InputError(
            f"usage: python -m tools.diagrams FOLDER, but got {len(arguments)} arguments"
        )
    for name, picture in diagrams().items():
        write_text(Path(arguments[0]) / name, picture + "\n")
        print(Path(arguments[0]) / name)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
