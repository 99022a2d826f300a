"""Figures of a trained network's shared space and attention: tables, projections and orientation."""

import numpy as np
import pytest
import torch
from alignment_files import shown_case, ventricle_window, write_snapshots
from hypothesis import given
from hypothesis import strategies as st

from bipvl import figures
from bipvl.common.errors import BipvlError
from bipvl.data.spec import load_spec
from bipvl.engine.snapshots import read_snapshots
from bipvl.figures.alignment import principal_plane
from bipvl.figures.slice_tables import read_slices
from bipvl.figures.word_attention import rescaled, window_table

DATASETS = ("amos22", "msd_brain")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {dataset: write_snapshots(folder, dataset) for dataset in DATASETS}


def test_the_first_run_that_reads_prompts_is_chosen(runs, tmp_path):
    vision = write_snapshots(tmp_path, "mmwhs_ct", "swin_unetr_v2")
    other = write_snapshots(tmp_path, "mmwhs_ct", "not_a_variant_of_ours")
    first, second = (write_snapshots(tmp_path, "mmwhs_ct", name) for name in ("no_fusion", "bipvlseg"))
    group = [other, vision, first, second]
    assert figures.language_runs({"mmwhs_ct": group}) == {"mmwhs_ct": first}
    with pytest.raises(BipvlError, match="no run on mmwhs_ct of a network that reads prompts; train one"):
        figures.language_runs({"mmwhs_ct": group[:2]})


def test_similarities_of_texts_and_images_at_the_first_and_the_last_step(runs):
    table = figures.similarity_table(runs)
    assert list(table.columns) == [
        *("cohort", "profile", "dataset", "variant", "seeds", "cases", "step"),
        *("text_class", "visual_class", "similarity"),
    ]
    part = table[table["dataset"] == "msd_brain"]
    assert sorted(set(part["step"])) == [0, 30] and len(part) == 2 * 3 * 3
    names = [c.name for c in load_spec("msd_brain").classes]
    expected = read_snapshots(runs["msd_brain"])[0].similarity()
    found = part[part["step"] == 0].set_index(["text_class", "visual_class"])["similarity"]
    for i, text in enumerate(names):
        for j, visual in enumerate(names):
            assert found[text, visual] == pytest.approx(expected[i, j].item())
    after = part[part["step"] == 30]
    own = after["text_class"] == after["visual_class"]
    assert after.loc[own, "similarity"].min() > after.loc[~own, "similarity"].max()


def test_similarities_use_the_temperature_of_the_variant(tmp_path):
    cold, usual = (write_snapshots(tmp_path, "msd_brain", v) for v in ("temperature_0.05", "bipvlseg"))
    values = [figures.similarity_table({"msd_brain": run})["similarity"] for run in (cold, usual)]
    assert values[0].iloc[0] == pytest.approx(read_snapshots(cold)[0].similarity(0.05)[0, 0].item())
    assert not np.allclose(*values)


def test_the_embedding_table_has_every_class_and_text_at_every_snapshot(runs):
    table = figures.embedding_table({"msd_brain": runs["msd_brain"]})
    assert len(table) == 4 * 3 * 7
    assert list(dict.fromkeys(table["concept"]))[:3] == ["", "Title", "Shape"]
    snapshots = read_snapshots(runs["msd_brain"])
    vectors = torch.cat([torch.cat([s.visual[:, None], s.text], 1).flatten(0, 1) for s in snapshots])
    places, shares = principal_plane(vectors.numpy())
    np.testing.assert_allclose(table[["x", "y"]], places)
    assert table["share_x"].iloc[0] == pytest.approx(shares[0]) and 1 > shares[0] > shares[1] > 0


@given(st.integers(0, 10_000), st.permutations(range(12)))
def test_the_projection_keeps_distances_and_is_independent_of_the_order_of_points(seed, order):
    """Unit vectors within a plane: the projection loses nothing."""
    random = np.random.default_rng(seed)
    angle = random.uniform(0, 2 * np.pi, 12)
    basis = np.linalg.qr(random.normal(size=(9, 2)))[0].T
    points = (np.stack([np.cos(angle), np.sin(angle)], 1) @ basis) * random.uniform(0.5, 4, (12, 1))
    places, shares = principal_plane(points)
    assert shares.sum() == pytest.approx(1)
    units = points / np.linalg.norm(points, axis=1, keepdims=True)
    apart = [np.linalg.norm(x[:, None] - x, axis=-1) for x in (places, units)]
    np.testing.assert_allclose(*apart, atol=1e-9)
    again, _ = principal_plane(points[order])
    np.testing.assert_allclose(again, places[order], atol=1e-5)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR"])
def test_attention_overlays_its_image_for_every_axis_order(tmp_path, axes):
    window = ventricle_window()
    (this,) = read_slices(window_table(shown_case(tmp_path, axes), window, {"cohort": "synthetic"}))
    height, width = this.image.shape
    assert this.size == pytest.approx((96, 96))
    rows, columns = np.nonzero(this.masks["truth"])
    assert rows.mean() < height / 3  # the front is at the top
    assert columns.mean() < width / 3  # the patient's right is at the left
    mm = [np.ptp(places + 0.0) * side / n for places, side, n in ((rows, 96, height), (columns, 96, width))]
    assert mm == pytest.approx([16, 24], abs=3.1)  # 8 and 12 voxels of 2 mm
    assert this.image[this.masks["truth"] == 1].min() > this.image[this.masks["truth"] == 0].mean()
    for stage, attention in window.maps.items():
        layer = this.masks[f"stage_{stage}"]
        assert layer[0, 0] == pytest.approx(100 * attention.size * attention.max(), abs=1)
        assert layer[-1, -1] == pytest.approx(100 * attention.size * attention.min(), abs=1)
        assert layer.mean() == pytest.approx(100, rel=0.02)  # the map is the same in every slice


def test_rescaled_voxels_fill_the_same_box():
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = 1, 2, 3
    coarse = rescaled(affine, (4, 4, 2))
    corner, other = [-0.5, -0.5, -0.5, 1], [7.5, 7.5, 3.5, 1]
    np.testing.assert_allclose(coarse @ corner, affine @ corner)
    np.testing.assert_allclose(coarse @ [1.5, 1.5, 1.5, 1], affine @ other)
