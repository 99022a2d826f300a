"""Snapshots of the shared space: their content, and that they do not change the training."""

import math
import shutil

import pandas as pd
import pytest
import torch

from bipvl.common.errors import BipvlError
from bipvl.engine.checkpoints import Progress
from bipvl.engine.run import Run
from bipvl.engine.snapshots import FOLDER, Snapshot, aligned_vectors, read_snapshots
from bipvl.engine.train import train


def test_similarity_is_the_cosine_of_weighted_texts_with_images():
    """Both texts of class 0 match its image; one text of class 1 does, the other matches class 0."""
    x, y = torch.eye(2)
    snapshot = Snapshot(
        step=0,
        cases=1,
        visual=torch.stack([3 * x, 0.5 * y]),
        text=torch.stack([torch.stack([2 * x, x]), torch.stack([4 * y, x])]),
    )
    weight = math.e / (math.e + 1)  # softmax over cosines 1 and 0 at temperature 1
    length = math.hypot(weight, 1 - weight)
    expected = [[1, 0], [(1 - weight) / length, weight / length]]
    torch.testing.assert_close(snapshot.similarity(temperature=1.0), torch.tensor(expected))
    assert snapshot.similarity(temperature=0.01)[1].tolist() == pytest.approx([0, 1], abs=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_vectors_are_means_over_centre_crops_and_keep_mode_and_random_state(
    training, tiny_bipvlseg, tiny_tokens
):
    model, tokens = tiny_bipvlseg().train(training), tiny_tokens()
    large, small = torch.randn(1, 20, 18, 24), torch.randn(1, 16, 12, 16)
    state = torch.get_rng_state()
    found = aligned_vectors(model, tokens, [large, small], (16, 16, 16))
    assert torch.equal(torch.get_rng_state(), state) and model.training is training
    crops = [large[:, 2:18, 1:17, 4:20], torch.nn.functional.pad(small, (0, 0, 2, 2))]
    with torch.no_grad():
        outputs = [model.eval()(crop[None], tokens) for crop in crops]
    for name, vectors in found.items():
        mean = sum(getattr(output, name)[0] for output in outputs) / 2
        torch.testing.assert_close(vectors, mean)
    assert found["visual"].shape == (3, 128) and found["text"].shape == (3, 3, 128)


def test_a_training_takes_snapshots_at_its_start_and_at_every_validation(trained_run):
    run = trained_run("bipvlseg")
    history = pd.read_csv(run.directory / "history.csv")
    snapshots = read_snapshots(run.directory)
    assert [s.step for s in snapshots] == [0, *(history.index[history["val_dice"].notna()] + 1)]
    first, last = snapshots[0], snapshots[-1]
    assert first.visual.shape == (run.spec.num_classes, 128)
    assert first.text.shape == (run.spec.num_classes, 6, 128)
    assert not torch.allclose(first.visual, last.visual) and not torch.allclose(first.text, last.text)


def test_a_network_without_prompts_has_no_snapshots(trained_run):
    run = trained_run("swin_unetr_v2")
    assert not (run.directory / FOLDER).exists()
    with pytest.raises(BipvlError, match=r"embeddings: holds no snapshot .* train it again"):
        read_snapshots(run.directory)


@pytest.mark.slow
def test_a_resumed_training_has_the_same_snapshots(smoke_runs, tmp_path, monkeypatch, trained_run):
    whole = trained_run("bipvlseg")
    run = Run(tmp_path / smoke_runs.dataset / "bipvlseg" / "seed0", whole.config)
    shutil.copytree(whole.split_path.parent / "cache", run.split_path.parent / "cache")
    shutil.copy(whole.split_path, run.split_path)
    shutil.copy(whole.data_path, run.data_path)
    add = Progress.add

    def interrupted(self, *args):
        add(self, *args)
        if self.step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "add", interrupted)
        train(run, smoke_runs.data_root, progress=False)
    assert 1 < len(list((run.directory / FOLDER).iterdir())) < len(list((whole.directory / FOLDER).iterdir()))
    train(run, smoke_runs.data_root, progress=False)

    def written(folder):
        return {path.name: path.read_bytes() for path in (folder / FOLDER).iterdir()}

    assert written(run.directory) == written(whole.directory)
