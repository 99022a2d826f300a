"""The reading test: its volumes and prompts, the ceiling without reading, and what a run writes."""

from dataclasses import replace
from itertools import product

import pandas as pd
import pytest
import torch

from bipvl.analysis.reading import reading_summary, reading_table
from bipvl.analysis.studies import Study, reading_folders
from bipvl.common.errors import BipvlError
from bipvl.data.synthetic.balls import KINDS, LEVELS, WORDINGS, prompt, volume_of
from bipvl.engine import reading
from bipvl.engine.reading import HELD_OUT, LANGUAGE, NETWORK, prompt_changes, run_reading, text_blind_ceiling
from bipvl.figures import draw
from bipvl.model.bipvlseg import BiPVLSeg

STUDY = Study(
    name="reading",
    profile="smoke",
    title="Reading",
    question="Does it read?",
    datasets=(),
    variants=("bipvlseg", "bipvlseg-modulated"),
    external=(),
    seeds=(0,),
    notebooks=(),
)


def network(**options):
    torch.manual_seed(0)
    return BiPVLSeg.create(**NETWORK | LANGUAGE | options)


# --- the volumes ---


def test_the_four_balls_are_apart_and_have_their_kinds_size_and_intensity():
    for index in range(5):
        image, masks = volume_of(3, index)
        assert image.shape == (1, 32, 32, 32) and masks.shape == (4, 32, 32, 32)
        assert masks.sum(0).max() == 1
        for kind, mask in zip(KINDS, masks, strict=True):
            radius = (3 * mask.sum() / (4 * torch.pi)) ** (1 / 3)
            assert radius == pytest.approx(6 if kind.size == "large" else 3, abs=0.7)
            assert image[0][mask].mean() == pytest.approx(LEVELS[kind.level], abs=0.1)
    assert abs(image[0][~masks.any(0)].mean()) < 0.02


def test_a_volume_depends_on_its_seed_and_index_only():
    assert torch.equal(volume_of(1, 2)[0], volume_of(1, 2)[0])
    assert not torch.equal(volume_of(1, 2)[0], volume_of(1, 3)[0])
    assert not torch.equal(volume_of(1, 2)[0], volume_of(2, 2)[0])


def test_without_a_ball_everything_else_stays():
    image, masks = volume_of(0, 0)
    other, fewer = volume_of(0, 0, absent=KINDS[1])
    assert not fewer[1].any() and torch.equal(fewer[[0, 2, 3]], masks[[0, 2, 3]])
    assert torch.equal(other[0][~masks[1]], image[0][~masks[1]])
    assert abs(other[0][masks[1]].mean()) < 0.1


def test_every_wording_names_the_kind_and_synonyms_share_no_word_with_the_training():
    trained = {word for kind in KINDS for text in prompt(kind)[0] for word in text.lower().split()}
    for kind in KINDS:
        title = prompt(kind)[0][0].lower()
        assert kind.size in title and kind.level in title
        words = {word for text in prompt(kind, "synonyms")[0] for word in text.lower().split()}
        assert not words & trained
    for wording in WORDINGS:
        assert len({str(prompt(kind, wording)) for kind in KINDS}) == 4


# --- the ceiling ---


def test_the_ceiling_is_the_best_dice_of_any_mask_that_is_the_same_for_all_prompts():
    best = 0.0
    for chosen in product((False, True), repeat=4):
        dice = []
        for index in range(8):
            sizes = volume_of(2**31, index)[1].sum((1, 2, 3)).tolist()
            total = sum(size for size, taken in zip(sizes, chosen, strict=True) if taken)
            dice += [2 * n / (total + n) if taken else 0 for n, taken in zip(sizes, chosen, strict=True)]
        best = max(best, sum(dice) / len(dice))
    assert text_blind_ceiling(8) == pytest.approx(best, abs=1e-5)


# --- the networks ---


def test_without_fusion_the_paper_s_head_cannot_hear_the_prompt_and_the_modulated_one_can():
    deaf = prompt_changes(network(fused_stages=())).set_index("place")["change"]
    assert (deaf == 0).all()
    hears = prompt_changes(network(fused_stages=(), head="modulated")).set_index("place")["change"]
    assert hears["logits"] > 0 and (hears.drop("logits") == 0).all()


def test_the_fused_features_change_with_the_prompt_more_than_the_decoders():
    changes = prompt_changes(network()).set_index("place")["change"]
    assert list(changes.index) == [
        "fused features, stage 1",
        "fused features, stage 2",
        "bottleneck",
        "decoder at 1/4",
        "decoder at 1/2",
        "decoder at 1/1",
        "logits",
    ]
    assert changes["fused features, stage 2"] > changes["decoder at 1/2"] > changes["decoder at 1/1"] > 0


@pytest.fixture(scope="module", autouse=True)
def few_volumes():
    """Two test volumes, and one check during a training."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"TEST_VOLUMES": 2, "CHECK_VOLUMES": 2, "CHECKS": 1}.items():
            patch.setattr(reading, name, value)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory, few_volumes):
    root = tmp_path_factory.mktemp("runs")
    for folder, variant in zip(reading_folders(STUDY, root), STUDY.variants, strict=True):
        run_reading(folder, variant, 0, 2, progress=False)
    return root


def test_a_run_has_every_test_and_is_done_once(runs):
    folder = reading_folders(STUDY, runs)[1]
    scores = pd.read_csv(folder / "scores.csv")
    assert len(scores) == len(KINDS) * (len(WORDINGS) + 1)
    assert scores[~scores["present"]]["dice"].isna().all() and scores["empty"].between(0, 1).all()
    before = (folder / "scores.csv").stat().st_mtime_ns
    run_reading(folder, STUDY.variants[1], 0, 2, progress=False)
    assert (folder / "scores.csv").stat().st_mtime_ns == before


def test_the_same_seed_gives_the_same_bytes(runs, tmp_path):
    run_reading(tmp_path, STUDY.variants[0], 0, 2, progress=False)
    for name in ("history.csv", "scores.csv", "changes.csv"):
        assert (tmp_path / name).read_bytes() == (reading_folders(STUDY, runs)[0] / name).read_bytes()


def test_the_held_out_combination_is_made_of_words_that_are_trained():
    others = [kind for kind in KINDS if kind != HELD_OUT]
    assert HELD_OUT.size in {k.size for k in others} and HELD_OUT.level in {k.level for k in others}


# --- tables and figures ---


def test_the_summary_takes_the_dice_of_wordings_and_empty_masks_of_absent_balls():
    rows = [
        ("a", 0, "as trained", True, 0.8, 0.0),
        ("a", 1, "as trained", True, 0.6, 0.5),
        ("a", 0, "as trained", False, float("nan"), 0.25),
    ]
    columns = ["variant", "seed", "wording", "present", "dice", "empty"]
    summary = reading_summary(pd.DataFrame(rows, columns=columns)).set_index("test")
    assert summary.loc["as trained", ["value", "low", "high", "seeds"]].tolist() == [0.7, 0.6, 0.8, 2]
    assert summary.loc["absent ball", "value"] == 0.25


def test_the_figures_show_every_variant(runs):
    history = draw("reading", reading_table(STUDY, runs, "history"))
    labels = [text.get_text() for text in history.legends[0].get_texts()]
    assert labels == ["BiPVL-Seg", "BiPVL-Seg, modulated head"]
    assert len(draw("reading_wordings", reading_table(STUDY, runs, "scores")).axes) >= len(WORDINGS) + 1
    assert draw("reading_changes", reading_table(STUDY, runs, "changes")).legends


def test_a_missing_run_is_named_with_its_command(tmp_path):
    with pytest.raises(
        BipvlError, match="is missing; create it with: make reproduce PROFILE=smoke STUDY=reading"
    ):
        reading_table(STUDY, tmp_path, "scores")


def test_a_study_without_seeds_at_a_profile_says_so(tmp_path):
    with pytest.raises(BipvlError, match="study 'reading' has no seeds for profile 'smoke'; add some"):
        reading_table(replace(STUDY, seeds=()), tmp_path, "scores")
