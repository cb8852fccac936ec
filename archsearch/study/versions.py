"""Versions of what computes a study's objectives: taken up under others, a run would mix scores that do not compare."""

from archsearch.diffusion import evaluate, quantise, sample, trainer
from archsearch.metrics import prompts
from archsearch.metrics.registry import METRICS
from archsearch.study.scores import score_of
from archsearch.study.spec import StudySpec


def versions(spec: StudySpec) -> dict[str, int]:
    """Version of each part of archsearch, or of another package's metric, that an objective of quality rests on."""
    found: dict[str, int] = {}
    for name in spec.objectives:
        match score_of(name).source:
            case "trained":
                found |= {"training": trainer.VERSION, "the held-out loss": evaluate.VERSION}
            case "quantised":
                found |= {"training": trainer.VERSION, "the held-out loss": evaluate.VERSION, name: quantise.VERSION}
            case "sampled":
                found |= {"training": trainer.VERSION, "sampling": sample.VERSION, "prompts": prompts.VERSION}
                found[name] = METRICS[name].version
    return found
