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
# # Does it read? (beyond the paper)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/17_reading.ipynb)
#
# In a benchmark the prompts are the same for every case, so a network can ignore them and lose nothing.
# Here it cannot: each volume holds four balls (large or small, bright or dark), and only the prompt says
# which one is the target. A network that does not read has at best the Dice of the dashed line. Takes
# seconds.
#
# It needs trained runs: run `make reproduce STUDY=reading` first (on Colab, in a separate cell:
# `!snakemake --snakefile notebooks/Snakefile --cores all --config STUDY=reading`).

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
study = "reading"  # reading, or reading_held_out
data_root = None  # not used: the volumes are drawn
runs = "runs"  # folder of the runs
figures = "figures"  # figures are written to a subfolder named after the profile

# %% [markdown]
# ## Dice against steps

# %%
from IPython.display import Image

from bipvl.analysis.reading import reading_table
from bipvl.analysis.studies import load_experiments
from bipvl.engine.profiles import profile_name
from bipvl.figures import write

chosen, folder = load_experiments(profile).study(study), Path(figures, profile_name(profile))
Image(write(f"reading-{study}", reading_table(chosen, runs, "history"), folder), width=700)

# %% [markdown]
# ## Other words, and a ball that is not there
# Four wordings of the prompts, of which the first was trained with; and volumes without the named ball,
# where an empty mask is right. In the study `reading_held_out` no training has the small dark ball as a
# target.

# %%
Image(write(f"reading_wordings-{study}", reading_table(chosen, runs, "scores"), folder), width=700)

# %% [markdown]
# ## Where the text is lost
# How much another prompt changes the values at each place on the way to the logits. Fusion changes the
# coarse features by some percent. The decoder then adds skips of finer resolution that never met the text,
# and little is left at the last convolution. The modulated head gives the text to that convolution
# directly.

# %%
Image(write(f"reading_changes-{study}", reading_table(chosen, runs, "changes"), folder), width=700)
