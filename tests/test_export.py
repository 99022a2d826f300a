"""A run exported for the Hub or as a MONAI bundle gives the same labels as the run itself."""

import json
import re
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from typer.testing import CliRunner

import bipvl
import bipvl.deploy.export
from bipvl.__main__ import app
from bipvl.common.errors import BipvlError
from bipvl.data.spec import dataset_names, load_spec
from bipvl.deploy.export import check_hub, push_folder, spec_yaml, write_export
from bipvl.deploy.exported_run import open_export
from bipvl.deploy.model_card import card_data, link, model_card
from bipvl.engine.build import load_network
from bipvl.engine.evaluate import test_cases as cases_of
from bipvl.engine.run import Run
from bipvl.model.baselines import Baseline
from bipvl.model.bipvlseg import BiPVLSeg


@pytest.fixture(scope="module")
def trained(smoke_runs):
    """Variant → its trained run at profile smoke."""
    folder = smoke_runs.runs / "smoke" / smoke_runs.dataset
    return {variant: Run.open(folder / variant / "seed0") for variant in ("bipvlseg", "swin_unetr_v2")}


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Variant → the folder of its export."""
    root = tmp_path_factory.mktemp("exports")
    for name, run in trained.items():
        write_export(run, root / name)
    return {name: root / name for name in trained}


@pytest.fixture(scope="module")
def scan(trained, smoke_runs):
    return cases_of(trained["bipvlseg"], smoke_runs.data_root)[0].image


@pytest.fixture(scope="module")
def labels(trained, scan):
    """The label map of the scan from the run itself."""
    return bipvl.segment(scan, trained["bipvlseg"], progress=False).labels


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def mean_scores(run):
    """Metric → mean over cases of the mean over classes, on the scan's grid, from metrics.csv."""
    rows = pd.read_csv(run.directory / "metrics.csv")
    rows = rows[rows["grid"] == "scan"]
    return rows.groupby(["metric", "case"])["value"].mean().groupby("metric").mean()


@pytest.mark.parametrize("name", dataset_names())
def test_a_spec_can_be_read_from_its_yaml(name, tmp_path):
    spec, path = load_spec(name), tmp_path / "dataset.yaml"
    path.write_text(spec_yaml(spec, prompts="prompts.csv"), encoding="utf-8")
    files = {"prompts": tmp_path / "prompts.csv"}
    if "file" in spec.split:  # it lists case ids, which are not exported
        files["split"] = {"file": tmp_path / "split.json"}
    assert load_spec(path) == spec.model_copy(update=files)


@pytest.mark.parametrize(
    "split",
    [{"train": ("dora_1",), "val": ("dora_2",), "test": ("dora_3",)}, {"file": Path("/data/dora/split.csv")}],
)
def test_a_split_by_case_ids_is_left_out(split, tmp_path):
    text = spec_yaml(load_spec("amos22").model_copy(update={"split": split}), prompts="prompts.csv")
    assert "dora" not in text
    (tmp_path / "dataset.yaml").write_text(text, encoding="utf-8")
    assert load_spec(tmp_path / "dataset.yaml").split == {"file": tmp_path / "split.json"}


@pytest.mark.parametrize(("name", "kind"), [("bipvlseg", BiPVLSeg), ("swin_unetr_v2", Baseline)])
def test_from_pretrained_gives_the_same_logits(name, kind, trained, exported):
    run = trained[name]
    volume = torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    there, here = kind.from_pretrained(exported[name]).eval(), load_network(run.variant, run.model_folder)
    texts = [open_export(exported[name]).texts] * run.variant.language
    with torch.inference_mode():
        assert torch.equal(there.predict(volume, *texts), here.eval().predict(volume, *texts))


def test_an_exported_run_gives_the_labels_of_the_run(exported, scan, labels):
    again = bipvl.segment(scan, open_export(exported["bipvlseg"]), progress=False).labels
    assert np.array_equal(again.dataobj, labels.dataobj)


def test_an_export_is_reproducible_and_contains_no_local_path(trained, exported, tmp_path):
    write_export(trained["bipvlseg"], tmp_path / "again")
    files = {path.name: path.read_bytes() for path in exported["bipvlseg"].iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= files.keys()
    assert {"dataset.yaml", "prompts.csv", "run.json"} <= files.keys()
    private = [str(path).encode() for path in (Path.home(), Path(sys.prefix), trained["bipvlseg"].directory)]
    assert not [name for name, content in files.items() for path in private if path in content]


def test_the_model_card_has_the_scores_of_the_run(trained, exported):
    for name, run in trained.items():
        card, mean = ModelCard.load(exported[name] / "README.md"), mean_scores(run)
        listed = {result.metric_type: result.metric_value for result in card.data.eval_results}
        digits = {"dice": 3, "hd95_mm": 1, "nsd": 3}
        assert listed == {metric: round(mean[metric], places) for metric, places in digits.items()}
        row = next(line for line in card.text.splitlines() if run.variant.title in line and "|" in line)
        assert f"| {mean['dice']:.3f}" in row and f"| {mean['hd95_mm']:.1f}" in row
        assert row.endswith("| 1 |"), "one test case"


def test_the_model_card_has_one_row_per_class(trained, exported):
    rows = pd.read_csv(trained["bipvlseg"].directory / "metrics.csv")
    text = (exported["bipvlseg"] / "README.md").read_text(encoding="utf-8")
    for c in trained["bipvlseg"].spec.classes:
        dice = rows.query("grid == 'scan' and metric == 'dice'")
        dice = dice[dice["class"] == c.name]["value"]
        cell = f"{dice.mean():.3f}" if len(dice) else "not in any test case"
        assert re.search(rf"^\| {c.name} \| {cell} \|.*\| {len(dice)} \|$", text, re.MULTILINE)


def test_the_model_card_names_data_profile_seed_and_code(trained, exported):
    card = ModelCard.load(exported["bipvlseg"] / "README.md")
    assert card.data.license == "mit" and "synthetic-data" in card.data.tags
    assert card.data.eval_results[0].dataset_type == "synthetic-mmwhs_ct"
    assert "**Synthetic cohort.**" in card.text and "`smoke`, seed 0" in card.text
    assert link("Paper") in card.text and link("Repository") in card.text
    commit = json.loads((trained["bipvlseg"].directory / "manifest.json").read_text())["phases"]["train"]
    assert commit["commit"] in card.text


def test_the_model_card_of_real_data_names_their_terms(trained):
    run = trained["bipvlseg"]
    real = Run(run.directory, run.config | {"cohort": "real"})
    text = model_card(real)
    assert "**Synthetic cohort.**" not in text and "The terms of MM-WHS" in text
    from bipvl.analysis.statistics import read_runs

    scores = read_runs({real.spec.name: [real.directory]})
    assert card_data(real, scores[scores["variant"] == "bipvlseg"]).license == "other"


def test_the_command_writes_the_same_export(trained, exported, tmp_path):
    result = invoke("export", trained["bipvlseg"].directory, tmp_path / "out")
    assert result.exit_code == 0 and f"wrote {tmp_path / 'out'}" in result.output
    assert (tmp_path / "out" / "README.md").read_bytes() == (exported["bipvlseg"] / "README.md").read_bytes()


def test_bad_input_is_reported_and_nothing_is_written(trained, smoke_runs, tmp_path, monkeypatch):
    run, new = trained["bipvlseg"].directory, tmp_path / "new"
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((run / "config.json").read_bytes())
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    for words, sentence in [
        ((bare, new), f"{bare}: no trained network (no model folder); train it first"),
        ((run, tmp_path), f"{tmp_path}: already exists; give another name, or delete it"),
        (
            (run, new, "--push", "no name at all"),
            "is not the name of a repository on the Hub; give USER/NAME",
        ),
        ((run, new, "--push", "user/name"), "there is no token for the Hub; set HF_TOKEN"),
        ((run, new, "--push", "user/name", "--bundle"), "a bundle"),
    ]:
        result = invoke("export", *words)
        assert result.exit_code == 1 and sentence in result.output, result.output
        assert not new.exists()
    (bare / "model").mkdir()
    with pytest.raises(BipvlError, match=r"bare: no scores .*; first type: bipvl evaluate"):
        write_export(Run.open(bare), new)
    with pytest.raises(BipvlError, match=r"bare: not an exported run \(no run\.json\); write one"):
        open_export(bare)


def test_without_a_network_the_hub_gives_a_clear_message(exported, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
    with pytest.raises(BipvlError, match=r"user/name: .* its upload to the Hub failed .*hf upload user/name"):
        push_folder(exported["bipvlseg"], "user/name")
    with pytest.raises(BipvlError, match="user/name: neither a folder nor a repository on the Hub"):
        open_export("user/name")


def test_push_uploads_the_folder(exported, monkeypatch):
    calls = []

    class Hub:
        def create_repo(self, repo_id, exist_ok):
            calls.append(("create", repo_id, exist_ok))

        def upload_folder(self, repo_id, folder_path):
            calls.append(("upload", repo_id, folder_path))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(bipvl.deploy.export, "check_hub", lambda repo_id: None)
    assert push_folder(exported["bipvlseg"], "user/name") == "https://huggingface.co/user/name"
    assert calls == [("create", "user/name", True), ("upload", "user/name", exported["bipvlseg"])]


def test_a_token_and_a_name_are_enough_for_the_hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
    check_hub("user/name")


@pytest.fixture(scope="module")
def bundle(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    result = invoke("export", trained["bipvlseg"].directory, folder, "--bundle")
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.slow
def test_monai_runs_the_bundle_and_gets_the_same_labels(bundle, scan, labels, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "case.nii.gz").write_bytes(Path(scan).read_bytes())
    command = [sys.executable, "-m", "monai.bundle", "run", "--bundle_root", bundle]
    command += ["--config_file", bundle / "configs" / "inference.json", "--dataset_dir", scans]
    done = subprocess.run(
        [*map(str, command), "--output_dir", str(tmp_path / "out")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    written = nib.load(tmp_path / "out" / "case_seg.nii.gz")
    assert np.array_equal(written.dataobj, labels.dataobj)
    assert np.allclose(written.affine, labels.affine, atol=1e-5)
    assert len(np.unique(labels.dataobj)) > 1, "a label map of only background proves nothing"


def test_the_metadata_of_the_bundle_fits_its_network(bundle):
    from monai.bundle import verify_net_in_out

    configs = bundle / "configs"
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        device="cpu",
        bundle_root=str(bundle),
    )


def test_the_bundle_has_everything_that_monai_requires(bundle, scan):
    from monai.bundle import ConfigWorkflow

    config = bundle / "configs" / "inference.json"
    workflow = ConfigWorkflow(
        str(config),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(bundle),
        dataset_dir=str(Path(scan).parent),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    required = {"schema", "version", "monai_version", "pytorch_version", "numpy_version", "task"}
    required |= {"description", "authors", "copyright", "network_data_format", "required_packages_version"}
    assert required <= metadata.keys()
    assert "monai.bundle run" in (bundle / "docs" / "README.md").read_text(encoding="utf-8")


def test_a_folder_without_scans_is_reported(tmp_path):
    from bipvl.deploy.monai_bundle import scans

    with pytest.raises(BipvlError, match=r"no scan in this folder .*; set --dataset_dir"):
        scans(folder=tmp_path)
