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
# # Where a word looks (the paper's bidirectional fusion, seen from the text)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/10_word_attention.ipynb)
#
# Shows, for each dataset, the image positions that a word of a prompt attends to at each stage of the fusion;
# seconds a dataset, from the runs' networks and the scans.
#
# The runs must be there: type `make reproduce STUDY=main` first (in Colab, in a cell of its own,
# `!snakemake --snakefile notebooks/Snakefile --cores all --config STUDY=main`).

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
study = "main"  # a study of notebooks/experiments.yaml
data_root = None  # the folder of the real data; None: the synthetic cohort of the profile
runs = "runs"  # where runs are kept
figures = "figures"  # where figures are written, below a folder of the profile's name

# %% [markdown]
# ## The runs of the study
# Of each dataset the first one of a network that reads prompts.

# %%
from bipvl.experiments import load_experiments

from bipvl import plots, statistics
from bipvl.engine.data_root import synthetic_root
from bipvl.engine.profiles import profile_name

folders, missing = statistics.study_folders(load_experiments(profile).study(study), runs)
chosen = plots.language_runs(folders)
print("Not run yet:", *missing or ["nothing, the study is whole"], sep="\n")
print("Shown:", *chosen.values(), sep="\n")

# %% [markdown]
# ## The figures
# Case and words are chosen by a rule, not by eye. Attention that is the same everywhere is not tinted.

# %%
from IPython.display import Image, display

data = data_root or synthetic_root(profile)
for dataset, run in chosen.items():
    table = plots.attention_table(run, data)
    display(
        Image(
            plots.write(f"word_attention-{dataset}", table, Path(figures, profile_name(profile))), width=800
        )
    )
