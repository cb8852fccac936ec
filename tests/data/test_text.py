import socket

import pytest
import torch

from archsearch.data.text import MiniLM, TextEncoder


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    def refuse(*args: object) -> None:
        raise AssertionError("the encoder must load without the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        minilm = MiniLM()
        minilm.pooled(["warm up"])
    return minilm


def test_token_states(encoder: TextEncoder) -> None:
    states = encoder.encode(["dog", "a very long caption with many more words than fit", ""], 6)
    assert states.shape == (3, 6, encoder.dim)
    assert states.dtype == torch.float32
    assert states[0, :3].abs().sum(-1).gt(0).all()  # [CLS] dog [SEP]
    assert states[0, 3:].eq(0).all()
    assert states[1].abs().sum(-1).gt(0).all()
    assert states[2, 2:].eq(0).all()


def test_states_do_not_depend_on_company(encoder: TextEncoder) -> None:
    alone = encoder.encode(["red apple"], 8)
    beside = encoder.encode(["a much longer caption than the other one", "red apple"], 8)
    torch.testing.assert_close(alone[0], beside[1], atol=1e-5, rtol=1e-4)


def test_pooled_vectors_know_what_is_alike(encoder: TextEncoder) -> None:
    vectors = encoder.pooled(["a red apple", "an apple fruit", "a green car"])
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert float(vectors[0] @ vectors[1]) == pytest.approx(0.796, abs=0.01)
    assert float(vectors[0] @ vectors[2]) < 0.5


def test_nothing_in_nothing_out(encoder: TextEncoder) -> None:
    assert encoder.encode([], 4).shape == (0, 4, encoder.dim)
    assert encoder.pooled([]).shape == (0, encoder.dim)
