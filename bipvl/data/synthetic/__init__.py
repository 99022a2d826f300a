"""Synthetic cohorts in the file layouts of the benchmarks, for use without the real data."""

from bipvl.data.synthetic.cohort import GENERATOR_VERSION, synthesize

__all__ = ["GENERATOR_VERSION", "synthesize"]
