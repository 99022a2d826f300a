"""TensorBoard is told of a training, each step once, and changes nothing of it."""

import shutil

import pandas as pd
import pytest
from killing import results
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import bipvl.engine.tensorboard
from bipvl.engine.checkpoints import Progress
from bipvl.engine.run import Run
from bipvl.engine.train import train


@pytest.fixture
def new_run(smoke_runs, tmp_path):
    """A run of the smoke profile that has not begun, in a place of its own."""

    def make(name: str) -> Run:
        where = {"profile": "smoke", "dataset": smoke_runs.dataset, "data_root": smoke_runs.data_root}
        run = Run.plan(**where, variant="swin_unetr_v2", seed=0, root=tmp_path / name)
        run.split_path.parent.mkdir(parents=True)
        for file in ("split.json", "data.json"):
            shutil.copy(smoke_runs.runs / "smoke" / smoke_runs.dataset / file, run.split_path.parent)
        return run

    return make


def logged(run: Run, name: str) -> list[tuple[int, float]]:
    """Every step and value of a scalar that TensorBoard finds."""
    events = EventAccumulator(str(run.directory / bipvl.engine.tensorboard.FOLDER))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_a_training_gone_on_with_has_each_step_once(smoke_runs, new_run, monkeypatch):
    run, validated = new_run("stopped"), Progress.validated

    def stop(self, *arguments):
        validated(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "validated", stop)
    with pytest.raises(KeyboardInterrupt):
        train(run, smoke_runs.data_root, progress=False)
    monkeypatch.undo()
    train(run, smoke_runs.data_root, progress=False)
    history = pd.read_csv(run.directory / "history.csv").set_index("step")
    for name in ("total", "lr", "val_dice"):
        steps, values = zip(*logged(run, name), strict=True)
        assert list(steps) == list(history[name].dropna().index)
        assert list(values) == pytest.approx(list(history[name].dropna()), rel=1e-6)


def test_the_results_are_the_same_bytes_without_it(smoke_runs, new_run, monkeypatch):
    with_log, without = new_run("with"), new_run("without")
    train(with_log, smoke_runs.data_root, progress=False)
    monkeypatch.setattr(bipvl.engine.tensorboard, "tracker", lambda: None)
    train(without, smoke_runs.data_root, progress=False)
    assert results(with_log) == results(without)
    assert (with_log.directory / bipvl.engine.tensorboard.FOLDER).is_dir()
    assert not (without.directory / bipvl.engine.tensorboard.FOLDER).exists()
