# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # An ablation: what changes when one part does (the paper's ablation tables)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/07_ablation.ipynb)
#
# Holds every variant of a study against its first one, case by case, with intervals and tests; seconds, from
# the runs' `metrics.csv` files alone.
#
# The runs must be there: type `make reproduce STUDY=fusion` first (in Colab, in a cell of its own,
# `!snakemake --snakefile notebooks/Snakefile --cores all --config STUDY=fusion`).

# %%
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("bipvl") is None:  # on Colab; elsewhere `make setup` has installed it
    subprocess.run(["git", "clone", "--depth=1", "https://github.com/bipvl/bipvl"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "./bipvl[notebooks]"], check=True)
    os.chdir("bipvl")
if Path.cwd().name == "notebooks":  # opened in JupyterLab; all paths below start in the repository's root
    os.chdir("..")

# %% tags=["parameters"]
profile = "quick"  # the scale: quick, laptop or paper
study = "fusion"  # a study of notebooks/experiments.yaml
data_root = None  # not needed here
runs = "runs"  # where runs are kept
figures = "figures"  # where figures are written, below a folder of the profile's name

# %% [markdown]
# ## The runs of the study

# %%
from bipvl.experiments import load_experiments

from bipvl import plots, statistics

chosen = load_experiments(profile).study(study)
folders, missing = statistics.study_folders(chosen, runs)
print(f"{chosen.title}: {chosen.question}")
print("Not run yet:", *missing or ["nothing, the study is whole"], sep="\n")

# %% [markdown]
# ## The comparisons
# Paired over test cases: the difference to the first variant, its interval, and Wilcoxon's test with Holm's
# correction. `scores-STUDY.csv` beside it holds every case, class, metric and grid.

# %%
import pandas as pd
from bipvl.comparisons import compare
from bipvl.files import write_csv

from bipvl.engine.profiles import profile_name

folder = Path(figures, profile_name(profile))
scores = statistics.read_runs(folders)
compared = pd.concat(compare(scores, chosen.variants[0], metric) for metric in statistics.METRICS)
write_csv(folder / f"scores-{study}.csv", scores)
write_csv(folder / f"comparisons-{study}.csv", compared)
compared.round(3)

# %% [markdown]
# ## The differences in Dice

# %%
from IPython.display import Image

Image(plots.write(f"ablation-{study}", compared[compared["metric"] == "dice"], folder), width=900)
