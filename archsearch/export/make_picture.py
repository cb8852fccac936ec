"""Draw a picture from a prompt with the files beside this one. It needs four packages:

    pip install numpy onnxruntime pillow tokenizers
    python make_picture.py "a red flag" --steps 8 --guidance 3 --seed 0 --output out.png

A seed gives the picture that ``archsearch generate`` draws with it, up to rounding.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
SETTINGS = "sampling.json"

Array = np.ndarray[Any, np.dtype[np.float32]]


class Pipeline:
    """The parts of a folder: text encoder, UNet, decoder, and how they are used.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: Path = HERE) -> None:
        self.settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text("utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.text_encoder = _session(folder / "text_encoder.onnx")
        self.unet = _session(folder / "unet.onnx")
        decoder = folder / "decoder.onnx"
        self.decoder = _session(decoder) if decoder.is_file() else None

    def draw(
        self,
        prompt: str,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        noise: Callable[[], Array] | None = None,
    ) -> Image.Image:
        """Draw one picture.

        Args:
            prompt: What to draw.
            steps: In how many steps; by default as many as ``sampling.json`` says.
            guidance: How much more the prompt is to count than it would by itself; 1 is no more.
            seed: Of the noise.
            noise: Gives normal noise of a sample's shape instead, each time it is called.
        """
        steps = steps or self.settings["steps"]["default"]
        guidance = guidance or self.settings["guidance"]["default"]
        text, empty = self._states([prompt, ""])[:, None]  # (1, tokens, width) each
        _, *shape = self.unet.get_inputs()[0].shape
        noise = noise or Noise(seed, (1, *shape))
        x = self._sample(steps, noise, lambda x, t: self._predict(x, t, text, empty, guidance))
        return self._picture(x)

    def _states(self, captions: list[str]) -> Array:
        # Text states (N, tokens, width). The tokenizer pads and cuts to the length of the context.
        encoded = self.tokenizer.encode_batch(captions)
        ids = np.array([each.ids for each in encoded], dtype=np.int64)
        mask = np.array([each.attention_mask for each in encoded], dtype=np.int64)
        states: Array
        (states,) = self.text_encoder.run(None, {"input_ids": ids, "attention_mask": mask})
        return states

    def _predict(self, x: Array, time: int, text: Array, empty: Array, guidance: float) -> Array:
        # What the UNet makes of noisy samples (B, C, H, W) under guidance.
        if self.settings["guidance"]["how"] != "two passes" or guidance == 1:
            return self._pass(x, time, text, guidance)
        both = self._pass(np.concatenate([x, x]), time, np.concatenate([empty, text]), guidance)
        without, with_text = np.split(both, 2)
        return without + np.float32(guidance) * (with_text - without)

    def _pass(self, x: Array, time: int, context: Array, guidance: float) -> Array:
        given = {
            "sample": x,
            "timesteps": np.full(len(x), time, dtype=np.float32),
            "context": context,
            "guidance": np.full(len(x), guidance, dtype=np.float32),
        }
        predicted: Array
        taken = {node.name: given[node.name] for node in self.unet.get_inputs()}
        (predicted,) = self.unet.run(None, taken)
        return predicted

    def _sample(
        self, steps: int, noise: Callable[[], Array], predict: Callable[[Array, int], Array]
    ) -> Array:
        # From noise to a sample: the steps of DDIM (Song et al. 2021), at "trailing" times as
        # diffusers' DDIMScheduler takes them. ``share`` is how much of a noisy sample is picture.
        shares = np.array(self.settings["alphas_cumprod"], dtype=np.float32)
        last, one = len(shares), np.float32(1)
        times = np.round(np.arange(last, 0, -last / steps)).astype(np.int64) - 1
        x = noise()
        for step, time in enumerate(times):
            share, predicted = shares[time], predict(x, time)
            a, b = np.sqrt(share), np.sqrt(one - share)
            if self.settings["scheduler"]["prediction_type"] == "v_prediction":
                picture, added = a * x - b * predicted, a * predicted + b * x
            else:
                picture, added = (x - b * predicted) / a, predicted
            if self.settings["sampler"] == "renoise":  # a whole picture, and noise added again
                x = picture
                if step + 1 < len(times):
                    share = shares[times[step + 1]]
                    x = np.sqrt(share) * picture + np.sqrt(one - share) * noise()
            else:
                earlier = time - last // steps
                share = shares[earlier] if earlier >= 0 else one
                x = np.sqrt(share) * picture + np.sqrt(one - share) * added
        return x

    def _picture(self, x: Array) -> Image.Image:
        if self.decoder:
            (x,) = self.decoder.run(None, {"sample": x})
        else:  # each square of pixels lies in the channels of one position
            side = self.settings["pixels_a_side"]
            _, channels, height, width = x.shape
            squares = x.reshape(channels // side**2, side, side, height, width)
            x = squares.transpose(0, 3, 1, 4, 2).reshape(1, -1, height * side, width * side)
        numbers = np.round((np.clip(x[0], -1, 1) + 1) * np.float32(127.5))
        return Image.fromarray(numbers.astype(np.uint8).transpose(1, 2, 0))


class Noise:
    """Normal noise, the same as ``torch.randn`` draws on a CPU with this seed.

    Args:
        seed: As for ``torch.manual_seed``.
        shape: Of the noise; at least 16 numbers.
    """

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        self._random, self._shape = np.random.RandomState(seed % 2**32), shape

    def __call__(self) -> Array:
        """Draw the next."""
        count = int(np.prod(self._shape))
        uniform = self._uniform(count)
        whole = count - count % 16
        noise = np.empty(count, dtype=np.float32)
        noise[:whole] = _normal(uniform[:whole])
        if count % 16:  # torch draws the last 16 anew
            noise[-16:] = _normal(self._uniform(16))
        return noise.reshape(self._shape)

    def _uniform(self, count: int) -> Array:
        # 24 of 32 random bits, as a share of one
        bits = np.frombuffer(self._random.bytes(4 * count), dtype="<u4") & 0xFFFFFF
        return bits.astype(np.float32) * np.float32(2**-24)


def _normal(uniform: Array) -> Array:
    # Box and Muller's transform, in blocks of 16: radii from the first eight, angles from the rest.
    first, second = uniform.reshape(-1, 2, 8).swapaxes(0, 1)
    radius, angle = np.sqrt(-2 * np.log(1 - first)), np.float32(2 * np.pi) * second
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()


def _session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def main() -> int:
    """Draw as the command line says."""
    settings = json.loads((HERE / SETTINGS).read_text("utf-8"))
    parser = argparse.ArgumentParser(description="Draw a picture from a prompt.")
    parser.add_argument("prompt", help="what to draw")
    options: list[tuple[str, type[int] | type[float]]] = [("steps", int), ("guidance", float)]
    for name, kind in options:
        default, (low, high) = settings[name]["default"], settings[name]["allowed"]
        told = f"{low:g} to {high:g}" if low < high else f"only {low:g}"
        parser.add_argument(
            f"--{name}", type=kind, default=default, help=f"{told}; by default {default:g}"
        )
    parser.add_argument("--seed", type=int, default=0, help="of the noise, by default 0")
    parser.add_argument("--output", default="out.png", help="picture to write, by default out.png")
    args = parser.parse_args()
    for name, _ in options:
        low, high = settings[name]["allowed"]
        if not low <= getattr(args, name) <= high:
            parser.error(f"--{name}: allowed are {low:g} to {high:g}, not {getattr(args, name):g}")
    if not args.prompt.strip():
        parser.error("the prompt is empty; say what to draw")
    pipeline = Pipeline()
    if pipeline.tokenizer.encode(args.prompt).overflowing:
        print("note: the prompt is too long; the end of it is not seen", file=sys.stderr)
    pipeline.draw(args.prompt, args.steps, args.guidance, args.seed).save(args.output)
    print(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
