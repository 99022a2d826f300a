"""The prompt lab: its answers compared with the network's output, its tables, and its form."""

import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from bipvl import figures
from bipvl.analysis.word_attention import head_noun, word_attention
from bipvl.common.errors import BipvlError
from bipvl.data.prompts import COLUMNS
from bipvl.engine.evaluate import test_cases as cases_of
from bipvl.engine.run import Run
from bipvl.figures.interactive.prompt_lab import TRAINED, Lab, column, some_edits, with_text
from bipvl.figures.slice_tables import read_slices
from bipvl.model.losses import TEMPERATURE

TEXTS = [["Left ventricle", "Shape: round", "Location: left"], ["Aorta", "Shape: a tube", "Location: right"]]


@pytest.fixture(scope="module")
def run(smoke_runs):
    return Run.open(smoke_runs.runs / smoke_runs.profile / smoke_runs.dataset / "bipvlseg" / "seed0")


@pytest.fixture(scope="module")
def cases(run, smoke_runs):
    return cases_of(run, smoke_runs.data_root)


@pytest.fixture(scope="module")
def lab(run):
    return Lab(run=run)


@pytest.fixture(scope="module")
def window(lab, cases):
    return lab.window(cases[0], 0)


def test_an_edit_changes_one_text_of_one_class():
    changed = with_text(TEXTS, 1, "Shape", "  a bent tube ")
    assert changed == [TEXTS[0], ["Aorta", "Shape: a bent tube", "Location: right"]]
    assert with_text(TEXTS, 0, "Title", "Heart")[0] == ["Heart", *TEXTS[0][1:]]
    assert TEXTS[1][1] == "Shape: a tube"  # unchanged


@pytest.mark.parametrize("concept", COLUMNS)
def test_the_shown_edits_change_only_the_chosen_text(lab, concept):
    edits = some_edits(lab.texts, 2, concept)
    assert next(iter(edits)) == TRAINED and edits.pop(TRAINED) == lab.texts
    assert "paraphrased" in edits
    place = column(lab.texts, concept)
    for texts in edits.values():
        differ = [(c, k) for c, row in enumerate(texts) for k, t in enumerate(row) if t != lab.texts[c][k]]
        assert differ == [(2, place)]


def test_impossible_edits_are_refused_with_a_message(lab):
    with pytest.raises(BipvlError, match="no column of the prompts 'Locaton'; choose one of: Location"):
        with_text(lab.texts, 0, "Locaton", "left")
    with pytest.raises(BipvlError, match="the text of 'Shape' is empty; write"):
        with_text(lab.texts, 0, "Shape", "  ")
    with pytest.raises(BipvlError, match="trained with titles only, without 'Shape'; edit the Title"):
        with_text([["Aorta"], ["Spleen"]], 0, "Shape", "round")


def test_a_text_that_is_too_long_for_the_encoder_is_refused(lab, window):
    texts = with_text(lab.texts, 0, "Shape", "round " * 2000)
    with pytest.raises(BipvlError, match="tokens, and the text encoder reads"):
        lab.ask(window, texts, "ventricle")


@torch.no_grad()
def test_an_answer_equals_the_output_of_the_network(lab, window):
    texts = with_text(lab.texts, 0, "Shape", "a long flat ribbon")
    answer = lab.ask(window, texts, "Ribbon")
    volume = window.image[None].to(lab.device)
    labels = lab.network.predict(volume, texts)[0].argmax(0).cpu()
    assert answer.masks.shape == window.truth.shape
    for row, mask in enumerate(answer.masks):
        assert torch.equal(mask, labels == row + 1)
    true, found = window.truth[0], labels == 1
    assert answer.dice == pytest.approx(float(2 * (true & found).sum() / (true.sum() + found.sum())))
    output = lab.network(volume, texts)
    visual, text = normalize(output.visual[0], dim=-1), normalize(output.text[0, 0], dim=-1)
    weights = (text @ visual[0] / TEMPERATURE).softmax(0)
    expected = normalize(weights @ text, dim=0) @ visual.T
    np.testing.assert_allclose(answer.similarity, expected.cpu(), atol=1e-5)
    for stage, attention in word_attention(lab.network, volume, texts, 0, "ribbon").items():
        np.testing.assert_allclose(answer.attention[stage], attention.numel() * attention.cpu(), rtol=1e-5)
        assert answer.attention[stage].mean() == pytest.approx(1, abs=1e-4)


def test_a_word_that_is_not_in_the_text_has_no_attention(lab, window):
    assert lab.ask(window, lab.texts, "ribbon").attention == {}
    assert "ribbon" in lab.words(with_text(lab.texts, 0, "Shape", "Ribbon"), 0)
    with pytest.raises(BipvlError, match="has the word 'ribbon'; choose one of: left, ventricle"):
        lab.table(window, {TRAINED: lab.texts}, "ribbon", "Shape")


def test_the_window_contains_the_class_and_a_case_without_it_is_refused(lab, window, cases, run, tmp_path):
    assert tuple(window.image.shape[1:]) == tuple(run.config["crop"])
    assert window.truth[0, ..., window.slice].sum() == window.truth[0].sum((0, 1)).max() > 0
    label = nib.load(cases[0].label)
    codes = np.asarray(label.dataobj).copy()
    codes[np.isin(codes, lab.spec.classes[0].codes)] = 0
    nib.save(nib.Nifti1Image(codes, label.affine, label.header), tmp_path / "label.nii.gz")
    other = replace(cases[0], label=tmp_path / "label.nii.gz")
    with pytest.raises(BipvlError, match=f"{other.id} has no {lab.spec.classes[0].name}; choose one of"):
        lab.window(other, 0)


def test_a_run_that_reads_no_prompts_is_refused(smoke_runs, run, tmp_path):
    with pytest.raises(BipvlError, match="seed0: is a run of SwinUNETR-V2, which reads no prompts; give"):
        Lab(run=Run.open(run.directory.parents[1] / "swin_unetr_v2" / "seed0"))
    shutil.copy(run.directory / "config.json", tmp_path)
    with pytest.raises(BipvlError, match=r"no trained network .*; train it first"):
        Lab(run=Run.open(tmp_path))


@pytest.fixture(scope="module")
def table(lab, window):
    return lab.table(window, some_edits(lab.texts, 0, "Shape"), head_noun(lab.texts[0][0]), "Shape")


def test_a_table_reports_the_changes_from_the_first_answer(lab, window, table):
    first, *others = read_slices(table)
    assert first.facts["changed"] == 0 and first.facts["edit"] == TRAINED
    trained = lab.ask(window, lab.texts, "ventricle")
    for this in others:
        texts = some_edits(lab.texts, 0, "Shape")[this.facts["edit"]]
        answer = lab.ask(window, texts, "ventricle")
        assert this.facts["changed"] == int((answer.masks != trained.masks).any(0).sum())
        assert this.facts["text"] == texts[0][column(texts, "Shape")]
        assert this.facts["similarity_1"] == pytest.approx(float(answer.similarity[0]))
        assert this.facts["similarity_1"] != first.facts["similarity_1"]


def test_pixels_show_the_patient_facing_the_viewer(lab, window, table):
    this = read_slices(table)[0]
    truth = window.truth[0, ..., window.slice].numpy()  # right × front
    np.testing.assert_array_equal(this.masks["truth"] == 1, truth.T[::-1, ::-1])
    assert this.image.shape == this.masks["stage_1"].shape == truth.T.shape
    answer = lab.ask(window, lab.texts, "ventricle")
    block = [side // 4 for side in window.image.shape[1:]]
    blocks = np.kron(answer.attention[1], np.ones(block))
    expected = 100 * blocks[..., window.slice].T[::-1, ::-1]
    np.testing.assert_allclose(this.masks["stage_1"], expected, atol=0.51)


def test_redrawing_the_figure_from_its_csv_gives_the_same_bytes(lab, window, tmp_path):
    asked = {TRAINED: lab.texts, "mine": with_text(lab.texts, 0, "Shape", "a ribbon")}
    table = lab.table(window, asked, "ribbon", "Shape")  # a word that the first texts lack
    png = figures.write("prompt_lab", table, tmp_path)
    before = png.read_bytes()
    png.unlink()
    figures.redraw(tmp_path)
    assert png.read_bytes() == before


def test_the_attention_image_covers_the_window(lab, window):
    answer = lab.ask(window, lab.texts, "ventricle")
    image = lab.attention_image(window, answer, 2)
    coarse, fine = np.array(image.shape), np.array(window.image.shape[1:])
    for corner in (np.zeros(3), np.ones(3)):  # both grids fill the same box
        place = image.affine @ [*(corner * coarse - 0.5), 1]
        np.testing.assert_allclose(place, window.affine @ [*(corner * fine - 0.5), 1], atol=1e-4)


@pytest.fixture
def form(lab, cases):
    from bipvl.figures.interactive.prompt_lab_form import LabForm

    return LabForm(lab=lab, cases=cases)


def test_the_form_answers_to_a_text_and_restores_the_trained_one(form, lab):
    trained = bytes(form.picture.value)
    assert trained.startswith(b"\x89PNG") and form.message.value == ""
    assert form.word.value == "ventricle"
    before = form.text.value
    form.text.value = "a velvet ribbon"
    assert "velvet" in form.word.options and form.word.value == "ventricle"
    assert form.texts() == with_text(lab.texts, 0, form.concept.value, "a velvet ribbon")
    form.show.click()
    assert bytes(form.picture.value) != trained
    form.back.click()
    assert form.text.value == before and bytes(form.picture.value) == trained


def test_choosing_another_class_shows_its_trained_text(form, lab):
    form.text.value = "a velvet ribbon"
    form.structure.value = 1
    place = column(lab.texts, form.concept.value)
    assert f"{form.concept.value}: {form.text.value}" == lab.texts[1][place]
    form.concept.value = "Title"
    assert form.text.value == lab.texts[1][0]


def test_the_form_shows_an_error_and_hides_the_old_answer(form):
    form.text.value = "  "
    form.show.click()
    assert "is empty; write at least one word" in form.message.value
    assert form.picture.layout.visibility == "hidden"
    form.text.value = "round"
    form.show.click()
    assert form.message.value == "" and form.picture.layout.visibility == "visible"
