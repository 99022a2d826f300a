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
# # One run: train and evaluate a network (a cell of the paper's main results table)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/02_run.ipynb)
#
# Trains one variant on one data set with one seed, scores it on the test cases and shows its scores and
# curves. Takes one to a few minutes at `quick`; an interrupted run resumes.

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
variant = "bipvlseg"  # or another variant, such as swin_unetr_v2
seed = 0
data_root = None  # folder of the real data; None: the synthetic cohort of the profile
runs = "runs"  # folder of the runs

# %% [markdown]
# ## The run
# `config.json` in the run's folder lists every setting that affects the result.

# %%
import json

from bipvl.engine.data_root import synthetic_cohort
from bipvl.engine.prepare import prepare
from bipvl.engine.run import Run

data = Path(data_root) if data_root else synthetic_cohort(profile, dataset)
run = Run.plan(profile=profile, dataset=dataset, variant=variant, seed=seed, data_root=data, root=Path(runs))
if not run.split_path.is_file():
    prepare(profile=profile, dataset=dataset, data_root=data_root, root=Path(runs))
print(run.directory)
print(json.dumps(run.config, indent=1))

# %% [markdown]
# ## Train

# %%
from bipvl.engine.train import train

train(run, data)

# %% [markdown]
# ## Evaluate

# %%
from bipvl.engine.evaluate import evaluate

evaluate(run, data).head()

# %% [markdown]
# ## Result

# %%
from IPython.display import Image, Markdown

from bipvl.analysis.statistics import main_table, read_runs
from bipvl.analysis.tables import main_table_markdown
from bipvl.figures import draw, style, training_curves

folders = {run.spec.name: [run.directory]}
Markdown(main_table_markdown(main_table(read_runs(folders))))

# %%
Image(style.png(draw("training_curves", training_curves(folders))), width=500)

# %%
manifest = json.loads((run.directory / "manifest.json").read_text(encoding="utf-8"))
for phase, cost in manifest["phases"].items():
    print(f"{phase}: {cost['seconds']} s, at most {cost['peak_memory_gib']} GiB")
