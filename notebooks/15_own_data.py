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
# # Your own data: from a folder of scans to a trained network, without code (beyond the paper)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/15_own_data.ipynb)
#
# Writes ten small scans in place of yours, creates the initial YAML and prompt CSV of the data set, completes
# them, then checks, trains, scores and segments. Takes a minute or two on a laptop. Each step is also a
# command.

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
seed = 0  # of the training
data_root = None  # folder for the files of the example; None: a temporary one

# %% [markdown]
# ## Ten scans in place of yours
# A ball and a rod in noise, 32³ voxels, in the layout of nnU-Net v2: `imagesTr/CASE_0000.nii.gz`,
# `labelsTr/CASE.nii.gz` and a `dataset.json`. The layout of MSD also works, and so does any folder whose file
# names show which label map belongs to which image.

# %%
import tempfile

from bipvl.data.synthetic.example import write_example

place = Path(data_root or tempfile.mkdtemp())
folder = write_example(place, progress=False)
print(*sorted(path.relative_to(place) for path in folder.rglob("*00[12]*")), sep="\n")

# %% [markdown]
# ## Create the data set files
# On the command line: `bipvl init-dataset FOLDER`. Codes, spacing, crop and intensities are read from the
# scans, and a comment explains each choice. Correct them if needed; existing files are never overwritten.

# %%
from bipvl.data.onboarding.draft import draft_dataset

drafted = draft_dataset(folder, place / "shapes.yaml", progress=False)
print(drafted.found, "To fill in:", *drafted.to_fill, "", drafted.yaml, sep="\n")

# %% [markdown]
# ## Check
# On the command line: `bipvl check shapes.yaml --data-root PARENT_FOLDER`. It lists every issue of every
# file, including incomplete ones.

# %%
from bipvl.data.checks.dataset import check_dataset, issue_table
from bipvl.data.spec import load_spec

dataset = str(drafted.path)
print(issue_table(check_dataset(load_spec(dataset), place, progress=False)))

# %% [markdown]
# ## Complete the files
# Use a spreadsheet or an editor; here it is a cell. One row per class: its title, and what is visible in a
# scan.

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
# On the command line: `bipvl segment SCAN --run RUN -o labels.nii.gz`. Here it is a test case, so that its
# truth can be shown too.

# %%
from IPython.display import Image

import bipvl
from bipvl.engine.evaluate import test_cases
from bipvl.figures import draw, slice_table, style

cases = test_cases(run, place)
bipvl.segment(cases[0].images, run, progress=False).save(place / "labels.nii.gz")
origin = {key: run.config[key] for key in ("cohort", "profile")}
origin |= {"seeds": seed, "cases": len(cases), "rule": "the first test case"}
table = slice_table(
    run.spec, cases[0], origin=origin, predictions={run.variant.name: place / "labels.nii.gz"}
)
Image(style.png(draw("qualitative", table)), width=700)
