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
# Tests a study's first variant with edited prompts and compares it with the variants that were trained with
# them. Takes a minute or two; it reads the trained runs and the scans.
#
# It needs trained runs: run `make reproduce STUDY=prompts` first (on Colab, in a separate cell: `!snakemake
# --snakefile notebooks/Snakefile --cores all --config STUDY=prompts`).

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
study = "prompts"  # a study in notebooks/experiments.yaml
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
# ## The prompts
# The title and the first concept of the first class after each edit.

# %%
import pandas as pd

from bipvl.data.prompt_edits import EDITS, edited
from bipvl.data.prompts import default_prompts
from bipvl.data.spec import load_spec

texts = default_prompts(load_spec(next(iter(folders)))).segments()
pd.DataFrame({edit: edited(texts, edit)[0][:2] for edit in EDITS}.items(), columns=["prompts", "texts"])

# %% [markdown]
# ## Dice with each edit

# %%
from IPython.display import Image

from bipvl.analysis.prompt_robustness import prompt_robustness
from bipvl.figures import write

table = prompt_robustness(folders, data_root or synthetic_root(profile))
Image(write(f"prompt_robustness-{study}", table, Path(figures, profile_name(profile))), width=900)
