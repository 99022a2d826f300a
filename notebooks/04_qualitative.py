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
# # What the networks see (the paper's qualitative figure)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/04_qualitative.ipynb)
#
# Shows, of each dataset, the test case with the median Dice of the study's first variant: what each network
# made of it, where it is wrong, and its surfaces; then the five worst cases of all. A minute, from the runs'
# predictions and the scans.
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

# %%
from bipvl.experiments import load_experiments

from bipvl import plots, statistics
from bipvl.engine.data_root import synthetic_root
from bipvl.engine.profiles import profile_name

folders, missing = statistics.study_folders(load_experiments(profile).study(study), runs)
print("Not run yet:", *missing or ["nothing, the study is whole"], sep="\n")

# %% [markdown]
# ## Slices
# The case is chosen by a rule, not by eye: neither the best nor the worst.

# %%
from IPython.display import Image

data, folder = data_root or synthetic_root(profile), Path(figures, profile_name(profile))
table = plots.qualitative_table(folders, data)
Image(plots.write("qualitative", table, folder), width=900)

# %% [markdown]
# ## Errors
# The same slices: what was missed, what was found where nothing is, what was taken for another class.

# %%
Image(plots.write("errors", table, folder), width=900)

# %% [markdown]
# ## Surfaces
# The same cases as a whole.

# %%
Image(plots.write("surfaces", plots.surfaces_table(folders, data), folder), width=900)

# %% [markdown]
# ## The worst five
# The lowest Dice over all datasets, always shown, each at the slice with most errors.

# %%
Image(plots.write("failures", plots.failures_table(folders, data), folder), width=900)
