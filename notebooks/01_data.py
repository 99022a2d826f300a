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
# # Data: a benchmark, its split, its prompts and examples (the paper's section on data sets)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/01_data.ipynb)
#
# Reads a benchmark in its original layout (or writes a synthetic cohort in that layout), checks every file,
# draws the split, scores the mean atlas and shows four training cases. Takes a minute or two.

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
dataset = "mmwhs_ct"  # amos22, mmwhs_ct, mmwhs_mr, msd_brain, msd_hippocampus, openkbp, or your own YAML file
data_root = None  # folder of the real data; None: the synthetic cohort of the profile
runs = "runs"  # folder of the runs
figures = "figures"  # figures are written to a subfolder named after the profile

# %% [markdown]
# ## Prepare
# Writes `split.json` and the scores of the mean atlas to the folder of the runs. Stops at the first issue of
# the data and names it.

# %%
from bipvl.data.layouts import cohort_of, list_cases
from bipvl.data.prompts import default_prompts
from bipvl.data.spec import load_spec
from bipvl.data.splits import read_split
from bipvl.engine.prepare import prepare
from bipvl.engine.profiles import profile_name

data = prepare(profile=profile, dataset=dataset, data_root=data_root, root=Path(runs))
spec = load_spec(dataset)
print(f"{spec.title}: {cohort_of(data)} cohort in {data}")

# %% [markdown]
# ## The split
# The split lists case ids and is drawn once: all runs of a profile use the same cases for training,
# validation and test.

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
# One row per class: a title and five concepts that are visible in a scan.

# %%
pd.DataFrame(default_prompts(spec).rows)

# %% [markdown]
# ## Four training cases

# %%
from IPython.display import Image

from bipvl.figures import samples_table, write

table = samples_table(spec, data, split, profile_name(profile))
Image(write(f"data_samples-{spec.name}", table, Path(figures, profile_name(profile))), width=900)
