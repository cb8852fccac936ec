"""Every preset and random networks at proxy size through every export format: whether each is
written and computes what torch does, how much XNNPACK takes, how large it is and how long it takes.

The weights are random. Formats in int8 are calibrated on noise, which is the same arithmetic. One
line of JSON a file; a file that has its line is not made again.
"""

import argparse
import json
import random
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file

import archsearch
from archsearch.diffusion.trained import Conditions
from archsearch.errors import ArchsearchError
from archsearch.export.formats import EXPORTERS, export
from archsearch.export.onnx import Pictures
from archsearch.study.setting import Setting
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, example_inputs
from archsearch.unet.presets import PRESETS


def proxies(setting: Setting, count: int, seed: int) -> Iterator[tuple[str, UNetConfig]]:
    """What a study trains for each preset, then for random networks of the largest space."""
    for name in PRESETS:
        yield name, setting.proxy(archsearch.arch(name))
    rng, space = random.Random(seed), archsearch.space("mobilediffusion")
    for number in range(count):
        yield f"random {number}", setting.proxy(space.draw_valid(rng)[1])


def noise(config: UNetConfig, count: int = 8) -> Pictures:
    """Noise in place of pictures, over all times."""
    torch.manual_seed(1)
    sample, _, context, *added = example_inputs(config, count)
    inputs = (sample, torch.linspace(0, 999, count), context, *added)
    return Pictures(f"{count} of noise", [inputs], inputs, torch.zeros(context.shape[1:]))


def exported(
    setting: Setting, config: UNetConfig, format: str, python: Path | None, folder: Path
) -> dict[str, Any]:
    """Write a network in a format into an empty folder, and tell what came of it."""
    weights, path = folder / "weights.safetensors", folder / f"net{EXPORTERS[format].suffix}"
    torch.manual_seed(0)
    save_file(UNet(config).state_dict(), weights)
    given: dict[str, Any] = {
        "weights": weights if EXPORTERS[format].has_weights else None,
        "pictures": noise(config),
        "python": python if format == "executorch" else None,
        "conditions": Conditions(
            text=setting.spec.data.text,
            tokens=config.context_tokens,
            latent=setting.spec.proxy.latent,
            prediction=setting.spec.proxy.prediction,
        ),
    }
    started = time.monotonic()
    try:
        card = export(config, format, path, **given)
    except ArchsearchError as error:
        return {"refused": str(error).replace(str(folder), "").lstrip("/")}
    seconds = time.monotonic() - started
    weights.unlink()
    size = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
    return {"seconds": round(seconds, 1), "bytes": size, "facts": facts(card.read_text())}


def facts(card: str) -> dict[str, str]:
    """What a card says of the comparison with torch, and of delegates."""
    rows = re.findall(r"^\| (.*?) \| (.*) \|$", card, re.MULTILINE)
    return {name: told for name, told in rows if name.startswith(("compared with", "delegated"))}


def summary(lines: list[dict[str, Any]]) -> Mapping[str, Any]:
    """By format: how many were written, the reasons of those that were not, the largest difference
    from torch, pieces that XNNPACK computes, the longest time.
    """
    formats: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        formats[line["format"]].append(line)
    found = {}
    for format, those in formats.items():
        refused: dict[str, list[str]] = defaultdict(list)
        for line in those:
            if "refused" in line:
                reason = line["refused"].partition("\n")[0].replace(line["digest"], "…")
                refused[reason].append(line["network"])
        written = [line for line in those if "refused" not in line]
        told = " ".join(text for line in written for text in line["facts"].values())
        differences = [float(number) for number in re.findall(r"difference (\S+) of", told)]
        found[format] = {
            "networks": len(those),
            "written": len(written),
            "refused": refused,
            "largest_difference": max(differences, default=None),
            "delegated": sorted(set(map(int, re.findall(r"(\d+): so many pieces", told)))),
            "most_seconds": max((line["seconds"] for line in written), default=None),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", default="quickstart", help="whose proxies these are")
    parser.add_argument("--random", type=int, default=20, help="random networks")
    parser.add_argument("--seed", type=int, default=0, help="of these")
    parser.add_argument("--formats", nargs="+", choices=EXPORTERS, default=[*EXPORTERS])
    parser.add_argument("--python", type=Path, help="Python that has executorch")
    parser.add_argument("--output", type=Path, required=True, help="file of JSON lines")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setting, output = archsearch.Study(arguments.study).setting, arguments.output
    lines = (
        [json.loads(each) for each in output.read_text().splitlines()] if output.is_file() else []
    )
    done = {(line["digest"], line["format"]) for line in lines}
    for name, config in proxies(setting, arguments.random, arguments.seed):
        for format in arguments.formats:
            if (config.digest, format) in done:
                continue
            with TemporaryDirectory() as folder:
                told = exported(setting, config, format, arguments.python, Path(folder))
            lines.append({"network": name, "digest": config.digest, "format": format} | told)
            with output.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    print(json.dumps(summary(lines), indent=1))


if __name__ == "__main__":
    main()
