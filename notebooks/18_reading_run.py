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
# # Does it read? One training of the reading test (beyond the paper)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/18_reading_run.ipynb)
#
# Trains one variant to segment the ball that its prompt names, and tests it. Takes two minutes at `quick`,
# a few more at other profiles. [17_reading](17_reading.ipynb) compares the variants.

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
study = "reading"  # reading, or reading_held_out: one combination of words is never trained
variant = "bipvlseg-modulated"  # or another variant that reads prompts
seed = 0
data_root = None  # not used: the volumes are drawn
runs = "runs"  # folder of the runs

# %% [markdown]
# ## A volume and its four prompts
# All four balls are in every volume. Only the prompt says which one is the target.

# %%
from IPython.display import Image
from matplotlib.figure import Figure

from bipvl.data.synthetic.balls import KINDS, prompt, volume_of
from bipvl.figures import style

image, masks = volume_of(seed, 0)
figure = Figure(figsize=(style.WIDTH, 2))
for axes, kind, mask in zip(figure.subplots(1, len(KINDS)), KINDS, masks, strict=True):
    layer = int(mask.sum((0, 1)).argmax())  # where the ball is largest
    axes.imshow(image[0, :, :, layer], cmap="gray", vmin=-1.3, vmax=1.3)
    axes.contour(mask[:, :, layer], [0.5], colors="#e69f00")
    axes.set_title(prompt(kind)[0][0], fontsize=8)
    axes.set_axis_off()
Image(style.png(figure), width=700)

# %% [markdown]
# ## Train and test

# %%
from bipvl.engine.profiles import get_profile, profile_name
from bipvl.engine.reading import run_reading, text_blind_ceiling

folder = Path(runs, profile_name(profile), study, variant, f"seed{seed}")
run_reading(folder, variant, seed, get_profile(profile).reading_steps, held_out=study == "reading_held_out")
print(f"The best Dice without reading the prompt: {text_blind_ceiling():.3f}")

# %%
import pandas as pd

scores = pd.read_csv(folder / "scores.csv")
scores.pivot_table(index="kind", columns=["present", "wording"], values=["dice", "empty"], sort=False).round(
    3
)
