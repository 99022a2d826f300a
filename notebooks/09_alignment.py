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
# # What alignment does to the shared space (the paper's global and local alignment)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/09_alignment.ipynb)
#
# Shows how similar the texts of each class are to its image and to those of all others, before training and
# after, and the way that they came; seconds, from what each training kept of its vectors at every validation.
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
data_root = None  # not needed here
runs = "runs"  # where runs are kept
figures = "figures"  # where figures are written, below a folder of the profile's name

# %% [markdown]
# ## The runs of the study
# Of each dataset the first one of a network that reads prompts.

# %%
from bipvl.experiments import load_experiments

from bipvl import plots, statistics
from bipvl.engine.profiles import profile_name

folders, missing = statistics.study_folders(load_experiments(profile).study(study), runs, "history.csv")
chosen = plots.language_runs(folders)
print("Not run yet:", *missing or ["nothing, the study is whole"], sep="\n")
print("Shown:", *chosen.values(), sep="\n")

# %% [markdown]
# ## Who is like whom
# Alignment pulls a class's texts to its image (the diagonal) and pushes those of other classes away.

# %%
from IPython.display import Image

folder = Path(figures, profile_name(profile))
Image(plots.write("similarity", plots.similarity_table(chosen), folder), width=900)

# %% [markdown]
# ## The way there

# %%
Image(plots.write("embedding_map", plots.embedding_table(chosen), folder), width=900)
