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
# # Word attention (the paper's bidirectional fusion, from text to image)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/10_word_attention.ipynb)
#
# Shows for each data set the image positions that a word of a prompt attends to at each stage of the fusion.
# Takes seconds per data set; it reads the trained networks and the scans.
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
# For each data set, the first run of a network that reads prompts.

# %%
from bipvl.analysis.studies import load_experiments, study_folders
from bipvl.engine.data_root import synthetic_root
from bipvl.engine.profiles import profile_name
from bipvl.figures import attention_table, language_runs, write

folders, missing = study_folders(load_experiments(profile).study(study), runs)
chosen = language_runs(folders)
print("Missing runs:", *missing or ["none"], sep="\n")
print("Shown:", *chosen.values(), sep="\n")

# %% [markdown]
# ## The figures
# A rule selects the case and the words. Uniform attention is not coloured.

# %%
from IPython.display import Image, display

data, folder = data_root or synthetic_root(profile), Path(figures, profile_name(profile))
for dataset, run in chosen.items():
    display(Image(write(f"word_attention-{dataset}", attention_table(run, data), folder), width=800))
