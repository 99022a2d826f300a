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
# # Data: a benchmark, its split, its prompts and a first look (the paper's section on data sets)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/01_data.ipynb)
#
# Reads one benchmark in its own layout (or writes a synthetic cohort in it), checks every file, draws the
# split, scores the mean atlas and shows four training cases; a minute or two.

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
dataset = "mmwhs_ct"  # amos22, mmwhs_ct, mmwhs_mr, msd_brain, or your own dataset's YAML file
data_root = None  # the folder of the real data; None: the synthetic cohort of the profile
runs = "runs"  # where runs are kept
figures = "figures"  # where figures are written, below a folder of the profile's name

# %% [markdown]
# ## Prepare
# Writes `split.json` and the score of the mean atlas below the runs; a fault in the data stops here, by name.

# %%
from bipvl.prepare import prepare

from bipvl.data.layouts import cohort_of, list_cases
from bipvl.data.prompts import default_prompts
from bipvl.data.spec import load_spec
from bipvl.data.splits import read_split
from bipvl.engine.profiles import profile_name

data = prepare(profile=profile, dataset=dataset, data_root=data_root, root=Path(runs))
spec = load_spec(dataset)
print(f"{spec.title}: {cohort_of(data)} cohort in {data}")

# %% [markdown]
# ## The split
# By case id, drawn once and written down: all runs at a profile train, choose and test on the same cases.

# %%
import pandas as pd

split = read_split(Path(runs, profile_name(profile), spec.name, "split.json"), list_cases(spec, data))
parts = {"training": split.train, "validation": split.val, "test": split.test}
pd.DataFrame(
    [
        {"part": part, "cases": len(ids), "ids": ", ".join(ids[:6]) + (" …" if ids[6:] else "")}
        for part, ids in parts.items()
    ]
)

# %% [markdown]
# ## The prompts
# One row a class: its title and five concepts that can be seen in a scan.

# %%
pd.DataFrame(default_prompts(spec).rows)

# %% [markdown]
# ## Four training cases

# %%
from IPython.display import Image

from bipvl import plots

table = plots.samples_table(spec, data, split, profile_name(profile))
Image(plots.write(f"data_samples-{spec.name}", table, Path(figures, profile_name(profile))), width=900)
