"""The plan of a profile's runs: windows, operations, hours, and what is missing."""

import os
import shutil
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

from bipvl.analysis.cost_keys import Cost
from bipvl.analysis.studies import load_experiments
from bipvl.data.spec import load_spec
from bipvl.data.splits import Split
from bipvl.engine.windows import count_windows
from tools import plan
from tools.plan import find_missing
from tools.plan_steps import Step, read_steps

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
    assert wide[1:3] == ["4", "0"] and narrow[1:3] == ["1", "0"] and total[-5:-3] == ["4", "0"]
    assert float(wide[3]) == float(total[-3]) == pytest.approx(4 * float(narrow[3]), rel=0.1)
    assert float(narrow[3]) > 0
    assert (wide[4], narrow[4], total[-2]) == ("7.0", "2.0", "7.0")
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
    assert missing[0].startswith("data: no DATA_ROOT is given; it must hold amos22, Task01_BrainTumour")
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


# --- what is shown ---


@pytest.mark.parametrize("profile", ["quick", "laptop", "paper"])
def test_a_built_in_profile_fits_on_one_screen_and_verbose_shows_the_rest(profile, tmp_path, monkeypatch):
    """Even if all that can be missing is missing, and no run is done."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "file_exists", lambda *_, **__: [][0])
    stand_in = "DistilBERT of base size for medicalai/ClinicalBERT"
    monkeypatch.setattr(
        plan,
        "_count",
        lambda pairs, _: [(key, cost(stand_in=f"{stand_in}{n % 2}")) for n, key in enumerate(pairs)],
    )
    steps = [Step(f"runs/{profile}/mmwhs_ct/{n:030}/notebook.ipynb", "missing output") for n in range(9)]
    monkeypatch.setattr(plan, "dry_run", lambda options: steps)
    (data_root := tmp_path / "data").mkdir()
    (data_root / "empty").touch()
    short = plan.plan(profile, "all", data_root, tmp_path, options=["--cores"]).splitlines()
    full = plan.plan(profile, "all", data_root, tmp_path, options=["--cores"], verbose=True).splitlines()
    assert len(short) <= 40 and max(map(len, short)) <= 110
    assert [sum("notebook.ipynb: missing output" in line for line in lines) for lines in (short, full)] == [
        5,
        9,
    ]


DRY_RUN = """\
Job stats:
all                      1

[Thu Jan  1 00:00:00 2026]
rule run_mmwhs_ct:
    input: notebooks/02_run.ipynb, split.json
    output: unet/notebook.ipynb, unet/metrics.csv
    jobid: 4
    reason: Missing output files: unet/metrics.csv; Input files updated by another job: split.json
    wildcards: variant=unet, seed=0
rule claims:
    output: runs/studies/claims.ipynb
    jobid: 2
    reason: Input files updated by another job: unet/metrics.csv
[Thu Jan  1 00:00:00 2026]
rule prepare_mmwhs_ct:
    output: data.ipynb, split.json
    jobid: 1
    reason: Updated input files: scan.nii.gz; Params have changed since last execution: Union of params
    priority: 101
localrule all:
    input: claims.ipynb
    jobid: 0
    reason: Input files updated by another job: claims.ipynb
Reasons:
    input files updated by another job:
        all, claims
"""


def test_steps_are_read_from_a_dry_run_by_priority_and_with_reasons():
    assert [str(step) for step in read_steps(DRY_RUN)] == [
        "data.ipynb: changed settings, changed input",
        "unet/notebook.ipynb: missing output",
        "runs/studies/claims.ipynb: new input from an earlier step",
    ]
    assert read_steps("Nothing to be done (all requested files are present and up to date).\n") == []


@pytest.mark.slow
def test_the_script_counts_lists_the_steps_and_reports_a_wrong_name_in_one_sentence(studies):
    for name in ("01_data", "02_run", "11_claims"):
        (studies / "notebooks" / f"{name}.ipynb").touch()

    def run(study):
        command = [sys.executable, "-m", "tools.plan", f"STUDY={study}", "--", "--nolock", "--cores", "2"]
        command += ["--snakefile", str(ROOT / "notebooks" / "Snakefile"), "--config", f"STUDY={study}"]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    done = run("narrow")
    assert done.returncode == 0, done.stderr
    assert "Longest run: unet on mmwhs_ct, < 0.1 h." in done.stdout
    first, second, *_ = done.stdout.split("First steps of 4, and why (VERBOSE=1 lists all):\n")[
        1
    ].splitlines()
    assert first == "  runs/quick/mmwhs_ct/data.ipynb: missing output"
    assert second == "  runs/quick/mmwhs_ct/unet/seed0/notebook.ipynb: missing output"
    assert (studies / "runs" / "costs.json").is_file()
    done = run("narow")
    assert done.returncode == 1 and done.stderr.startswith("bipvl: there is no study 'narow'")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("plan VERBOSE=maybe", "VERBOSE is 'maybe'; give 0 or 1"),
        ("plan JOBS=0", "JOBS is '0'; give a whole number from 1"),
        ("plan PROFILE=qick", "there is no profile 'qick'; choose one of: quick"),
        ("plan STUDY=mian", "there is no study 'mian'; choose one of: main"),
        ("reproduce JOBS=zwei", "JOBS is 'zwei'; give a whole number from 1"),
        ("reproduce PROFILE=my.yaml", "my.yaml: file not found; check its path"),
        ("report STUDY=mian", "there is no study 'mian'; choose one of: main"),
        ("figures FORMAT=gif", "FORMAT is 'gif'; give png or pdf"),
        ("figures PROFILE=qick", "there is no profile 'qick'; choose one of: quick"),
        ("stress KILLS=-1", "KILLS is '-1'; give a whole number from 1"),
    ],
)
def test_make_refuses_a_wrong_value_before_it_runs_anything(target, sentence):
    ready = ["--old-file", ".venv/.ready", f"BIN={Path(sys.executable).parent}"]  # without installing
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", *ready, *target.split()], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    refused, stopped = done.stderr.splitlines()
    assert done.returncode == 2 and done.stdout == ""
    assert refused == f"bipvl: {sentence}" and "Error 1" in stopped
