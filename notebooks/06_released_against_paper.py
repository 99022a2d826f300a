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
# # Released against paper (where the authors' code departs from their paper)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/bipvl/bipvl/blob/main/notebooks/06_released_against_paper.ipynb)
#
# Proves, row by row, eighteen places where the authors' public release departs from the paper or is in
# error: what it does, what is right, and the measured difference; about a minute on one core, without data
# or GPU.

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
profile = "quick"  # names the folder of figures; the proofs are the same at every scale
data_root = None  # not needed here
runs = "runs"  # not needed here
study = "main"  # not needed here
figures = "figures"  # where the table is written, below a folder of the profile's name

# %% [markdown]
# ## How to read it
# The release was probed in its state of December 2025; none of its code is run or contained here. `bipvl`
# rebuilds its behaviour: the preset `released` computes what it computes, number for number given the same
# weights, and the preset `paper` (the default) what the paper says. So each number below is computed in
# this notebook, with two exceptions: the column *quoted* holds what the probing saw on the authors' own
# network or files, and what could only be read in their files says so.
#
# How far a proof reaches stands under *shown on*. Formulas, label maps, scores and schedules are exact.
# What was measured on a small random network shows the direction, and its size means nothing for a trained
# one. None of this says what the method can do; it says what a number made with the released code stands
# on. Row 5 is no fault of the release alone: the preset `paper` shares it.
#
# ## All eighteen

# %%
from IPython.display import Image, Markdown

from bipvl.common.files import write_csv, write_text
from bipvl.figures import style
from bipvl.released_code import figures as draw
from bipvl.released_code import proofs, prove, table_markdown

table = proofs()
write_csv(Path(figures, profile, "released_against_paper.csv"), table)
write_text(Path(figures, profile, "released_against_paper.md"), table_markdown(table) + "\n")
assert list(table["row"]) == list(range(1, 19))
Markdown(table_markdown(table))

# %% [markdown]
# # The network
# ## 1. The fusion is never trained and never saved
# A module in a plain Python list is invisible to PyTorch: no optimiser sees its weights, no file holds
# them, and `load_state_dict` does not miss them. In the release all BiFusion blocks and their projections
# sit in such lists, so that the paper's central part stays as random as it began. A saved file, loaded
# elsewhere, meets other random blocks. The preset `released` keeps the blocks in its files, so that a run
# can be repeated, but does not train them; for the loading, they are taken out of the file here.

# %%
found = prove(1).measured
assert found["registered"] == 0
assert found["change_released"] == 0 < found["change_right"]
assert found["agreement_released"] < found["agreement_right"] == 1
assert found["lacking_file_refused"]
prove(1)

# %% [markdown]
# ## 2. The decoder takes features from before the fusion
# What BiFusion makes of a stage is handed to the next stage only; skips and bottleneck come from before it.
# After the last stage nothing reads what was fused. The test is blunt: fill a part with NaN and see who
# notices. (In the release the separate concept texts run through the last text stage too, so their vectors
# do notice that one; logits, class embeddings and visual vectors do not.)

# %%
found = prove(2).measured
assert found["outputs_released"] == 0 and found["outputs_right"] == 4
assert not found["logits_released_last_text_stage"] and found["logits_paper_last_text_stage"]
assert found["logits_released_first_fusion"]
prove(2)

# %% [markdown]
# ## 3. The concepts never meet the image
# The paper aligns concept embeddings that were fused with the image. In the release the concept texts run
# through the text encoder alone, and the text that is fused, the full description, feeds no loss. The
# visual side of the alignment still teaches the vision encoder; its text side teaches nothing but the text
# encoder. To show that this is not row 1 again, the gradient is counted with the fusion trainable.

# %%
found = prove(3).measured
assert found["apart_released"] == 0 < found["apart_right"]
assert found["reached_released"] == 0 and found["reached_right"] == found["tensors"]
prove(3)

# %% [markdown]
# ## 4. The fusion erases the text
# Text tokens enter the block at length 1 and meet an attention without a residual. An untrained attention
# weighs all tokens almost evenly, so each token comes out as the same mean; normalisation then blows up
# what is common. With row 1 in force this is the state for good. The residuals of the paper's figure keep
# the tokens apart.

# %%
found = prove(4).measured
assert found["before"] < 0.5
assert found["after_released"] > 0.999 and found["after_right"] < 0.9
assert found["one_word_released"] < found["one_word_right"]
prove(4)

# %%
Image(style.png(draw.draw_token_cosines()), width=700)

# %% [markdown]
# ## 5. No row of the prompts belongs to a channel of the output
# Attention knows no order, and the words of all classes enter the fusion as one set. So the logits cannot
# depend on which row names which class. This holds in the preset `paper` just as well, since the paper's
# fusion is the same in this respect. The losses tie row c to class c, and only they.

# %%
found = prove(5).measured
assert found["logits_released"] < 1e-4 and found["logits_right"] < 1e-4
assert found["texts_follow"] < 1e-4
assert found["loss_reversed"] > 2 * found["loss"]
prove(5)

# %% [markdown]
# ## 6. Padding is read as words
# Texts of different length are padded to one length, and a mask tells which tokens are none. The release
# passes it to the first text stage only. How much is attended that nobody wrote depends on the prompts and
# their tokeniser, which is why the shares differ from the quoted ones.

# %%
found = prove(6).measured
assert found["padding_full"] > 0 and found["padding_concepts"] > 0
assert found["cosine_released"] < 0.995 and found["cosine_right"] > 0.9999
prove(6)

# %% [markdown]
# # The objective
# ## 7. The hard negatives are the easiest, and a class can be its own
# `topk(largest=False)` takes the least similar classes, the diagonal is not left out, and this part has no
# temperature. With three classes, as in the brain set, all three are always taken, the right one among
# them: once a class is well aligned, the loss pushes it away from its own text.

# %%
found = prove(7).measured
assert abs(found["own_class_at_15"] - 3 / 15) < 0.02 and found["own_class_at_3"] == 1
assert found["slope_released"] > 0 > found["slope_right"]
assert abs(found["floor_released"] - 0.0986) < 1e-4 and found["floor_right"] < 1e-4
assert found["two_classes_crash"]
prove(7)

# %% [markdown]
# ## 8. Concepts are weighed over the wrong axis
# Which concepts of a class fit the image should decide how much each counts: a softmax over its concepts.
# The release takes it over the classes, without temperature. The two weights are recomputed here, and that
# they are the ones in use is seen from the losses' values, which they give back.

# %%
found = prove(8).measured
assert found["worst_sum_right"] < 1e-5 and abs(found["sum_released"] - 6 / 15) < 1e-5
assert found["best_released"] < found["best_right"]
assert found["error"] < 1e-5
prove(8)

# %% [markdown]
# # Labels and protocol
# ## 9. Heart: labels in one order, texts in another
# MM-WHS codes its structures as 205, 420, 500 and so on. The release numbers them in that order; its prompt
# rows begin with the left ventricle, which is 500. So the loss pulls the left ventricle's text to the
# myocardium.

# %%
found = prove(9).measured
assert found["wrong_released"] == 4 and found["right"] == found["classes"] == 7
prove(9)

# %% [markdown]
# ## 10. Brain: the enhancing tumour is the wrong label
# The data set calls label 2 non-enhancing and label 3 enhancing. They are disjoint, so that a perfect network
# trained on the one scores nothing on the other.

# %%
found = prove(10).measured
assert found["dice_released"] == 0 == found["common"] and found["dice_right"] == 1
assert found["other_names_refused"]
prove(10)

# %% [markdown]
# ## 11. Sixteen images against fifteen texts
# Class embeddings are made for every output channel, the background included, but the background has no text.
# The release does not take its row out. Here it is handed to the released loss as the release does it.

# %%
found = prove(11).measured
assert found["rows"] == 16 and found["texts"] == 15 and found["fails"]
prove(11)

# %% [markdown]
# ## 12. The learning rate swings, and the loss weights stand still
# A cosine over 300 epochs, stepped at every iteration, is over after 300 iterations, and PyTorch's
# scheduler then climbs up again. The sᵢ, added after the scheduler had counted the groups, fall with the
# others and are passed over when the rate rises. (The installed version of PyTorch may refuse such a late
# group with an error at this point; then this proof passes over it, as versions without the check did.)
#
# A point against ourselves: at the paper's rate of 1e-4 and over MM-WHS's few steps, the right schedule
# cannot carry s to its optimum either, since Adam moves a parameter by about its rate in each step.

# %%
found = prove(12).measured
assert found["rate_at_300"] < 1e-12 and found["rate_at_600"] > 0.99e-4
assert found["s_rate_after_300"] < 1e-12 and abs(found["s"] + 0.015) < 5e-4
assert abs(found["optimum"] + 1.39) < 0.01
assert found["right_rises"] == 0 and found["weights_scheduled"]
assert found["reach_amos22"] > -found["optimum"] > found["reach_mmwhs"]
prove(12)

# %%
from bipvl.released_code.schedule import T_MAX, released_course, training_cases

course = released_course(training_cases("mmwhs_ct") * T_MAX)
Image(style.png(draw.draw_learning_rates(course.rates)), width=700)

# %% [markdown]
# ## 13. The penalty on s is twice the cited one
# Kendall et al. (2018) derive L/(2σ²) + log σ, which is L/(2eˢ) + s/2 for s = log σ². With + s the optimum is
# eˢ = L/2. Fairly said, once settled this scales all terms alike.

# %%
found = prove(13).measured
assert found["ratio_released"] < 1e-3 and found["ratio_right"] < 1e-3
prove(13)

# %% [markdown]
# ## 14. Scores without unit, and a missed organ that helps
# Without a spacing a distance counts voxels. A class that was missed has no distance, and a mean that skips
# it improves. Dice on the grid that the network works on hides what resampling lost. Surface Dice, a share
# that is better when larger, is called ASD, a distance that is better when smaller. And with the background
# counted, Dice in validation is not Dice in test.

# %%
found = prove(14).measured
assert found["hd95_voxels"] == 3 and found["hd95_mm"] == 6
assert found["mean_missed_released"] < found["mean_released"]
assert found["mean_missed_right"] > found["mean_right"]
assert found["dice_with_background"] > found["dice_classes"]
assert found["dice_own_grid"] < found["dice_working_grid"] == 1
prove(14)

# %% [markdown]
# ## 15. Which cases a number stands on
# A seed fixes a split only where the list that is shuffled is fixed too, and `cudnn.benchmark` lets the
# fastest kernel differ from run to run. The left side is an illustration on 20 names, not a run of the
# release; the right side is what this package promises and its tests hold.

# %%
found = prove(15).measured
assert found["common_by_seed"] < found["test_cases"] == found["common_written"]
assert found["double_refused"] and found["crops_equal"] and found["epochs_differ"]
assert not found["benchmark"]
prove(15)

# %% [markdown]
# # Use
# ## 16. The prompts are read again at every window
# The prompts of a data set never change, and the text layers below the first fusion see no image. Still the
# release tokenises and encodes them at every forward, in seven passes, also for each of the hundreds of
# windows of one scan. Seconds depend on the machine, so work is counted here: sequences through a text
# layer.

# %%
found = prove(16).measured
assert found["windows"] == 294 and found["passes"] == 7
assert found["tokenised_released"] == 294 * found["tokenised_right"] * 2
assert found["ratio"] > 10
prove(16)

# %% [markdown]
# ## 17. Other settings
# The release runs at one batch size, one crop, one width, on one kind of device. Its crashes are not
# rebuilt here; that these settings run in this package is shown. A text encoder of another family is worse
# than a crash: it loads, and is random.

# %%
found = prove(17).measured
assert found["runs"] == found["settings"]
assert found["random"] == found["tensors"] and found["told"]
prove(17)

# %% [markdown]
# ## 18. It cannot be run as it stands
# By its nature this row cannot be executed: the release's faults were read in its files, not run here. What
# can be shown is the other side: every module of this package imports, what it declares is installed, and
# its sources hold no path of anybody's machine.

# %%
found = prove(18).measured
assert found["modules"] > 0 and found["packages"] > 0 and found["private_paths"] == 0
prove(18)

# %% [markdown]
# # Beside the eighteen
# The release uses MONAI's older patch merging, which reads two of the eight corners of each 2 × 2 × 2 block
# twice and two never. It is MONAI's, kept there for old checkpoints, and the preset `released` keeps it
# too.

# %%
from bipvl.model.released import OCTANTS

print(f"corners read: {len(set(OCTANTS))} of 8, in {len(OCTANTS)} readings")
assert len(set(OCTANTS)) == 6
