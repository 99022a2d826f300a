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
# # Another tool's predictions (a row of the paper's main results table)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/12_external.ipynb)
#
# Scores a folder of label maps that another tool wrote, named under `external:` in `experiments.yaml`, as a
# run's predictions are scored; seconds for synthetic scans, minutes for a hundred of clinical size.
#
# That folder must be there, no run: the other tool segments the split's test cases first.

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
dataset = "amos22"  # amos22, mmwhs_ct, mmwhs_mr or msd_brain
name = "nnunet"  # under `external:` in notebooks/experiments.yaml
data_root = None  # the folder of the real data; None: the synthetic cohort of the profile
runs = "runs"  # where runs are kept

# %% [markdown]
# ## The predictions
# A folder holds one label map for each test case of the split, `CASE.nii.gz`, on the scan's own grid, and no
# others. Which code is which class its `dataset.json` says by name, or `labels` in the YAML file.

# %%
from bipvl.analysis.external import evaluate_external, get_external
from bipvl.analysis.studies import load_experiments
from bipvl.engine.data_root import synthetic_cohort
from bipvl.engine.prepare import prepare
from bipvl.engine.profiles import profile_name

external = get_external(load_experiments(profile).external.values(), name, dataset)
data = Path(data_root) if data_root else synthetic_cohort(profile, dataset)
if not Path(runs, profile_name(profile), dataset, "split.json").is_file():
    prepare(profile=profile, dataset=dataset, data_root=data_root, root=Path(runs))
print(external)

# %% [markdown]
# ## Evaluate
# All label maps are checked before the first is scored.

# %%
evaluate_external(external, profile=profile, data_root=data, root=Path(runs)).head()

# %% [markdown]
# ## Result

# %%
from IPython.display import Markdown

from bipvl.analysis import statistics, tables

folders = {dataset: [Path(runs, profile_name(profile), dataset, name, "seed0")]}
Markdown(tables.main_table_markdown(statistics.main_table(statistics.read_runs(folders))))
