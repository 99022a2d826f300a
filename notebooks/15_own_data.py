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
# # Own data: from a folder of scans to a trained network, without code (beyond the paper)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/15_own_data.ipynb)
#
# Makes ten small scans as if they were your own, drafts their dataset YAML and prompt CSV, fills these in,
# then checks, trains, scores and segments; a minute or two on a laptop. Each step is also a command.

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
seed = 0  # of the training
data_root = None  # a folder for the example's files; None: a temporary one

# %% [markdown]
# ## Ten scans of your own
# A ball and a rod in noise, 32³ voxels each, kept as nnU-Net v2 keeps them: `imagesTr/CASE_0000.nii.gz`,
# `labelsTr/CASE.nii.gz` and a `dataset.json`. MSD's form is read too, and any folder in which the names of
# images and label maps tell what belongs together.

# %%
import tempfile

from bipvl.data.synthetic.example import write_example

place = Path(data_root or tempfile.mkdtemp())
folder = write_example(place, progress=False)
print(*sorted(path.relative_to(place) for path in folder.rglob("*00[12]*")), sep="\n")

# %% [markdown]
# ## Draft
# On the command line: `bipvl init-dataset FOLDER`. Codes, spacing, crop and intensities are looked up in the
# files, and a comment says why each was chosen. Correct what is wrong; no file is ever overwritten.

# %%
from bipvl.data.onboarding.draft import draft_dataset

drafted = draft_dataset(folder, place / "shapes.yaml", progress=False)
print(drafted.found, "To fill in:", *drafted.to_fill, "", drafted.yaml, sep="\n")

# %% [markdown]
# ## Nothing unfinished passes
# On the command line: `bipvl check shapes.yaml --data-root FOLDER_ABOVE`. Every fault of every file at once.

# %%
from bipvl.data.checks.dataset import check_dataset, issue_table
from bipvl.data.spec import load_spec

dataset = str(drafted.path)
print(issue_table(check_dataset(load_spec(dataset), place, progress=False)))

# %% [markdown]
# ## Fill in
# In a spreadsheet or an editor; here in a cell. A row a class: its title, and what a reader would see.

# %%
import pandas as pd

from bipvl.common.files import write_csv

texts = {
    "ball": [
        "Solid ball",
        "Patient's left half",
        "Brighter than its surroundings",
        "Sharp, even round",
        "Even",
    ],
    "rod": [
        "Upright cylinder",
        "Patient's right half",
        "Darker than its surroundings",
        "Sharp, straight",
        "Even",
    ],
}
prompts = pd.read_csv(drafted.prompts_path)
prompts.iloc[:, 1:] = list(texts.values())
write_csv(drafted.prompts_path, prompts)
print(len(check_dataset(load_spec(dataset), place, progress=False)), "issues")
pd.read_csv(drafted.prompts_path)

# %% [markdown]
# ## Train and score
# On the command line: `bipvl prepare shapes.yaml`, `bipvl train shapes.yaml bipvlseg`, `bipvl evaluate RUN`,
# each with `--data-root`.

# %%
from bipvl.engine.evaluate import evaluate
from bipvl.engine.prepare import prepare
from bipvl.engine.run import Run
from bipvl.engine.train import train

where = {"profile": profile, "dataset": dataset, "data_root": place, "root": place / "runs"}
prepare(**where)
run = Run.plan(**where, variant="bipvlseg", seed=seed)
train(run, place)
scores = evaluate(run, place)
scores[scores["grid"] == "scan"].pivot(index="case", columns=["metric", "class"], values="value").round(2)

# %% [markdown]
# ## Segment a scan
# On the command line: `bipvl segment SCAN --run RUN -o labels.nii.gz`. A test case here, to show its truth
# beside it.

# %%
from IPython.display import Image

import bipvl
from bipvl import figures as plots
from bipvl.engine.evaluate import test_cases
from bipvl.figures import style

cases = test_cases(run, place)
bipvl.segment(cases[0].images, run, progress=False).save(place / "labels.nii.gz")
origin = {key: run.config[key] for key in ("cohort", "profile")}
origin |= {"seeds": seed, "cases": len(cases), "rule": "the first test case"}
table = plots.slice_table(
    run.spec, cases[0], origin=origin, predictions={run.variant.name: place / "labels.nii.gz"}
)
Image(style.png(plots.draw("qualitative", table)), width=700)
