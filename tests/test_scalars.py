"""TensorBoard has each step of a training once, and does not change its results."""

import pandas as pd
import pytest
from killing import results
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import bipvl.engine.tensorboard
from bipvl.engine.checkpoints import Progress
from bipvl.engine.run import Run
from bipvl.engine.train import train


def logged(run: Run, name: str) -> list[tuple[int, float]]:
    """Step and value of every entry of a scalar in TensorBoard's log."""
    events = EventAccumulator(str(run.directory / bipvl.engine.tensorboard.FOLDER))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_a_resumed_training_has_each_step_once(smoke_runs, new_run, monkeypatch):
    run, validated = new_run("swin_unetr_v2"), Progress.validated

    def interrupt(self, *arguments):
        validated(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "validated", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(run, smoke_runs.data_root, progress=False)
    monkeypatch.undo()
    train(run, smoke_runs.data_root, progress=False)
    history = pd.read_csv(run.directory / "history.csv").set_index("step")
    for name in ("total", "lr", "val_dice"):
        steps, values = zip(*logged(run, name), strict=True)
        assert list(steps) == list(history[name].dropna().index)
        assert list(values) == pytest.approx(list(history[name].dropna()), rel=1e-6)


def test_results_have_the_same_bytes_without_tensorboard(smoke_runs, new_run, monkeypatch):
    with_log, without = (new_run("swin_unetr_v2", folder=name) for name in ("with", "without"))
    train(with_log, smoke_runs.data_root, progress=False)
    monkeypatch.setattr(bipvl.engine.tensorboard, "tracker", lambda: None)
    train(without, smoke_runs.data_root, progress=False)
    assert results(with_log) == results(without)
    assert (with_log.directory / bipvl.engine.tensorboard.FOLDER).is_dir()
    assert not (without.directory / bipvl.engine.tensorboard.FOLDER).exists()
