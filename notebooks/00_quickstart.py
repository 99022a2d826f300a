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
# # Quickstart: segment one scan with a trained BiPVL-Seg
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/00_quickstart.ipynb)
#
# Opens a trained run, segments an unseen test case and shows the result next to the truth. Takes seconds on a
# laptop, or minutes if it must train a run first.
#
# The run below was trained on synthetic anatomy. For real patients (MR of the hippocampus, 27 MB, downloaded
# if they are missing), set `run = "runs/quick/msd_hippocampus/bipvlseg/seed0"` and `data_root = "data"`.

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
run = "runs/quick/mmwhs_ct/bipvlseg/seed0"  # folder of a trained run
data_root = None  # folder of the real data; None: the synthetic cohort of the profile
prompts = None  # your own prompt CSV; None: that of the data set. Change a sentence and see the mask change.
output = "runs/quickstart.nii.gz"  # the segmentation, in the data set's label codes

# %% [markdown]
# ## The trained run
# `config.json` lists all settings of the run; `model/` contains its network. If the run does not exist, as on
# Colab, it is prepared and trained first (minutes). Its folder must be named
# `…/PROFILE/DATASET/VARIANT/seedK`.

# %%
from bipvl.engine.quickstart import trained_run

trained = trained_run(run, data_root)
print(
    f"{trained.variant.title} on {trained.spec.title}, {trained.config['cohort']} cohort, "
    f"profile {trained.config['profile']}, seed {trained.config['seed']}"
)

# %% [markdown]
# ## Segment the first test case
# `bipvl.segment` accepts a scan of any orientation and spacing and returns the labels on the scan's own grid.

# %%
import bipvl
from bipvl.engine.evaluate import test_cases

data = data_root or f"data/synthetic-{trained.config['profile']}"
cases = test_cases(trained, data)
bipvl.segment(cases[0].images, trained, prompts, progress=False).save(output)
print(f"{cases[0].image} -> {output}")

# %% [markdown]
# ## Look at the result
# Open the file in any NIfTI viewer, or look at one slice here.

# %%
from IPython.display import Image

from bipvl.figures import draw, slice_table, style

origin = {
    "cohort": trained.config["cohort"],
    "profile": trained.config["profile"],
    "seeds": trained.config["seed"],
    "cases": len(cases),
    "rule": "the first test case",
}
table = slice_table(trained.spec, cases[0], origin=origin, predictions={trained.variant.name: Path(output)})
Image(style.png(draw("qualitative", table)), width=700)
