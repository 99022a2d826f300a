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
# # Predictions of another tool (a row of the paper's main results table)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/12_external.ipynb)
#
# Scores a folder of label maps of another tool, listed under `external:` in `experiments.yaml`, in the same
# way as the predictions of a run. Takes seconds for synthetic scans and minutes for a hundred clinical ones.
#
# It needs that folder, but no run: segment the test cases of the split with the other tool first.

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
dataset = "amos22"  # amos22, mmwhs_ct, mmwhs_mr or msd_brain
name = "nnunet"  # its name under `external:` in notebooks/experiments.yaml
data_root = None  # folder of the real data; None: the synthetic cohort of the profile
runs = "runs"  # folder of the runs

# %% [markdown]
# ## The predictions
# The folder contains one label map `CASE.nii.gz` for each test case of the split, on the scan's own grid, and
# no others. Its `dataset.json`, or `labels` in the YAML file, names the class of each code.

# %%
from bipvl.analysis.external import evaluate_external
from bipvl.analysis.studies import load_experiments
from bipvl.engine.data_root import synthetic_cohort
from bipvl.engine.prepare import prepare
from bipvl.engine.profiles import profile_name

external = load_experiments(profile).external_on(dataset, name)
data = Path(data_root) if data_root else synthetic_cohort(profile, dataset)
if not Path(runs, profile_name(profile), dataset, "split.json").is_file():
    prepare(profile=profile, dataset=dataset, data_root=data_root, root=Path(runs))
print(external)

# %% [markdown]
# ## Evaluate
# All label maps are checked before the first one is scored.

# %%
evaluate_external(external, profile=profile, data_root=data, root=Path(runs)).head()

# %% [markdown]
# ## Result

# %%
from IPython.display import Markdown

from bipvl.analysis.statistics import main_table, read_runs
from bipvl.analysis.tables import main_table_markdown

folders = {dataset: [Path(runs, profile_name(profile), dataset, name, "seed0")]}
Markdown(main_table_markdown(main_table(read_runs(folders))))
