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
# Opens a trained run, segments a test case that it has never seen, and shows the result beside the truth;
# seconds on a laptop, minutes where it must train one first.

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
run = "runs/quick/mmwhs_ct/bipvlseg/seed0"  # the folder of a trained run
data_root = None  # the folder of the real data; None: the synthetic cohort of the profile
prompts = None  # a prompt CSV of your own; None: the dataset's. Change a sentence and see the mask change.
output = "runs/quickstart.nii.gz"  # the segmentation, in the dataset's own label codes

# %% [markdown]
# ## The trained run
# What `config.json` says decides the result; the network loads from `model/`. Where nothing is trained yet,
# as on Colab, a run named as `…/PROFILE/DATASET/VARIANT/seedK` is prepared and trained first (minutes).

# %%
from bipvl.engine.quickstart import trained_run

trained = trained_run(run, data_root)
print(
    f"{trained.variant.title} on {trained.spec.title}, {trained.config['cohort']} cohort, "
    f"profile {trained.config['profile']}, seed {trained.config['seed']}"
)

# %% [markdown]
# ## Segment the first test case
# `bipvl.segment` accepts any scan of the data set's kind, with any orientation and spacing, and returns the
# labels on the scan's own grid.

# %%
import bipvl
from bipvl.engine.evaluate import test_cases

data = data_root or f"data/synthetic-{trained.config['profile']}"
cases = test_cases(trained, data)
result = bipvl.segment(cases[0].images, trained, prompts, progress=False)
result.save(output)
print(f"{cases[0].image} -> {output}")

# %% [markdown]
# ## Look at it
# Open the file in any viewer of NIfTI scans, or look at one slice here.

# %%
from IPython.display import Image

from bipvl import figures as plots
from bipvl.figures import style

origin = {
    "cohort": trained.config["cohort"],
    "profile": trained.config["profile"],
    "seeds": trained.config["seed"],
    "cases": len(cases),
    "rule": "the first test case",
}
table = plots.slice_table(
    trained.spec, cases[0], origin=origin, predictions={trained.variant.name: Path(output)}
)
Image(style.png(plots.draw("qualitative", table)), width=700)
