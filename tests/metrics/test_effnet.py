import torch

from archsearch.data.prepare import Prepared
from archsearch.metrics.base import draw_rows, real_features
from archsearch.metrics.networks import EfficientNetLite0, prepare_pixels
from archsearch.metrics.spec import MetricSettings
from tests.metrics.conftest import build_metric


def test_features_are_ordinary_float32_and_batch_independent(data: Prepared) -> None:
    extractor = EfficientNetLite0()
    features = extractor(data.images[:5])
    assert features.shape == (5, extractor.num_features)
    assert features.dtype == torch.float32
    assert not features.is_inference()
    torch.testing.assert_close(extractor(data.images[3:4])[0], features[3], atol=1e-4, rtol=1e-3)
    assert extractor(data.images[:0]).shape == (0, 1280)


def test_like_is_near_like() -> None:
    """Trained weights, loaded right: a grey shift moves features less than another picture does."""
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.randint(0, 256, (1, 3, 4, 4), generator=generator).float() for _ in range(2))
    pictures = torch.nn.functional.interpolate(
        torch.cat([one, one * 0.95, two]), size=(64, 64)
    ).byte()
    features = torch.nn.functional.normalize(EfficientNetLite0()(pictures), dim=1)
    assert features[0] @ features[1] > 0.9 > features[0] @ features[2]


def test_pixels_are_normalised_as_for_imagenet() -> None:
    white = prepare_pixels(torch.full((1, 3, 16, 16), 255, dtype=torch.uint8), 32)
    assert white.shape == (1, 3, 32, 32)
    torch.testing.assert_close(
        white[0, :, 0, 0], torch.tensor([2.2489, 2.4286, 2.6400]), atol=1e-3, rtol=0
    )


def test_reference_set_is_the_train_pictures(data: Prepared) -> None:
    extractor = EfficientNetLite0()
    everything = real_features(extractor, data)
    metric = build_metric("kid_effnet", data, MetricSettings())
    assert torch.equal(metric._reference, everything[data.train])
    torch.testing.assert_close(extractor(data.images[7:8])[0], everything[7], atol=1e-4, rtol=1e-3)


def test_floor_is_two_disjoint_parts() -> None:
    rest, draw = draw_rows(20, 6, seed=0)
    assert (len(rest), len(draw)) == (14, 6)
    assert sorted(torch.cat([rest, draw]).tolist()) == list(range(20))
    assert torch.equal(draw, draw_rows(20, 6, seed=0)[1])
    assert not torch.equal(draw, draw_rows(20, 6, seed=1)[1])
    assert len(draw_rows(20, 100, seed=0)[1]) == 10
