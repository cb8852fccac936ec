"""MobileDiffusion-Bench: networks of the quickstart's space with recorded scores."""

from archsearch.benchmark.table import Answer, Benchmark, load

__all__ = ["Answer", "Benchmark", "load"]
