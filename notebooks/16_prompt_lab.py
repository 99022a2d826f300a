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
# # Prompt lab: edit a text and see what changes (the paper's concept prompts)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/16_prompt_lab.ipynb)
#
# Shows a case in 3D, then how edits of one concept's text change the mask, the similarities and the word
# attention of a class. JupyterLab adds a form for your own texts. Takes seconds on a laptop, or minutes if it
# must train a run first.

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
run = "runs/quick/mmwhs_ct/bipvlseg/seed0"  # folder of a trained run whose network reads prompts
data_root = None  # folder of the real data; None: the synthetic cohort of the profile
case = None  # id of a test case; None: the first
structure = None  # name of a class; None: the first
concept = "Location"  # the column of the prompts to edit
text = None  # your own text for it, shown with the edits
word = None  # the word whose attention is shown; None: the name of the class
output = "runs/prompt_lab.nii.gz"  # the segmentation, in the data set's label codes

# %% [markdown]
# ## The trained run and the case
# If the run does not exist, as on Colab, it is prepared and trained first (minutes). Its folder must be named
# `…/PROFILE/DATASET/VARIANT/seedK`.

# %%
from bipvl.analysis.word_attention import head_noun
from bipvl.common.lookup import choose
from bipvl.engine.evaluate import test_cases
from bipvl.engine.quickstart import trained_run
from bipvl.figures.interactive.prompt_lab import Lab, some_edits, with_text

trained = trained_run(run, data_root)
lab = Lab(run=trained)
cases = {c.id: c for c in test_cases(trained, data_root or f"data/synthetic-{trained.config['profile']}")}
shown = choose("test case", case or next(iter(cases)), cases)
classes = {c.name: row for row, c in enumerate(lab.spec.classes)}
row = choose("class", structure or next(iter(classes)), classes)
word = word or head_noun(lab.texts[row][0])
origin = (
    f"{trained.variant.title} on {trained.spec.title}, case {shown.id}, {trained.config['cohort']} cohort, "
    f"profile {trained.config['profile']}, seed {trained.config['seed']}."
)
print(origin)

# %% [markdown]
# ## The case
# The scan with the truth, the prediction and the word attention (in a window around the class): in 3D in
# JupyterLab, as three slices without a front end.

# %%
import bipvl
from bipvl.figures.interactive.viewer import has_front_end, view

bipvl.segment(shown.images, trained, progress=False).save(output)
window = lab.window(shown, row)
answer = lab.ask(window, lab.texts, word)
view(
    shown.image,
    truth=shown.label,
    prediction=output,
    attention=lab.attention_image(window, answer, stage=max(answer.attention)),
    spec=lab.spec,
    caption=f"{origin} Attention of “{word}”, last stage.",
)

# %% [markdown]
# ## One concept, edited
# The first row is the text that the network was trained with. "Paraphrased" has the same meaning; all other
# edits remove information or are wrong.

# %%
from IPython.display import Image

from bipvl.figures import draw, style

asked = some_edits(lab.texts, row, concept)
if text:
    asked["yours"] = with_text(lab.texts, row, concept, text)
table = lab.table(window, asked, word, concept)
Image(style.png(draw("prompt_lab", table)), width=900)

# %% [markdown]
# ## Your own text
# Choose a case, class and concept, type a text and press Show. Words of your text can be chosen too.

# %%
from IPython.display import display

from bipvl.figures.interactive.prompt_lab_form import LabForm

if has_front_end():
    display(LabForm(lab=lab, cases=list(cases.values())))
else:
    print("Open this notebook in JupyterLab to type here.")
