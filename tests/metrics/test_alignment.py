import pytest
import torch

from archsearch.data.prepare import Prepared, prepare
from archsearch.data.spec import DataSpec
from archsearch.metrics.spec import MetricSettings
from archsearch.metrics.text import project, retrieval_ranks, train_projections
from tests.metrics.conftest import build_metric


def test_learns_a_linear_relation_and_repeats() -> None:
    generator = torch.Generator().manual_seed(0)
    texts = torch.randn(1680, 8, generator=generator)
    images = texts @ torch.randn(8, 20, generator=generator)
    weights = train_projections(images[:1600], texts[:1600])
    similarity = project(weights, "image", images[1600:]) @ project(weights, "text", texts[1600:]).T
    assert float((retrieval_ranks(similarity) < 5).double().mean()) > 0.8
    again = train_projections(images[:1600], texts[:1600])
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert not any(tensor.requires_grad for tensor in weights.values())


def test_ranks() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.9, 0.1, 0.2], [0.1, 0.3, 0.2]])
    assert retrieval_ranks(similarity).tolist() == [0, 2, 1]


def test_right_captions_beat_wrong_ones(data: Prepared, settings: MetricSettings) -> None:
    metric = build_metric("alignment", data, settings)
    captions = [data.captions[i] for i in data.train]
    metric.update(data.images[data.train], captions)
    right = metric.compute()
    assert right["alignment"] > right["alignment_mismatched"] + 0.2
    assert (
        0
        <= right["alignment_recall_at_1"]
        <= right["alignment_recall_at_5"]
        <= right["alignment_recall_at_10"]
        <= 1
    )
    metric.reset()
    metric.update(data.images[data.train], [*captions[-1:], *captions[:-1]])
    assert metric.compute()["alignment"] == pytest.approx(right["alignment_mismatched"], abs=1e-4)


@pytest.mark.slow
def test_recall_on_held_out_pictures_of_the_whole_data() -> None:
    data = prepare(DataSpec())
    metric = build_metric("alignment", data, MetricSettings())
    metric.update(data.images[data.held_out], [data.captions[i] for i in data.held_out])
    result = metric.compute()
    assert result["alignment_recall_at_10"] > 0.35  # chance: 0.045
    assert result["alignment"] > 0.2
