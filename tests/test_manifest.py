"""What a run was made from and what came out: recorded, traced, verified."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from bipvl.common.errors import BipvlError
from bipvl.data.layouts import Case, list_cases
from bipvl.data.splits import split_cases
from bipvl.engine.checksums import data_digest, digest, sha256, write_fingerprints
from bipvl.engine.manifest import verify
from bipvl.engine.run import Run


@pytest.fixture
def kept(smoke_runs, tmp_path) -> SimpleNamespace:
    """A copy of the trained run with its split and data, free to be spoilt."""
    home = tmp_path / "runs" / "smoke" / smoke_runs.dataset
    shutil.copytree(
        smoke_runs.runs / "smoke" / smoke_runs.dataset, home, ignore=shutil.ignore_patterns("cache")
    )
    shutil.copytree(smoke_runs.data_root, tmp_path / "data")
    return SimpleNamespace(run=Run.open(home / "bipvlseg" / "seed0"), data=tmp_path / "data")


def told(kept, kind="differs", data=True) -> list[str]:
    return [f.what for f in verify(kept.run, kept.data if data else None) if f.kind == kind]


def test_a_manifest_names_all_that_a_phase_was_made_from_and_left(kept):
    run = kept.run
    manifest = json.loads((run.directory / "manifest.json").read_text(encoding="utf-8"))
    train, evaluate = manifest["phases"]["train"], manifest["phases"]["evaluate"]
    assert set(train["inputs"]) == {"data", "config", "split", "prompts", "text_encoder"}
    assert set(evaluate["inputs"]) == {"data", "config", "split", "prompts", "model"}
    assert evaluate["inputs"]["model"] == train["outputs"]["model/model.safetensors"]
    history = (run.directory / "history.csv").read_bytes()
    assert train["outputs"]["history.csv"] == hashlib.sha256(history).hexdigest()
    predictions = {f"predictions/{path.name}" for path in (run.directory / "predictions").iterdir()}
    assert set(evaluate["outputs"]) == {"metrics.csv"} | predictions
    for phase in (train, evaluate):
        assert {"commit", "python", "packages", "hardware", "threads", "processes", "seconds"} <= set(phase)
    assert train["command"].startswith("bipvl train mmwhs_ct bipvlseg --profile smoke --seed 0")


def test_a_run_that_nobody_touched_agrees(kept):
    assert told(kept) == [] and told(kept, "not checked") == []
    assert told(kept, "not checked", data=False) == [
        f"{phase}: the data; say where they are with --data-root" for phase in ("train", "evaluate")
    ]


@pytest.mark.parametrize(
    ("name", "phases"),
    [("history.csv", {"train"}), ("metrics.csv", {"evaluate"}), ("model/config.json", {"train"})],
)
def test_a_changed_output_is_named(kept, name, phases):
    with (kept.run.directory / name).open("a") as file:
        file.write(" ")
    assert told(kept) == [f"{phase}: {name} has changed" for phase in phases]


def test_lost_and_added_files_are_named(kept):
    lost, *_ = sorted((kept.run.directory / "predictions").iterdir())
    lost.unlink()
    (kept.run.directory / "predictions" / "another.nii.gz").touch()
    assert told(kept) == [
        "evaluate: predictions/another.nii.gz is new",
        f"evaluate: predictions/{lost.name} is gone",
    ]


def test_changed_inputs_are_named(kept):
    test = split_cases(kept.run.split_path, kept.run.spec, kept.data)[2][0]
    content = bytearray(test.label.read_bytes())
    content[-5] ^= 1
    test.label.write_bytes(content)
    (kept.run.directory / "config.json").write_text(json.dumps(kept.run.config | {"seed": 7}))
    assert set(told(kept)) == {
        "train: config is not what it was made from",
        "evaluate: config is not what it was made from",
        f"evaluate: the label of {test.id} has changed",
    }


def test_other_versions_are_told_but_are_no_fault(kept):
    path = kept.run.directory / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["phases"]["train"]["packages"]["torch"] = "1.0"
    path.write_text(json.dumps(manifest))
    (found,) = (f for f in verify(kept.run, kept.data) if "torch" in f.what)
    assert found.kind == "another" and found.what.startswith("train: torch was 1.0, here it is 2.")


def test_a_run_without_a_manifest_or_with_an_old_one_is_told(kept):
    path = kept.run.directory / "manifest.json"
    path.write_text('{"commit": "x", "phases": {"train": {"seconds": 1}}}')
    with pytest.raises(BipvlError, match="older layout; delete"):
        list(verify(kept.run, None))
    path.unlink()
    with pytest.raises(BipvlError, match=r"manifest\.json is missing; train the run first"):
        list(verify(kept.run, None))


# Fingerprints


def a_case(folder: Path) -> Case:
    for name in ("image", "label"):
        (folder / name).write_text(name)
    return Case("a", folder / "image", folder / "label")


def test_data_that_changed_since_they_were_prepared_are_refused(tmp_path):
    case, known = a_case(tmp_path), tmp_path / "data.json"
    write_fingerprints([case], known)
    before = data_digest([case], known)
    os.utime(case.image, ns=(2 * known.stat().st_mtime_ns,) * 2)  # newer, the same content
    assert data_digest([case], known) == before
    case.image.write_text("igame")
    os.utime(case.image, ns=(2 * known.stat().st_mtime_ns,) * 2)
    with pytest.raises(BipvlError, match="image has changed since its dataset was prepared; put it back"):
        data_digest([case], known)
    case.image.write_text("longer")
    with pytest.raises(BipvlError, match="image has changed"):
        data_digest([case], known)


def test_unknown_data_are_refused(tmp_path):
    case, known = a_case(tmp_path), tmp_path / "data.json"
    with pytest.raises(BipvlError, match="prepare the dataset first"):
        data_digest([case], known)
    write_fingerprints([], known)
    with pytest.raises(BipvlError, match="does not know the case a"):
        data_digest([case], known)


def test_a_digest_is_of_the_content(smoke_runs, tmp_path):
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})
    cases = list_cases(
        Run.open(smoke_runs.runs / "smoke" / smoke_runs.dataset / "bipvlseg" / "seed0").spec,
        smoke_runs.data_root,
    )
    write_fingerprints(cases, tmp_path / "data.json")
    known = json.loads((tmp_path / "data.json").read_text())
    assert {c.id: sha256(c.label) for c in cases} == {
        i: files["label"]["sha256"] for i, files in known.items()
    }
