from pathlib import Path

import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from archsearch.data.prepare import Prepared
from archsearch.errors import InputError
from archsearch.metrics.distances import frechet_distance
from archsearch.metrics.networks import Inception
from archsearch.metrics.spec import MetricSettings
from tests.metrics.conftest import build_metric


def test_uses_features_not_logits(inception_file: Path, data: Prepared) -> None:
    inception = Inception(inception_file)
    network = torch.jit.load(str(inception_file))
    assert inception.num_features == 6
    torch.testing.assert_close(
        inception(data.images[:40]), network(data.images[:40], return_features=True).detach()
    )


def test_value_is_the_distance_to_the_train_pictures(
    settings: MetricSettings, data: Prepared
) -> None:
    metric = build_metric("fid", data, settings)
    inception = Inception(settings.inception or Path())
    metric.update(data.images[data.held_out], [data.captions[i] for i in data.held_out])
    expected = frechet_distance(
        inception(data.images[data.train]), inception(data.images[data.held_out])
    )
    assert metric.compute()["fid"] == pytest.approx(expected, rel=1e-6)


def test_equals_torchmetrics_on_the_same_features(
    settings: MetricSettings, data: Prepared, inception_file: Path
) -> None:
    class Wrapped(torch.nn.Module):
        num_features = 6

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return Inception(inception_file)(images).double()

    other = FrechetInceptionDistance(feature=Wrapped()).set_dtype(torch.double)
    other.update(data.images[data.train], real=True)
    other.update(data.images[data.held_out], real=False)
    metric = build_metric("fid", data, settings)
    metric.update(data.images[data.held_out], [""] * len(data.held_out))
    assert metric.compute()["fid"] == pytest.approx(float(other.compute()), rel=1e-3)


def test_missing_file_is_named(data: Prepared, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"metrics\.inception: {tmp_path}/no\.pt: cannot be read"):
        build_metric("fid", data, MetricSettings(inception=tmp_path / "no.pt"))


def test_other_content_is_named(data: Prepared, tmp_path: Path) -> None:
    path = tmp_path / "text.pt"
    path.write_text("not a network")
    with pytest.raises(InputError, match=rf"{path}: not a network for FID"):
        build_metric("fid", data, MetricSettings(inception=path))


def test_traced_network_is_refused(data: Prepared, tmp_path: Path) -> None:
    path = tmp_path / "traced.pt"
    torch.jit.trace(torch.nn.Flatten(), torch.zeros(1, 3, 32, 32)).save(str(path))
    with pytest.raises(InputError, match="scripted"):
        build_metric("fid", data, MetricSettings(inception=path))
