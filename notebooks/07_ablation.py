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
# # Ablation: the effect of each part (the paper's ablation tables)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/07_ablation.ipynb)
#
# Compares every variant of a study with its first one, case by case, with intervals and tests. Takes seconds:
# it reads only the `metrics.csv` files of the runs.
#
# It needs trained runs: run `make reproduce STUDY=fusion` first (on Colab, in a separate cell: `!snakemake
# --snakefile notebooks/Snakefile --cores all --config STUDY=fusion`).

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
if Path.cwd().name == "notebooks":  # in JupyterLab; all paths below start at the repository's root
    os.chdir("..")

# %% tags=["parameters"]
profile = "quick"  # quick, laptop, paper, or the path of your own profile
study = "fusion"  # a study in notebooks/experiments.yaml
data_root = None  # not needed here
runs = "runs"  # folder of the runs
figures = "figures"  # figures are written to a subfolder named after the profile

# %% [markdown]
# ## The runs of the study

# %%
from bipvl.analysis.studies import load_experiments, study_folders
from bipvl.engine.profiles import profile_name

chosen = load_experiments(profile).study(study)
folders, missing = study_folders(chosen, runs)
print(f"{chosen.title}: {chosen.question}")
print("Missing runs:", *missing or ["none"], sep="\n")

# %% [markdown]
# ## The comparisons
# Paired over test cases: the difference from the first variant, its interval, and Wilcoxon's test with Holm's
# correction. The verdict on each claim, and every case, class, metric and grid (`scores.csv`), are in
# [11_claims](11_claims.ipynb).

# %%
import pandas as pd

from bipvl.analysis.comparisons import compare
from bipvl.analysis.statistics import METRICS, read_runs

scores = read_runs(folders)
compared = pd.concat(compare(scores, chosen.variants[0], metric) for metric in METRICS)
compared.round(3)

# %% [markdown]
# ## The differences in Dice
# Drawn from `comparisons-STUDY.csv`, which contains all metrics.

# %%
from IPython.display import Image

from bipvl.figures import write

Image(write(f"ablation-{study}", compared, Path(figures, profile_name(profile))), width=900)
