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
# # Training curves (the paper's objective during training)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/05_training_curves.ipynb)
#
# Draws the loss terms, the validation Dice, the learnt loss weights and the learning rate of every run of a
# study. Takes seconds: it reads only the `history.csv` files of the runs.
#
# It needs trained runs: run `make reproduce STUDY=main` first (on Colab, in a separate cell: `!snakemake
# --snakefile notebooks/Snakefile --cores all --config STUDY=main`).

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
study = "main"  # a study in notebooks/experiments.yaml
data_root = None  # not needed here
runs = "runs"  # folder of the runs
figures = "figures"  # figures are written to a subfolder named after the profile

# %% [markdown]
# ## The runs of the study

# %%
from bipvl.analysis.studies import load_experiments, study_folders
from bipvl.engine.profiles import profile_name

folders, missing = study_folders(load_experiments(profile).study(study), runs, "history.csv")
print("Missing runs:", *missing or ["none"], sep="\n")

# %% [markdown]
# ## The curves

# %%
from IPython.display import Image

from bipvl.figures import training_curves, write

Image(write("training_curves", training_curves(folders), Path(figures, profile_name(profile))), width=900)
