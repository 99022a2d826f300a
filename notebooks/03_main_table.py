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
# # Main comparison (the paper's main results table)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/03_main_table.ipynb)
#
# Collects the scores of all runs of a study in the main table and two figures. Takes seconds: it reads only
# the `metrics.csv` files of the runs.
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

experiments = load_experiments(profile)
folders, missing = study_folders(experiments.study(study), runs)
print("Missing runs:", *missing or ["none"], sep="\n")

# %% [markdown]
# ## The table
# Also written as CSV and Markdown (`make figures FORMAT=pdf` writes LaTeX). Every case, class, metric and
# grid is in `scores.csv`, which [11_claims](11_claims.ipynb) writes. The paper's own values, if
# `notebooks/paper_values.csv` has any, are shown beside the measured ones. † marks a method whose training
# had not stopped improving.

# %%
from IPython.display import Image, Markdown

from bipvl.analysis.claims import claim_texts
from bipvl.analysis.convergence import with_convergence
from bipvl.analysis.paper_values import read_paper_values, with_paper_values
from bipvl.analysis.statistics import case_means, class_values, main_table, read_runs
from bipvl.analysis.tables import main_table_markdown
from bipvl.common.files import write_csv, write_text

folder = Path(figures, profile_name(profile))
scores = read_runs(folders)
main = with_convergence(main_table(scores), folders)
main = with_paper_values(main, read_paper_values(claim_texts(experiments)))
write_csv(folder / "main_table.csv", main)
write_text(folder / "main_table.md", main_table_markdown(main))
Markdown(main_table_markdown(main))

# %% [markdown]
# ## Every case

# %%
from bipvl.figures import write

Image(write("main_dice", case_means(scores), folder), width=900)

# %% [markdown]
# ## Every case and class

# %%
Image(write("class_dice", class_values(scores), folder), width=900)
