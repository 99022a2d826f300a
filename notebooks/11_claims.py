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
# # The paper's claims and what was measured (the claims table)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/11_claims.ipynb)
#
# One row per claim: the study that tests it, the data, the effect with its interval, and a verdict. The note
# below the table explains the verdicts: supported, contradicted, equivalent, undecided, cannot be decided.
# Takes at most a minute: it reads only the `metrics.csv` files of the runs.
#
# It needs trained runs: run `make reproduce STUDY=all` first (on Colab, in a separate cell: `!snakemake
# --snakefile notebooks/Snakefile --cores all --config STUDY=all`).

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
study = "all"  # not needed here: the claims table reads the runs of every study
data_root = None  # not needed here
runs = "runs"  # folder of the runs
figures = "figures"  # figures are written to a subfolder named after the profile

# %% [markdown]
# ## The claims table
# A claim is not tested if one of its runs is missing; its row says which. `scores.csv` contains every case,
# class, metric and grid of all finished runs. The paper's values come from `notebooks/paper_values.csv`: if
# you have the paper, add its values there, and they appear beside the measured ones.

# %%
from IPython.display import Image, Markdown

from bipvl.analysis.claims import claim_texts, claims_table, gather_runs
from bipvl.analysis.paper_values import read_paper_values
from bipvl.analysis.studies import load_experiments
from bipvl.analysis.tables import claims_markdown
from bipvl.common.files import write_csv, write_text
from bipvl.engine.profiles import profile_name
from bipvl.figures import write

folder = Path(figures, profile_name(profile))
experiments = load_experiments(profile)
scores = gather_runs(experiments, runs)
paper = read_paper_values(claim_texts(experiments))
claims = claims_table(scores, experiments, paper)
write_csv(folder / "scores.csv", scores)
write_text(folder / "claims.md", claims_markdown(claims))
Markdown(claims_markdown(claims))

# %% [markdown]
# ## The effects
# `claims.csv` contains the whole claims table.

# %%
Image(write("claims", claims, folder), width=900)
