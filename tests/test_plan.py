"""The plan of a profile's runs: windows, operations, hours, and what is missing."""

import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import SlidingWindowInferer

from bipvl.analysis.costs import Cost
from bipvl.analysis.studies import load_experiments
from bipvl.data.spec import load_spec
from bipvl.data.splits import Split
from bipvl.engine.predict import count_windows
from tools import plan
from tools.plan import find_missing

CLASSES = load_spec("mmwhs_ct").classes
ROOT = Path(__file__).parents[1]
STUDY = {"title": "A study", "question": "?", "notebooks": ["03_main_table"]}


def cost(forward=1e14, step=3e14, memory=5.0, stand_in=""):
    return Cost(parameters=1, trained=1, forward=forward, step=step, memory_gib=memory, stand_in=stand_in)


@pytest.fixture
def studies(tmp_path, monkeypatch):
    """An experiments.yaml with two studies that share runs, in the current folder; costs are made up."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "03_main_table.ipynb").touch()
    both, one = {"seeds": {"paper": [0, 1], "quick": [0]}}, {"seeds": {"paper": [0], "quick": [0]}}
    content = {
        "datasets": ["mmwhs_ct"],
        "studies": {
            "wide": STUDY | both | {"variants": ["bipvlseg", "unet"]},
            "narrow": STUDY | one | {"variants": ["unet"]},
        },
    }
    (tmp_path / "notebooks" / "experiments.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")

    def count(pairs, profile):
        for key, (variant, _) in pairs.items():
            yield key, cost(memory=7.0 if variant == "bipvlseg" else 2.0)

    monkeypatch.setattr(plan, "_count", count)
    return tmp_path


def test_an_abdominal_scan_with_75_percent_overlap_has_294_windows():
    assert count_windows((240, 240, 200), (96, 96, 96), 0.75) == 294


@settings(deadline=None, max_examples=40)
@given(
    volume=st.tuples(*[st.integers(1, 21)] * 3),
    crop=st.sampled_from([(8, 8, 8), (4, 6, 8)]),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
)
def test_window_count_matches_monai(volume, crop, overlap):
    calls = []
    inferer = SlidingWindowInferer(roi_size=crop, sw_batch_size=1, overlap=overlap)
    inferer(torch.zeros(1, 1, *volume), lambda window: calls.append(1) or window)
    assert count_windows(volume, crop, overlap) == len(calls)


@pytest.mark.parametrize(
    ("profile", "dataset", "sizes"),
    [
        ("paper", "amos22", (180, 20, 100)),
        ("paper", "mmwhs_mr", (14, 2, 4)),
        ("paper", "msd_brain", (349, 39, 96)),
        ("smoke", "mmwhs_ct", (4, 1, 1)),
    ],
)
def test_split_sizes_follow_the_benchmark_or_the_synthetic_cohort(profile, dataset, sizes):
    split = plan.planned_split(load_spec(dataset), profile, None)
    assert (len(split.train), len(split.val), len(split.test)) == sizes


def test_operations_of_a_run_are_its_steps_validations_and_tests():
    split = Split("amos22", 0, train=("a", "b", "c"), val=("d",), test=("e", "f"))
    chosen = {
        "training": {"epochs": 10, "batch_size": 2, "validations": 5},
        "overlap": {"validation": 0.25, "test": 0.75},
        "crop": [96, 96, 96],
    }
    steps, validations, tests = 10 * 2, 5 * 1 * 27, 2 * 294
    expected = steps * 3e14 + (validations + tests) * 1e14 / 2
    assert plan.run_operations(cost(), split, chosen) == expected
    assert plan.gpu_hours(312e12 * 3600) == pytest.approx(1 / plan.UTILISATION)


def test_a_run_shared_by_two_studies_is_counted_once(studies):
    text = plan.plan("paper", "all", None)
    lines = [line for line in text.splitlines() if line.startswith((" ", "all,"))]
    rows = {line.split()[0].rstrip(","): line.split() for line in lines}
    assert "4 runs (2 variants, 1 data sets), 0 of them done" in text
    wide, narrow, total = (rows[name] for name in ("wide", "narrow", "all"))
    assert wide[1:3] == ["4", "4"] and narrow[1:3] == ["1", "1"] and total[-4:-2] == ["4", "4"]
    assert float(wide[3]) == float(total[-2]) == pytest.approx(4 * float(narrow[3]), rel=0.1)
    assert float(narrow[3]) > 0
    assert (wide[4], narrow[4], total[-1]) == ("7.0", "2.0", "7.0")
    assert "A100 40 GB" in text and "10%" in text


def test_finished_runs_are_not_counted(studies):
    for seed in (0, 1):
        folder = studies / "runs" / "paper" / "mmwhs_ct" / "bipvlseg" / f"seed{seed}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").touch()
    text = plan.plan("paper", "wide", None)
    assert "4 runs (2 variants, 1 data sets), 2 of them done" in text
    counts = [line.split()[1:3] for line in text.splitlines() if line.strip().startswith("wide")]
    assert counts == [["4", "2"]]
    assert "Longest run: unet on mmwhs_ct" in text


def test_counted_costs_are_cached(studies, monkeypatch):
    first = plan.plan("paper", "all", None)

    def count(pairs, profile):
        assert not pairs
        yield from ()

    monkeypatch.setattr(plan, "_count", count)
    assert plan.plan("paper", "all", None) == first


def test_missing_data_and_text_encoders_are_named_with_one_request_to_the_hub(tmp_path, monkeypatch):
    requests = []

    def unreachable(*args, **kwargs):
        requests.append(args)
        raise ConnectionError("no network")

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "file_exists", unreachable)
    experiments = load_experiments("paper", ROOT / "notebooks" / "experiments.yaml")
    chosen = [experiments.study("text_encoder")]
    missing = find_missing(experiments, chosen, None)
    assert missing[0].startswith("data: no DATA_ROOT is given; it must hold amos22, mmwhs/ct_train")
    assert {line.split()[2] for line in missing[1:]} == {
        "NeuML/pubmedbert-base-embeddings",
        "bert-base-uncased",
        "dmis-lab/biobert-v1.1",
        "medicalai/ClinicalBERT",
    }
    assert all("the hub cannot be reached (ConnectionError)" in line for line in missing[1:])
    assert len(requests) == 1
    missing = find_missing(experiments, chosen, tmp_path)
    assert missing[0].startswith(f"data: {tmp_path / 'amos22'}: ")


def test_a_missing_external_folder_is_named(studies):
    path = studies / "notebooks" / "experiments.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    entry = {"title": "nnU-Net", "dataset": "mmwhs_ct", "folder": "predictions/nnunet"}
    content["external"] = {"nnunet": entry | {"labels": {c.name: c.codes[0] for c in CLASSES}}}
    content["studies"]["narrow"]["external"] = ["nnunet"]
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    experiments = load_experiments("quick")
    missing = find_missing(experiments, experiments.select("all"), None)
    assert missing == ["external 'nnunet': predictions/nnunet is not a folder; put its predictions there"]
    assert "1 runs" in plan.plan("quick", "narrow", None)


def test_the_script_counts_and_reports_a_wrong_name_in_one_sentence(studies):
    def run(*arguments):
        command = [sys.executable, str(ROOT / "tools" / "plan.py"), *arguments]
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    done = run("quick", "narrow", "")
    assert done.returncode == 0, done.stderr
    assert "Longest run: unet on mmwhs_ct, < 0.1 h." in done.stdout
    assert (studies / "runs" / "costs.json").is_file()
    done = run("quick", "narow")
    assert done.returncode == 1 and done.stderr.startswith("bipvl: there is no study 'narow'")
    assert done.stderr.count("\n") == 1
