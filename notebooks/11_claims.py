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
# # The claims of the paper, and what was measured here (the claims table)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/11_claims.ipynb)
#
# A row a claim: which study tests it, on what, the effect with its interval, and a verdict; a minute at most,
# from the runs' `metrics.csv` files alone.
#
# The runs must be there: type `make reproduce STUDY=all` first (in Colab, in a cell of its own,
# `!snakemake --snakefile notebooks/Snakefile --cores all --config STUDY=all`).

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
study = "all"  # not needed here: the table uses the runs of every study
data_root = None  # not needed here
runs = "runs"  # where runs are kept
figures = "figures"  # where figures are written, below a folder of the profile's name

# %% [markdown]
# ## The claims table
# A claim is not tested if some of its runs are missing; its row lists them.

# %%
from IPython.display import Image, Markdown

from bipvl import figures as plots
from bipvl.analysis.claims import claims_table, gather_runs
from bipvl.analysis.studies import load_experiments
from bipvl.analysis.tables import claims_markdown
from bipvl.common.files import write_text
from bipvl.engine.profiles import profile_name

folder = Path(figures, profile_name(profile))
experiments = load_experiments(profile)
claims = claims_table(gather_runs(experiments, runs), experiments)
write_text(folder / "claims.md", claims_markdown(claims))
Markdown(claims_markdown(claims))

# %% [markdown]
# ## The effects
# `claims.csv` beside the figure has all columns.

# %%
Image(plots.write("claims", claims, folder), width=900)
