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
# Gathers the scores of all runs of a study into the main table and its two figures; seconds, from the
# runs' `metrics.csv` files alone.
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

# %%
from bipvl.experiments import load_experiments

from bipvl import plots, statistics

folders, missing = statistics.study_folders(load_experiments(profile).study(study), runs)
print("Not run yet:", *missing or ["nothing, the study is whole"], sep="\n")

# %% [markdown]
# ## The table
# Also written as CSV, Markdown and LaTeX. `scores.csv` beside it holds every case, class, metric and grid.

# %%
from bipvl.files import write_csv, write_text
from IPython.display import Image, Markdown

from bipvl import tables
from bipvl.engine.profiles import profile_name

folder = Path(figures, profile_name(profile))
scores = statistics.read_runs(folders)
main = statistics.main_table(scores)
write_csv(folder / "scores.csv", scores)
write_csv(folder / "main_table.csv", main)
write_text(folder / "main_table.md", tables.main_table_markdown(main))
write_text(folder / "main_table.tex", tables.main_table_latex(main))
Markdown(tables.main_table_markdown(main))

# %% [markdown]
# ## Every case

# %%
Image(plots.write("main_dice", statistics.case_means(scores), folder), width=900)

# %% [markdown]
# ## Every case and class

# %%
Image(plots.write("class_dice", statistics.class_values(scores), folder), width=900)
