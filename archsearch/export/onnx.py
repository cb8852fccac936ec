"""ONNX, in float32 for any batch, and in int8 as static QDQ."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archsearch.data.prepare import Prepared
from archsearch.diffusion.quantise import calibration, spread_weights
from archsearch.diffusion.recipe import make_scheduler, spread_times
from archsearch.diffusion.spec import Recipe
from archsearch.errors import InputError
from archsearch.export.writing import (
    METADATA,
    OUTPUT,
    Exported,
    build,
    check_close,
    check_target,
    difference,
    written_aside,
)
from archsearch.files import in_utf8, is_utf8
from archsearch.runtimes.onnx import Quantizer, export_onnx, open_session
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet, example_inputs, input_names

# An ONNX file holds no more than 2 GiB; weights from here on go into ``<file>.data`` beside it.
ONE_FILE_BYTES = 2_000_000_000
MODEL = "model.onnx"  # while it is written: libraries take names in UTF-8 alone
# Held-out pictures on which the network in int8 is compared with itself in float32.
COMPARED = 32
_SEED = 20_261_128  # of their times and noise
_NUMPY = {"tensor(float)": "float32", "tensor(int64)": "int64"}

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Pictures:
    """What a trained network meets: what its quantisation is calibrated on, and compared on.

    Attributes:
        told: What they are, in words.
        calibration: Inputs of the network that tell which values its activations take.
        held_out: Noisy samples (N, C, H, W), times (N,) and contexts (N, tokens, width) of pictures
            that it was not trained on, and weights of guidance (N,) if the network takes them.
        empty: Context of the empty caption (tokens, width).
    """

    told: str
    calibration: Sequence[Inputs]
    held_out: Inputs
    empty: Tensor


def pictures_of(
    data: Prepared, recipe: Recipe, guidance: tuple[float, float] | None = None
) -> Pictures:
    """Training pictures to calibrate on, held-out ones to compare on.

    Args:
        data: They are taken from.
        recipe: How the network was trained.
        guidance: Of a network that takes the weight of guidance: the least and the largest.
    """
    generator = torch.Generator().manual_seed(_SEED)
    count = min(COMPARED, len(data.held_out))
    index = data.held_out[torch.linspace(0, len(data.held_out) - 1, count).long()]
    times, x0 = spread_times(count, generator), data.samples(index)
    noise = torch.randn(x0.shape, generator=generator)
    noisy = make_scheduler(recipe.prediction).add_noise(x0, noise, times)
    training = [
        tuple(each.contiguous() for each in inputs)
        for inputs in calibration(data, recipe, torch.device("cpu"), guidance)
    ]
    return Pictures(
        f"{sum(len(inputs[0]) for inputs in training)} training pictures",
        training,
        (
            noisy,
            times.float(),
            data.context[index].float(),
            *(() if guidance is None else (spread_weights(guidance, count),)),
        ),
        data.null_context.float(),
    )


def export_unet_onnx(
    config: UNetConfig, path: Path, weights: Path | None = None, force: bool = False
) -> Exported:
    """Write the network as float32 ONNX for any batch: inputs ``sample``, ``timesteps``,
    ``context``; output ``prediction``.

    A network without cross-attention has no ``context`` input, one with an added embedding also
    ``text_embeds`` and ``time_ids``. The canonical config lies in the metadata under
    ``archsearch.config``.

    Args:
        config: The architecture.
        path: File to write.
        weights: A safetensors file of its state dict; None for random weights.
        force: Overwrite what is there.

    Raises:
        InputError: ``path`` is there and ``force`` is not given, or ``weights`` do not fit.
        ArchsearchError: It cannot be written, or ONNX Runtime computes something else from it than
            torch.
    """
    check_target(path, force)
    # Two pictures: where one is traced, the exporter takes it for the only size there is.
    network, inputs = build(config, weights), example_inputs(config, batch=2)
    size = sum(each.numel() * each.element_size() for each in network.parameters())
    data = f"{path.name}.data" if size >= ONE_FILE_BYTES else None
    if data:
        if not is_utf8(Path(data)):
            raise InputError(
                f"{path}: its weights go into a second file, whose name ONNX keeps in UTF-8; give "
                "a name of letters."
            )
        check_target(path.with_name(data), force)
    with written_aside(path) as folder, in_utf8(folder) as spelled:
        with TemporaryDirectory(dir=spelled) as parts:
            exported = Path(parts) / MODEL
            _trace(network, inputs, exported)
            operators = save_described(
                exported, spelled / MODEL, {METADATA: config.to_json()}, data
            )
        session = open_session(spelled / MODEL)
        error = difference(_run(session, config, inputs), _torch(network, *inputs))
        check_close(error, path, "ONNX Runtime")
        (spelled / MODEL).rename(folder / path.name)
        return Exported(
            {
                **_ends(session),
                "compared with torch": f"largest difference {error:.1e} of the largest output, two "
                f"random samples ({_runtime('extended')})",
            },
            _load_lines(session, path),
            operators=operators,
        )


def export_unet_onnx_int8(
    config: UNetConfig,
    path: Path,
    weights: Path | None = None,
    force: bool = False,
    pictures: Pictures | None = None,
) -> Exported:
    """Write the network as ONNX in int8 (static QDQ), for any batch, with the inputs and the output
    of the float32 file.

    Weights and activations have 8 bits, signed, symmetric about zero, as the kernels of ARM like
    them (``archsearch.runtimes.int8`` says what is rounded). What is compared with torch is the
    file itself, not the kernels of this machine: its operators run one by one, without fusion into
    integer ones, some of which could saturate on x86.

    Args:
        config: The architecture.
        path: File to write.
        weights: A safetensors file of its state dict; None for random weights.
        force: Overwrite what is there.
        pictures: What trained weights are calibrated on. Random ones see random inputs.

    Raises:
        InputError: ``path`` is there and ``force`` is not given, ``weights`` do not fit, or they
            come without ``pictures``, or the pictures are not of the network's shape.
        ArchsearchError: It cannot be written.
    """
    check_target(path, force)
    if weights is not None and pictures is None:
        raise InputError(
            f"{weights}: int8 needs to know which values the activations of trained weights take: "
            "name a study with --study STUDY; its training pictures tell. The folder of a trained "
            "network names its own."
        )
    if pictures is not None:
        _check_shapes(config, pictures)
    network, inputs = build(config, weights), example_inputs(config, batch=2)
    with written_aside(path) as folder, in_utf8(folder) as spelled:
        with TemporaryDirectory(dir=spelled) as parts:
            exported, rounded = Path(parts) / MODEL, Path(parts) / "int8.onnx"
            _trace(network, inputs, exported)
            quantizer = Quantizer(exported, signed_activations=True, weight_bits=8)
            seen = pictures.calibration if pictures else [inputs]
            quantizer.write(rounded, (_feed(config, each) for each in seen), 1)
            operators = save_described(rounded, spelled / MODEL, {METADATA: config.to_json()})
        session = open_session(spelled / MODEL, level="none")
        (spelled / MODEL).rename(folder / path.name)
        facts = _ends(session) | {
            "activations were calibrated on": pictures.told if pictures else "random inputs",
        }
        compared = f"{_runtime('none')}, so without the integer kernels of any processor"
        if pictures is None:
            error = difference(_run(session, config, inputs), _torch(network, *inputs))
            facts["compared with torch in float32"] = (
                f"largest difference {error:.1e} of the largest output, two random samples "
                f"({compared})"
            )
        else:
            facts |= _compare(network, session, pictures, compared)
        return Exported(facts, _load_lines(session, path), operators=operators)


def _compare(network: UNet, session: Any, pictures: Pictures, how: str) -> dict[str, str]:
    # On held-out pictures: the whole prediction, and what the caption adds to it.
    noisy, times, context, *added = pictures.held_out
    empty = pictures.empty.expand_as(context).contiguous()

    def predictions(predict: Callable[..., Any]) -> tuple[Any, Any]:
        return predict(noisy, times, context, *added), predict(noisy, times, empty, *added)

    wanted, wanted_empty = predictions(lambda *inputs: _torch(network, *inputs))
    got, got_empty = predictions(lambda *inputs: _run(session, network.config, inputs))
    response, response_int8 = wanted - wanted_empty, got - got_empty
    of = f"{len(noisy)} held-out pictures ({how})"
    found = {
        "compared with torch in float32": f"largest difference {difference(got, wanted):.1e} of "
        f"the largest output, {_share(got - wanted, wanted):.1%} of it in the root mean square; "
        f"{of}",
    }
    if not response.any():
        return found | {"response to the text": "none: the network does not look at the caption"}
    kept = float((response_int8 * response).sum() / (response * response).sum())
    return found | {
        "response to the text": "in float32 the caption changes the prediction by "
        f"{_share(response, wanted):.1%} of its size; in int8 that change differs by "
        f"{_share(response_int8 - response, response):.1%} of itself, and {kept:.2f} of it is "
        "kept; the same pictures",
    }


def _share(part: Any, whole: Any) -> float:
    return float(np.linalg.norm(part) / np.linalg.norm(whole))


def _check_shapes(config: UNetConfig, pictures: Pictures) -> None:
    sample, _, context, *added = pictures.held_out
    size = config.sample_size
    wanted = {
        "sample": (config.in_channels, size, size),
        "context": (config.context_tokens, config.context_dim),
    }
    given = {"sample": tuple(sample.shape[1:]), "context": tuple(context.shape[1:])}
    if config.added.text_dim is not None:
        raise InputError("int8: the network takes an added embedding, which no study gives.")
    if bool(config.guidance_dim) != bool(added):
        raise InputError(
            "int8: the network takes the weight of guidance, which no study gives: export the "
            "folder that `archsearch distill` made."
        )
    for name, shape in wanted.items():
        if given[name] != shape:
            raise InputError(
                f"int8: the study's {name} has the shape {given[name]}, but the network takes "
                f"{shape}: name the study that it was trained with."
            )


def _trace(network: UNet, inputs: Inputs, path: Path) -> None:
    export_onnx(network, inputs, path, input_names(network.config), [OUTPUT], any_batch=True)


def save_described(
    source: Path, path: Path, metadata: dict[str, str], data: str | None = None
) -> dict[str, int]:
    """Save an ONNX file again, with metadata.

    Args:
        source: The file, as an exporter of ours wrote it.
        path: File to write.
        metadata: What is to be in it.
        data: Name of a second file that takes the weights; None: they are in the first.

    Returns:
        How many operators of each kind it has.
    """
    import onnx

    model = onnx.load(str(source))
    model.producer_name = "archsearch"
    model.producer_version = ""
    onnx.helper.set_model_props(model, metadata)
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=data is not None,
        all_tensors_to_one_file=True,
        location=data,
    )
    return dict(Counter(node.op_type for node in model.graph.node if node.op_type != "Constant"))


def _feed(config: UNetConfig, inputs: Iterable[Tensor]) -> dict[str, Any]:
    named = zip(input_names(config), inputs, strict=True)
    return {name: tensor.float().numpy() for name, tensor in named}


def _run(session: Any, config: UNetConfig, inputs: Iterable[Tensor]) -> Any:
    feed = _feed(config, inputs)
    return session.run([OUTPUT], {node.name: feed[node.name] for node in session.get_inputs()})[0]


def _torch(network: UNet, *inputs: Tensor) -> Any:
    with torch.inference_mode():
        return network(*inputs).numpy()


def _runtime(level: str) -> str:
    import onnxruntime

    return f"ONNX Runtime {onnxruntime.__version__} on the CPU, graph level {level}"


def _ends(session: Any) -> dict[str, str]:
    def told(nodes: Iterable[Any]) -> str:
        return "; ".join(
            f"`{node.name}` {_NUMPY.get(node.type, node.type)} ({', '.join(map(str, node.shape))})"
            for node in nodes
        )

    return {"inputs": told(session.get_inputs()), "outputs": told(session.get_outputs())}


def _load_lines(session: Any, path: Path) -> str:
    given = "".join(
        f'    "{node.name}": np.zeros({(1, *node.shape[1:])}, '
        f"np.{_NUMPY.get(node.type, 'float32')}),\n"
        for node in session.get_inputs()
    )
    return (
        "import numpy as np\nimport onnxruntime\n\n"
        f"session = onnxruntime.InferenceSession({path.name!r})\n"
        f"inputs = {{\n{given}}}\n"
        "(prediction,) = session.run(None, inputs)\n"
    )
