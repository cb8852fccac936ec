"""Weights are read from safetensors only, under our names or diffusers', and are those of the
network or refused.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from archsearch.errors import ArchsearchError, InputError
from archsearch.unet.config import UNetConfig
from archsearch.unet.diffusers_weights import to_diffusers_state
from archsearch.unet.model import UNet
from archsearch.unet.weights import load_weights, read_weights, save_weights

BLOCK = {"transformers": 1, "layers": ["sa", "ca", "ff"]}
TINY = UNetConfig.model_validate(
    {
        "sample_size": 8,
        "norm_groups": 8,
        "context_dim": 24,
        "stages": [
            {"channels": 16, "down": [{}], "up": [{}] * 2},
            {"channels": 24, "down": [BLOCK], "up": [BLOCK] * 2},
        ],
    }
)
FOREIGN = UNetConfig.model_validate(TINY.to_dict() | {"attention": {"kv": "shared"}})


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return UNet(TINY).state_dict()


def _same(given: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return given.keys() == wanted.keys() and all(
        torch.equal(given[name], wanted[name]) for name in wanted
    )


def test_what_is_saved_is_read_again_under_either_name(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_weights(state, tmp_path / "ours.safetensors")
    save_weights(to_diffusers_state(TINY, state), tmp_path / "theirs.safetensors")
    for name in ("ours", "theirs"):
        assert _same(load_weights(TINY, tmp_path / f"{name}.safetensors"), state)
    assert "conv_in.weight" in read_weights(tmp_path / "theirs.safetensors")
    with safe_open(tmp_path / "ours.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_name_that_is_not_utf_8(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"folder \xff") / os.fsdecode(b"ours \xfe.safetensors")
    save_weights(state, path)
    assert _same(load_weights(TINY, path), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(
    dtype: torch.dtype, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    half = {name: tensor.to(dtype) for name, tensor in state.items()}
    save_weights(half, tmp_path / "half.safetensors")
    assert {tensor.dtype for tensor in read_weights(tmp_path / "half.safetensors").values()} == {
        dtype
    }
    assert _same(
        load_weights(TINY, tmp_path / "half.safetensors"),
        {name: tensor.float() for name, tensor in half.items()},
    )


def test_shards_are_read_through_their_index(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    names = list(state)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in shards.items():
        save_weights({name: state[name] for name in held}, tmp_path / file)
    index = tmp_path / "net.safetensors.index.json"
    weight_map = {name: file for file, held in shards.items() for name in held}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert _same(load_weights(TINY, index), state)

    for files, message in (
        (weight_map | {"more": "b.safetensors"}, "tensors that its files do not hold: more"),
        (
            weight_map | {names[0]: "../a.safetensors"},
            r"names '\.\./a\.safetensors'; allowed are \*\.safetensors files beside it",
        ),
        (
            weight_map | {names[0]: "c.safetensors"},
            r"c\.safetensors: cannot be read as safetensors",
        ),
        ([], "weight_map must map"),
    ):
        index.write_text(json.dumps({"weight_map": files}))
        with pytest.raises(InputError, match=message):
            load_weights(TINY, index)
    index.write_text("{}")
    with pytest.raises(InputError, match=r"net\.safetensors\.index\.json: weight_map must map"):
        load_weights(TINY, index)


@pytest.mark.parametrize("name", ["net.bin", "net.pt", "net.ckpt", "net.pth", "net"])
def test_only_safetensors_is_read(name: str, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(
        InputError,
        match=rf"{name}: only safetensors is read .*: other files of weights can hold code",
    ):
        read_weights(tmp_path / name)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    with pytest.raises(InputError, match=r"net\.safetensors: cannot be read as safetensors"):
        read_weights(path)
    path.write_bytes(b"no safetensors")
    with pytest.raises(InputError, match=r"net\.safetensors: cannot be read as safetensors"):
        read_weights(path)


def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(InputError, match=rf"{name}\.safetensors: .*is not a regular file"):
            read_weights(tmp_path / f"{name}.safetensors")


def test_every_difference_is_listed(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    changed = {
        **state,
        "extra": torch.zeros(1),
        "input.bias": torch.zeros(3),
        "output.norm.bias": torch.zeros(16, dtype=torch.int8),
    }
    del changed["output.conv.bias"]
    save_file(changed, path)
    with pytest.raises(InputError) as caught:
        load_weights(TINY, path)
    assert str(caught.value).splitlines() == [
        f"{path}: not the weights of network {TINY.digest}:",
        "1 missing: output.conv.bias.",
        "1 not in the network: extra.",
        "1 of another shape: input.bias (3,), the network's is (16,).",
        "1 not of a floating-point type: output.norm.bias torch.int8.",
    ]


def test_differences_of_a_file_of_diffusers_have_its_names_and_at_most_twenty(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "net.safetensors"
    theirs = to_diffusers_state(TINY, state)
    kept = {name: tensor for name, tensor in theirs.items() if not name.startswith("down_blocks.")}
    missing = len(theirs) - len(kept)
    save_file(kept, path)
    with pytest.raises(
        InputError, match=rf"{missing} missing: down_blocks\.0\..*; and {missing - 20} more\.$"
    ):
        load_weights(TINY, path)


def test_their_weights_of_a_network_that_diffusers_lacks(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "net.safetensors"
    save_weights(to_diffusers_state(TINY, state), path)
    with pytest.raises(
        InputError,
        match=r"net\.safetensors: has diffusers' names, but network .*\n.*attention\.kv shared",
    ):
        load_weights(FOREIGN, path)


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchsearchError, match="cannot be written"):
        save_weights({"a": torch.zeros(4)}, tmp_path / "file" / "net.safetensors")
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_parts_of_larger_tensors_are_written_alone(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    save_weights({"row": whole[1], "column": whole[:, 1]}, tmp_path / "net.safetensors")
    read = read_weights(tmp_path / "net.safetensors")
    assert read["row"].tolist() == [4, 5, 6, 7]
    assert read["column"].tolist() == [1, 5, 9]


def test_numbers_that_are_none_are_refused_by_the_name_of_their_tensor(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    state["input.bias"][0] = float("nan")
    save_weights(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"1 not finite: input\.bias"):
        load_weights(TINY, tmp_path / "w.safetensors")
