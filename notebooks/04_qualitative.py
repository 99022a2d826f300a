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
# # Predictions, errors and surfaces (the paper's qualitative figure)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/04_qualitative.ipynb)
#
# Shows for each data set the test case with the median Dice of the study's first variant: the prediction of
# each network, its errors and its surfaces; then the five worst cases overall. Takes a minute; it reads the
# predictions and the scans.
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
data_root = None  # folder of the real data; None: the synthetic cohort of the profile
runs = "runs"  # folder of the runs
figures = "figures"  # figures are written to a subfolder named after the profile

# %% [markdown]
# ## The runs of the study

# %%
from bipvl.analysis.studies import load_experiments, study_folders
from bipvl.engine.data_root import synthetic_root
from bipvl.engine.profiles import profile_name

folders, missing = study_folders(load_experiments(profile).study(study), runs)
print("Missing runs:", *missing or ["none"], sep="\n")

# %% [markdown]
# ## Slices
# A rule selects the case, so that it is neither the best nor the worst.

# %%
from IPython.display import Image

from bipvl.figures import failures_table, qualitative_table, surfaces_table, write

data, folder = data_root or synthetic_root(profile), Path(figures, profile_name(profile))
table = qualitative_table(folders, data)
Image(write("qualitative", table, folder), width=900)

# %% [markdown]
# ## Errors
# The same slices, from the same table: missed voxels, false positives and voxels of another class.

# %%
Image(write("errors", table, folder), width=900)

# %% [markdown]
# ## Surfaces
# The same cases in 3D.

# %%
Image(write("surfaces", surfaces_table(folders, data), folder), width=900)

# %% [markdown]
# ## The five worst cases
# The lowest Dice over all data sets, each at the slice with the most errors.

# %%
Image(write("failures", failures_table(folders, data), folder), width=900)
