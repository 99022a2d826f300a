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
# # Efficiency: parameters, operations, time and memory compared with Dice (the paper's efficiency table)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/13_efficiency.ipynb)
#
# Counts the parameters and operations of each network and compares them, and the time and memory of its runs,
# with its Dice. Takes half a minute: it reads only the `metrics.csv` and `manifest.json` files of the runs.
#
# It needs trained runs: run `make reproduce STUDY=efficiency` first (on Colab, in a separate cell:
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
if Path.cwd().name == "notebooks":  # in JupyterLab; all paths below start at the repository's root
    os.chdir("..")

# %% tags=["parameters"]
profile = "quick"  # quick, laptop, paper, or the path of your own profile
study = "efficiency"  # a study in notebooks/experiments.yaml
data_root = None  # not needed here
runs = "runs"  # folder of the runs
figures = "figures"  # figures are written to a subfolder named after the profile

# %% [markdown]
# ## The runs of the study

# %%
from bipvl.analysis.efficiency import OF_MACHINE, efficiency, trained_runs
from bipvl.analysis.studies import load_experiments, study_folders
from bipvl.engine.profiles import profile_name

chosen = load_experiments(profile).study(study)
folders, missing = study_folders(chosen, runs)
trained = trained_runs(folders)
print(f"{chosen.title}: {chosen.question}")
print("Missing runs:", *missing or ["none"], sep="\n")
others = [
    folder for dataset in folders for folder in folders[dataset] if folder not in trained.get(dataset, [])
]
print("Predictions of other tools, whose costs are unknown:", *others or ["none"], sep="\n")

# %% [markdown]
# ## Costs
# Parameters and operations are counted without running the network. Seconds and memory were measured during
# the runs: they depend on that machine and on its other work at that time. So they have a figure of their
# own, `runtime`, which git ignores.

# %%
costs = efficiency(trained)
costs.round(3)

# %% [markdown]
# ## Dice against each cost

# %%
from IPython.display import Image, display

from bipvl.figures import write

folder = Path(figures, profile_name(profile))
for dataset, table in costs.groupby("dataset", sort=False):
    for path in (
        write(f"efficiency-{dataset}", table.drop(columns=OF_MACHINE), folder),
        write(f"runtime-{dataset}", table, folder),
    ):
        display(Image(path, width=900))
