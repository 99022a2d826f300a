"""The manifest records the inputs and outputs of a run, and verify reports changes."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from bipvl.common.errors import BipvlError
from bipvl.common.files import write_json
from bipvl.data.layouts import Case, list_cases
from bipvl.data.splits import split_cases
from bipvl.engine.checksums import case_checksums, data_checksum, json_checksum, sha256
from bipvl.engine.manifest import recorded, verify
from bipvl.engine.run import Run
from bipvl.model.text_sources import weight_files


@pytest.fixture
def kept(smoke_runs, tmp_path) -> SimpleNamespace:
    """A copy of the trained run with its split and data, which a test may damage."""
    home = tmp_path / "runs" / "smoke" / smoke_runs.dataset
    shutil.copytree(
        smoke_runs.runs / "smoke" / smoke_runs.dataset, home, ignore=shutil.ignore_patterns("cache")
    )
    shutil.copytree(smoke_runs.data_root, tmp_path / "data")
    return SimpleNamespace(run=Run.open(home / "bipvlseg" / "seed0"), data=tmp_path / "data")


def messages(kept, kind="differs", data=True) -> list[str]:
    return [m.text for m in verify(kept.run, kept.data if data else None) if m.kind == kind]


def test_a_manifest_lists_inputs_and_outputs_of_each_phase(kept):
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


def test_the_text_encoders_checksum_is_that_of_its_weight_file(kept):
    (weights,) = weight_files(kept.run.config["language"]["text"])
    manifest = json.loads((kept.run.directory / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["phases"]["train"]["inputs"]["text_encoder"] == sha256(weights)


def test_a_manifest_records_overrides_in_its_command(new_run, smoke_runs):
    run = new_run("swin_unetr_v2")
    run.config["training"]["lr"] = 1e-5
    with recorded(run, "train", list_cases(run.spec, smoke_runs.data_root)):
        pass
    manifest = json.loads((run.directory / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["phases"]["train"]["command"].endswith("--set training.lr=1e-05")


def test_an_unchanged_run_has_no_differences(kept):
    assert messages(kept) == [] and messages(kept, "not checked") == []
    assert messages(kept, "not checked", data=False) == [
        f"{phase}: the data; give their folder with --data-root" for phase in ("train", "evaluate")
    ]


@pytest.mark.parametrize(
    ("name", "phases"),
    [("history.csv", {"train"}), ("metrics.csv", {"evaluate"}), ("model/config.json", {"train"})],
)
def test_a_changed_output_is_named(kept, name, phases):
    with (kept.run.directory / name).open("a") as file:
        file.write(" ")
    assert messages(kept) == [f"{phase}: {name} has changed" for phase in phases]


def test_missing_and_new_files_are_named(kept):
    lost, *_ = sorted((kept.run.directory / "predictions").iterdir())
    lost.unlink()
    (kept.run.directory / "predictions" / "another.nii.gz").touch()
    assert messages(kept) == [
        "evaluate: predictions/another.nii.gz is new",
        f"evaluate: predictions/{lost.name} is missing",
    ]


def test_changed_inputs_are_named(kept):
    test = split_cases(kept.run.split_path, kept.run.spec, kept.data)[2][0]
    content = bytearray(test.label.read_bytes())
    content[-5] ^= 1
    test.label.write_bytes(content)
    (kept.run.directory / "config.json").write_text(json.dumps(kept.run.config | {"seed": 7}))
    assert set(messages(kept)) == {
        "train: config has changed since",
        "evaluate: config has changed since",
        f"evaluate: the label of {test.id} has changed",
    }


def test_another_version_is_only_a_note(kept):
    path = kept.run.directory / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["phases"]["train"]["packages"]["torch"] = "1.0"
    path.write_text(json.dumps(manifest))
    (found,) = (m for m in verify(kept.run, kept.data) if "torch" in m.text)
    assert found.kind == "another" and found.text.startswith("train: torch was 1.0, here it is 2.")


def test_a_missing_or_old_manifest_is_refused(kept):
    path = kept.run.directory / "manifest.json"
    path.write_text('{"commit": "x", "phases": {"train": {"seconds": 1}}}')
    with pytest.raises(
        BipvlError,
        match=r"manifest\.json: is incomplete or of an older layout; delete .*seed0",
    ):
        list(verify(kept.run, None))
    path.unlink()
    with pytest.raises(BipvlError, match=r"manifest\.json: file not found; train the run first"):
        list(verify(kept.run, None))


# Checksums


def a_case(folder: Path) -> Case:
    for name in ("image", "label"):
        (folder / name).write_text(name)
    return Case("a", folder / "image", folder / "label")


def test_data_that_changed_since_they_were_prepared_are_refused(tmp_path):
    case, known = a_case(tmp_path), tmp_path / "data.json"
    write_json(known, case_checksums([case]))
    before = data_checksum([case], known)
    os.utime(case.image, ns=(2 * known.stat().st_mtime_ns,) * 2)  # newer, the same content
    assert data_checksum([case], known) == before
    case.image.write_text("igame")
    os.utime(case.image, ns=(2 * known.stat().st_mtime_ns,) * 2)
    with pytest.raises(BipvlError, match="image: has changed since its data set was prepared; restore it"):
        data_checksum([case], known)
    case.image.write_text("longer")
    with pytest.raises(BipvlError, match="image: has changed"):
        data_checksum([case], known)


def test_unknown_data_are_refused(tmp_path):
    case, known = a_case(tmp_path), tmp_path / "data.json"
    with pytest.raises(BipvlError, match=r"data\.json: file not found; prepare the data set first"):
        data_checksum([case], known)
    write_json(known, {})
    with pytest.raises(BipvlError, match=r"data\.json: the case a was not there .*; remove it"):
        data_checksum([case], known)


def test_checksums_depend_only_on_the_content(smoke_runs, tmp_path, trained_run):
    assert (
        json_checksum({"a": 1, "b": 2}) == json_checksum({"b": 2, "a": 1}) != json_checksum({"a": 2, "b": 1})
    )
    cases = list_cases(trained_run("bipvlseg").spec, smoke_runs.data_root)
    write_json(tmp_path / "data.json", case_checksums(cases))
    known = json.loads((tmp_path / "data.json").read_text())
    assert {c.id: sha256(c.label) for c in cases} == {
        i: files["label"]["sha256"] for i, files in known.items()
    }
