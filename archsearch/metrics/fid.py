"""The true FID and KID, with the InceptionV3 that the user brings."""

from archsearch.metrics.base import Reference
from archsearch.metrics.frechet import FrechetMetric
from archsearch.metrics.kernel import PolynomialKid
from archsearch.metrics.networks import Networks
from archsearch.metrics.settings import MetricSettings


class Fid(FrechetMetric):
    """Fréchet Inception Distance (Heusel et al. 2017). Reference set: the train pictures."""

    name = "fid"

    def __init__(self, data: Reference, settings: MetricSettings, networks: Networks | None = None) -> None:
        super().__init__((networks or Networks(settings)).inception, data, settings)


class Kid(PolynomialKid):
    """Kernel Inception Distance (Bińkowski et al. 2018), over all pictures instead of random subsets of 1,000."""

    name = "kid"
    version = 1

    def __init__(self, data: Reference, settings: MetricSettings, networks: Networks | None = None) -> None:
        super().__init__((networks or Networks(settings)).inception, data, settings)
