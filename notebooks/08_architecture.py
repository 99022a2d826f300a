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
# # Architecture (the paper's figure of the network and BiFusion)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/08_architecture.ipynb)
#
# Builds the network of a profile and draws it from its modules, with the output size and the parameters of
# each block. Takes seconds and needs no data, training or GPU.

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
study = "main"  # not needed here
data_root = None  # not needed here
runs = "runs"  # not needed here
figures = "figures"  # figures are written to a subfolder named after the profile
dataset = "mmwhs_mr"  # decides the channels, the classes and their prompts
variant = "bipvlseg"  # any variant that reads prompts

# %% [markdown]
# ## The network
# This is the network at the start of a training. If the profile's text encoder cannot be loaded (`paper`
# loads PubMedBERT from the hub), one of BERT-base size with random weights replaces it, and the figure says
# so. A forward pass on PyTorch's `meta` device, which computes shapes only, gives the output sizes.

# %%
from bipvl.data.spec import load_spec
from bipvl.engine.profiles import dataset_settings, profile_name
from bipvl.engine.variants import get_variant
from bipvl.figures import write
from bipvl.figures.architecture_table import architecture_table, structural_network
from bipvl.figures.bifusion_table import bifusion_table

spec, chosen = load_spec(dataset), get_variant(variant)
settings = dataset_settings(profile, spec)
network, note = structural_network(chosen, spec, settings)
blocks = architecture_table(network, spec, settings["crop"], profile_name(profile), variant=chosen, note=note)
blocks[["id", "shape", "parameters", "state", "feeds"]]

# %%
from IPython.display import Image

folder = Path(figures, profile_name(profile))
Image(write("architecture", blocks, folder), width=900)

# %% [markdown]
# ## One BiFusion block
# The steps of the first block, in the order of computation. The other blocks differ only in their widths.

# %%
stage = network.first_fused
steps = bifusion_table(network.fusions[stage - 1], stage, profile_name(profile), variant=variant)
Image(write("bifusion", steps, folder), width=900)
