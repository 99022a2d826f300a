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
# # Text–image similarity (the paper's global and local alignment)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/09_alignment.ipynb)
#
# Shows how similar the texts of each class are to the image of each class before and after training, and how
# they move in the shared space. Takes seconds: it reads the vectors that each training saved at every
# validation.
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
# For each data set, the first run of a network that reads prompts.

# %%
from bipvl.analysis.studies import load_experiments, study_folders
from bipvl.engine.profiles import profile_name
from bipvl.figures import embedding_table, language_runs, similarity_table, write

folders, missing = study_folders(load_experiments(profile).study(study), runs, "history.csv")
chosen = language_runs(folders)
print("Missing runs:", *missing or ["none"], sep="\n")
print("Shown:", *chosen.values(), sep="\n")

# %% [markdown]
# ## Similarity
# Alignment pulls the texts of a class towards its image (the diagonal) and pushes the texts of other classes
# away.

# %%
from IPython.display import Image

folder = Path(figures, profile_name(profile))
Image(write("similarity", similarity_table(chosen), folder), width=900)

# %% [markdown]
# ## The shared space during training

# %%
Image(write("embedding_map", embedding_table(chosen), folder), width=900)
