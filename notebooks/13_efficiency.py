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
# # What accuracy costs: parameters, operations, time and memory against Dice (the paper's efficiency table)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/13_efficiency.ipynb)
#
# Counts each network's parameters and operations and holds them, and what its runs took, against what it
# scores; half a minute, from the runs' `metrics.csv` and `manifest.json` files.
#
# The runs must be there: type `make reproduce STUDY=efficiency` first (in Colab, in a cell of its own,
# `!snakemake --snakefile notebooks/Snakefile --cores all --config STUDY=efficiency`).

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
study = "efficiency"  # a study of notebooks/experiments.yaml
data_root = None  # not needed here
runs = "runs"  # where runs are kept
figures = "figures"  # where figures are written, below a folder of the profile's name

# %% [markdown]
# ## The runs of the study

# %%
from bipvl.efficiency import efficiency, trained_runs
from bipvl.experiments import load_experiments

from bipvl import plots, statistics
from bipvl.engine.profiles import profile_name

chosen = load_experiments(profile).study(study)
folders, missing = statistics.study_folders(chosen, runs)
own = trained_runs(folders)
print(f"{chosen.title}: {chosen.question}")
print("Not run yet:", *missing or ["nothing, the study is whole"], sep="\n")
others = [folder for dataset in folders for folder in folders[dataset] if folder not in own.get(dataset, [])]
print("Others' predictions, whose costs are not known:", *others or ["none"], sep="\n")

# %% [markdown]
# ## What they cost
# Parameters and operations are counted, without running the network. Seconds and memory were measured while
# the runs were made: they hold for that machine, and for whatever else it did then.

# %%
costs = efficiency(own)
costs.round(3)

# %% [markdown]
# ## Dice against each cost

# %%
from IPython.display import Image, display

for dataset, table in costs.groupby("dataset", sort=False):
    path = plots.write(f"efficiency-{dataset}", table, Path(figures, profile_name(profile)))
    display(Image(path, width=900))
