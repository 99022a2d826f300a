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
# # Prompts that the network was not trained with (the paper's study of prompt quality)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/14_prompt_robustness.ipynb)
#
# Tests a study's first variant with prompts of every kind, beside the variants that were trained with them; a
# minute or two, from the trained runs and the scans.
#
# The runs must be there: type `make reproduce STUDY=prompts` first (in Colab, in a cell of its own,
# `!snakemake --snakefile notebooks/Snakefile --cores all --config STUDY=prompts`).

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
study = "prompts"  # a study of notebooks/experiments.yaml
data_root = None  # the folder of the real data; None: the synthetic cohort of the profile
runs = "runs"  # where runs are kept
figures = "figures"  # where figures are written, below a folder of the profile's name

# %% [markdown]
# ## The runs of the study

# %%
from bipvl.experiments import load_experiments

from bipvl import plots, statistics

folders, missing = statistics.study_folders(load_experiments(profile).study(study), runs)
print("Not run yet:", *missing or ["nothing, the study is whole"], sep="\n")

# %% [markdown]
# ## The prompts
# What each edit makes of the first class's title and first concept.

# %%
import pandas as pd

from bipvl.data.prompt_edits import EDITS, edited
from bipvl.data.prompts import default_prompts
from bipvl.data.spec import load_spec

texts = default_prompts(load_spec(next(iter(folders)))).segments()
pd.DataFrame({edit: edited(texts, edit)[0][:2] for edit in EDITS}.items(), columns=["prompts", "texts"])

# %% [markdown]
# ## Tested with each

# %%
from bipvl.robustness import prompt_robustness
from IPython.display import Image

from bipvl.engine.data_root import synthetic_root
from bipvl.engine.profiles import profile_name

data = data_root or synthetic_root(profile)
table = prompt_robustness(folders, data)
Image(plots.write(f"prompt_robustness-{study}", table, Path(figures, profile_name(profile))), width=900)
