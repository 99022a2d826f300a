"""Synthetic cohorts in the benchmarks' own file layouts, for when the real data are not at hand."""

from bipvl.data.synthetic.cohort import GENERATOR_VERSION, synthesize

__all__ = ["GENERATOR_VERSION", "synthesize"]
