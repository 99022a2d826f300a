"""A killed and resumed training is byte-identical to an uninterrupted one; one process per run directory."""

import itertools
import json
import resource
import signal
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from killing import results, survive, train_in_process, train_with_kills

from bipvl.common.errors import BipvlError
from bipvl.data.crops import prepared
from bipvl.data.layouts import list_cases
from bipvl.engine.evaluate import evaluate
from bipvl.engine.train import train


@pytest.mark.slow
def test_trainings_killed_at_random_moments_end_with_the_same_bytes(
    smoke_runs, new_run, pytestconfig, record_property
):
    """Ten kills; the stress script asks for more and counts the trainings that pass."""
    kills = pytestconfig.getoption("kills", 10)
    runs = (new_run(folder=f"run{i}") for i in itertools.count())
    survived = survive(kills, new_run(folder="whole"), runs, smoke_runs.data_root, seed=0)
    record_property("held", sum(survived))
    record_property("of", kills)
    assert sum(survived) == kills


@pytest.mark.slow
def test_unfinished_files_of_a_killed_process_are_deleted(smoke_runs, new_run):
    run = new_run()
    for name in (".4711.history.csv", "predictions/.4711.a.nii.gz", ".state-done/step-1/x", ".4711.model/x"):
        path = run.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    train_with_kills(run, smoke_runs.data_root, [])
    assert {path.name for path in run.directory.rglob(".*")} == {".lock"}
    left = {path.name for path in run.directory.iterdir()}
    assert (
        left >= {"config.json", "history.csv", "manifest.json", "model", "embeddings"} and "state" not in left
    )


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_prepared_case_that_is_incomplete_is_prepared_again(smoke_runs, new_run, share):
    """As after a kill while the file was moved there from another disk."""
    run = new_run()
    case = list_cases(run.spec, smoke_runs.data_root)[:1]
    cases = prepared(run.spec, case, (10, 10, 10), run.directory / "cache")
    whole = cases[0]["image"]
    (kept,) = (run.directory / "cache").rglob("*.pt")
    kept.write_bytes(kept.read_bytes()[: int(share * kept.stat().st_size)])
    assert torch.equal(cases[0]["image"], whole)
    assert torch.equal(torch.load(kept, weights_only=True)["image"], whole)


def test_a_second_process_on_a_run_directory_is_refused(smoke_runs, new_run):
    run = new_run()
    run.model_folder.mkdir(parents=True)  # evaluate looks first whether there is a network
    with FileLock(run.directory / ".lock"):
        for work in (train, evaluate):
            with pytest.raises(BipvlError, match="seed0: is in use by another process; wait for it"):
                work(run, smoke_runs.data_root, progress=False)
    assert {path.name for path in run.directory.iterdir()} == {".lock", "config.json", "model"}


@pytest.fixture
def small_files():
    """Limit the size of files, as on a full disk; yields a function that sets the limit (bytes or None)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size: int | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size is None else size, before[1]))

    yield limit
    limit(None)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("size", [100, 10_000, 1_000_000])
def test_a_full_disk_is_reported_and_loses_nothing(size, smoke_runs, new_run, trained_run, small_files):
    full = new_run(folder="full")
    small_files(size)
    with pytest.raises(
        BipvlError, match=r"seed0: cannot be written \(.*\); free some space.*to resume"
    ) as caught:
        train(full, smoke_runs.data_root, progress=False)
    assert "\n" not in str(caught.value)
    small_files(None)
    train(full, smoke_runs.data_root, progress=False)
    assert results(full) == results(trained_run("bipvlseg"))


def test_a_folder_that_is_not_writable_is_reported(smoke_runs, new_run):
    run = new_run()
    run.directory.parent.mkdir(parents=True)
    run.directory.touch()  # a file in its place, since permissions do not stop root
    with pytest.raises(BipvlError, match="seed0: cannot be written"):
        train(run, smoke_runs.data_root, progress=False)
    assert run.directory.is_file()


@pytest.mark.slow
def test_a_killed_training_writes_its_manifest_when_it_is_complete(smoke_runs, new_run):
    run = new_run()
    process = train_in_process(run, smoke_runs.data_root)
    process.join(0.5)
    process.kill()
    process.join()
    assert not Path(run.directory, "manifest.json").exists()
    train_with_kills(run, smoke_runs.data_root, [])
    manifest = json.loads((run.directory / "manifest.json").read_text(encoding="utf-8"))
    assert list(manifest["phases"]) == ["train"]
