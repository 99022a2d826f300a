"""The eighteen findings on the public release, as measured by ``bipvl.released_code``."""

import math
import tomllib
from pathlib import Path

import jupytext
import pytest
import torch

from bipvl.model.losses import UncertaintyWeighting, local_alignment_loss
from bipvl.model.released import DoubledPenalty, released_local_alignment_loss
from bipvl.released_code import ROWS, findings, measure, table_markdown
from bipvl.released_code.data import heart_codes
from bipvl.released_code.finding import COLUMNS
from bipvl.released_code.objective import concept_weights, optimal_variance, slope_at_match
from bipvl.released_code.practice import windows_of
from bipvl.released_code.schedule import T_MAX, released_course, training_cases

ROOT = Path(__file__).parents[1]


def measured(row: int) -> dict[str, float]:
    return dict(measure(row).measured)


@pytest.mark.slow
def test_table_has_eighteen_complete_rows():
    table = findings()
    assert list(table["row"]) == list(ROWS) == list(range(1, 19))
    assert list(table) == list(COLUMNS)
    assert table.map(lambda cell: bool(str(cell).strip())).all().all()
    lines = table_markdown(table).splitlines()
    assert len(lines) == 2 + 18
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 1}


def test_measuring_does_not_change_the_random_state():
    before = torch.get_rng_state()
    measure.__wrapped__(5)
    assert torch.equal(before, torch.get_rng_state())


def test_measuring_twice_gives_the_same_numbers():
    for row in (3, 5, 7, 8, 15):
        assert dict(measure.__wrapped__(row).measured) == measured(row)


@pytest.mark.slow
def test_all_assertions_of_the_notebook_hold(tmp_path, monkeypatch):
    """Runs its cells in this process, which caches the measurements."""
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    cells = jupytext.read(ROOT / "notebooks" / "06_released_against_paper.py").cells
    for cell in (c for c in cells if c.cell_type == "code"):
        exec(cell.source, names)
        if "parameters" in cell.metadata.get("tags", []):
            names["figures"] = str(tmp_path)
    text = (tmp_path / "quick" / "released_against_paper.md").read_text(encoding="utf-8")
    assert text == table_markdown(findings()) + "\n"


def test_1_no_fusion_parameter_is_registered_and_their_number_is_as_quoted():
    found = measured(1)
    assert (round(found["blocks_m"], 1), round(found["projections_m"], 1)) == (38.6, 1.1)
    assert found["registered"] == 0
    assert found["change_released"] == 0 and found["change_right"] > 1e-4
    assert found["logits_released"] > 1e-3 and found["logits_right"] == 0
    assert found["incomplete_file_refused"]


def test_2_the_last_stage_affects_no_output_in_the_release_and_all_in_the_paper():
    found = measured(2)
    assert (found["outputs_released"], found["outputs_right"]) == (0, 4)
    assert found["logits_released_last_text_stage"] == 0 and found["logits_paper_last_text_stage"] == 1
    assert found["logits_released_first_fusion"] == found["logits_paper_first_fusion"] == 1


def test_3_texts_of_the_release_reach_no_weight_of_vision_or_fusion():
    found = measured(3)
    assert (found["reached_released"], found["reached_right"]) == (0, found["tensors"])
    assert found["apart_released"] == 0 and found["apart_right"] > 1e-2


def test_4_all_tokens_become_equal_without_residuals():
    found = measured(4)
    assert found["before"] < 0.5 and found["after_right"] < 0.8
    assert found["after_released"] == pytest.approx(1, abs=5e-4)


def test_5_only_the_losses_depend_on_the_prompt_order_in_both_presets():
    found = measured(5)
    assert max(found["logits_released"], found["logits_right"], found["texts_follow"]) < 1e-4
    assert found["loss_reversed"] > 5 > 1 > found["loss"]


def test_6_padding_changes_only_the_vectors_of_the_release():
    found = measured(6)
    assert found["cosine_right"] == pytest.approx(1, abs=1e-5)
    assert found["lowest_released"] < found["cosine_released"] < 0.995


def test_7_the_released_loss_cannot_fall_below_log_3_minus_1():
    found = measured(7)
    assert found["floor_released"] == pytest.approx(math.log(3) - 1, abs=1e-6)
    assert found["floor_right"] == pytest.approx(0, abs=1e-6)


def test_7_slopes_agree_with_the_formula():
    """Three classes with similarity 0.9 to their own text and 0.1 to the others."""
    sharp, plain = (math.exp(0.9 / t) / (math.exp(0.9 / t) + 2 * math.exp(0.1 / t)) for t in (0.2, 1))
    pulled = -(1 - sharp) / 0.2 / 3
    assert slope_at_match(local_alignment_loss) == pytest.approx(pulled, abs=1e-6)
    assert slope_at_match(released_local_alignment_loss) == pytest.approx(pulled + plain / 3, abs=1e-6)
    assert pulled < 0 < pulled + plain / 3


def test_8_weights_sum_to_one_over_the_axis_of_their_softmax():
    released, right, error = concept_weights()
    assert torch.allclose(released.sum(0), torch.ones(6)) and torch.allclose(right.sum(1), torch.ones(15))
    assert error < 1e-5


def test_9_four_heart_structures_get_the_text_of_another():
    theirs = {prompt: structure for prompt, _, structure in heart_codes()}
    assert [p for p, structure in theirs.items() if p == structure] == [
        "right atrium",
        "ascending aorta",
        "pulmonary artery",
    ]
    assert theirs["left ventricle"] == "myocardium of the left ventricle"
    assert all(prompt == ours for prompt, ours, _ in heart_codes())


def test_10_label_2_does_not_overlap_the_enhancing_tumour():
    found = measured(10)
    assert (found["common"], found["dice_released"], found["dice_right"]) == (0, 0, 1)
    assert found["other_names_refused"]


def test_11_sixteen_rows_do_not_match_fifteen_texts():
    found = measured(11)
    assert (found["rows"], found["texts"]) == (16, 15) and "RuntimeError" in found["error"]
    assert math.isfinite(found["loss"])


def test_12_the_rate_is_a_cosine_of_300_iterations_and_that_of_the_weights_stays_zero():
    assert (training_cases("amos22"), training_cases("mmwhs_ct")) == (180, 14)
    course = released_course(14 * T_MAX)
    cosine = [0.5e-4 * (1 + math.cos(math.pi * i / T_MAX)) for i in range(14 * T_MAX)]
    assert course.rates["release"].tolist() == pytest.approx(cosine, abs=1e-12)
    assert course.rates["release_s"].tolist() == pytest.approx(cosine[:T_MAX] + [0] * 13 * T_MAX, abs=1e-12)
    assert course.s == pytest.approx(-0.015, abs=5e-4)
    assert course.stopped_at in (0, T_MAX + 1)  # depends on the version of torch
    assert measured(12)["optimum"] == pytest.approx(-1.386, abs=1e-3)


@pytest.mark.parametrize(("kind", "share"), [(DoubledPenalty, 0.5), (UncertaintyWeighting, 1.0)])
@pytest.mark.parametrize("loss", [0.05, 0.7, 4.0])
def test_13_the_optimal_variance_is_half_the_loss_or_the_loss(loss, kind, share):
    assert optimal_variance(loss, kind) == pytest.approx(share * loss, rel=1e-4)


def test_14_distances_are_in_mm_and_a_missed_organ_scores_the_diagonal():
    found = measured(14)
    assert (found["hd95_voxels"], found["hd95_mm"]) == (3, 6)
    assert (found["mean_released"], found["mean_missed_released"], found["mean_right"]) == (1.5, 0, 3)
    diagonal = math.dist((0, 0, 0), (40 * 1.5, 40 * 1.5, 32 * 2.0))
    assert found["mean_missed_right"] == pytest.approx(diagonal / 2)
    assert found["dice_classes"] == pytest.approx((1 + 0.7) / 2)
    assert found["dice_own_grid"] < 0.9 < found["dice_working_grid"] == 1


def test_15_a_written_split_does_not_depend_on_the_listing_order():
    found = measured(15)
    assert found["common_written"] == found["test_cases"] == 4 > found["common_by_seed"]
    assert found["double_refused"] and found["crops_equal"] and found["epochs_differ"]


def test_16_prompts_are_encoded_once_or_294_times_seven():
    found = measured(16)
    assert found["windows"] == windows_of((240, 240, 200)) == 294
    layers, classes, passes = 12, 7, 7
    assert found["layers_released"] == 294 * passes * classes * layers
    assert found["layers_right"] == classes * (6 + 294 * 6)  # six layers before the first fusion, six after
    assert found["tokenised_right"] == classes * 6


def test_17_other_settings_run_and_a_random_text_encoder_is_refused():
    found = measured(17)
    assert found["runs"] == found["settings"] == 5
    assert found["random"] == found["tensors"] > 200 and found["refusal"]


def test_18_every_module_imports_and_no_private_path_is_in_the_sources():
    found = measured(18)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert found["packages"] == len(declared) >= 8
    assert found["modules"] >= 60 and found["private_paths"] == 0
    assert "read" in measure(18).released
