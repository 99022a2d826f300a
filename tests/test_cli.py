"""The command line: help with examples, a sentence for bad input, no incomplete files."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from bipvl.__main__ import app
from bipvl.common.files import write_json
from bipvl.engine.run import Run

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="bipvl")


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a scan, a run, an empty data root and one with a useless file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "filled").mkdir()
    (tmp_path / "filled" / "notes.txt").touch()
    (tmp_path / "unknown_base.yaml").write_text("extends: quik")
    run = Run.plan(profile="smoke", dataset="mmwhs_ct", variant="unet", seed=0, data_root=None)
    write_json(tmp_path / "trained" / "config.json", run.config)
    (tmp_path / "trained" / "model").mkdir()
    write_json(tmp_path / "old" / "config.json", {k: v for k, v in run.config.items() if k != "crop"})
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "scan.nii.gz")
    return tmp_path


def test_help_lists_the_commands():
    result = run("--help")
    assert result.exit_code == 0
    assert all(f"  {command} " in result.output for command in COMMANDS)
    assert "..." not in result.output.partition("Commands:")[2], "a summary is too long"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: bipvl {command}" in result.output


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "bipvl", "-h"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: bipvl ")


BAD_INPUT = [
    ("synthesize amos23", "amos22"),
    ("synthesize amos22 --size big", "512x512x200"),
    ("synthesize amos22 --size 64x64", "512x512x200"),
    ("synthesize amos22 --size 8", "at least 16"),
    ("synthesize amos22 --cases 1", "at least 2"),
    ("synthesize amos22 --seed -1", "0 or more"),
    ("check amos23 --data-root filled", "choose one of amos22"),
    ("check amos22 --data-root missing", "missing: the data root is not a folder"),
    ("check amos22 --data-root empty", "empty: the data root is empty"),
    ("check amos22 --data-root filled", "1 issues, listed above"),
    ("check my.yaml --data-root filled", "my.yaml"),
    ("prepare amos22 --profile quik", "quick"),
    ("prepare amos22 --profile paper", "as the data root"),
    ("prepare amos22 --data-root missing", "missing: the data root is not a folder"),
    ("prepare amos22 --data-root empty", "empty: the data root is empty"),
    ("prepare amos22 --data-root filled", "filled/amos22"),
    ("prepare amos23", "amos22"),
    ("train amos23 bipvlseg", "amos22"),
    ("train amos22 bipvlsegg", "bipvlseg"),
    ("train amos22 bipvlseg --profile quik", "quick"),
    ("train amos22 bipvlseg --data-root empty", "empty: the data root is empty"),
    ("train amos22 bipvlseg", "bipvl prepare amos22"),
    ("train amos22 bipvlseg --set training.lr", "KEY=VALUE"),
    ("train amos22 bipvlseg --set training.epoch=3", "use one of: epochs"),
    ("train amos22 bipvlseg --set training.epochs=three", "it must be a whole number from 1"),
    ("train amos22 bipvlseg --set training.lr=0", "it must be a number above 0"),
    ("train amos22 bipvlseg --profile mine.yaml", "mine.yaml: file not found"),
    ("train amos22 bipvlseg --profile unknown_base.yaml", "there is no profile 'quik'"),
    ("prepare amos22 --profile unknown_base.yaml", "unknown_base.yaml: 'extends'"),
    ("evaluate runs/none", "runs/none: holds no run"),
    ("evaluate old", "old/config.json: 'crop' is missing, so the file is of an older layout"),
    (
        "segment none.nii.gz --run trained -o out.nii.gz",
        "none.nii.gz: file not found; give a NIfTI file",
    ),
    ("segment empty --run trained -o out", "empty: no scan in this folder; give the folder"),
    (
        "segment filled/notes.txt --run trained -o out.nii.gz",
        "filled/notes.txt: not a NIfTI file by its name; give",
    ),
    ("segment scan.nii.gz --run runs/none -o out.nii.gz", "runs/none: holds no run"),
    ("segment scan.nii.gz --run trained -o out.png", "ends in .nii.gz or .nii"),
    ("segment scan.nii.gz --run trained -o ./scan.nii.gz", "the scan itself"),
    ("figures figures/quick", "make reproduce"),
    ("figures filled", "make reproduce"),
    ("figures filled --format svg", "there is no format 'svg'; choose one of: pdf, png"),
]


@pytest.mark.parametrize(("line", "sentence"), BAD_INPUT)
def test_bad_input_is_reported_in_a_sentence_and_writes_nothing(place, line, sentence):
    before = files_below(place)
    result = run(*line.split())
    *_, last = result.stderr.splitlines()
    assert result.exit_code == 1
    assert last.startswith("bipvl: ")
    assert sentence in last
    assert "Traceback" not in result.output
    assert files_below(place) == before


def test_bad_input_is_refused_before_torch_and_monai_are_imported(place):
    code = (
        "import sys; from typer.testing import CliRunner; from bipvl.__main__ import app\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    CliRunner().invoke(app, line.split())\n"
        "    assert not {'torch', 'monai', 'transformers'} & {*sys.modules}, line"
    )
    lines = "\n".join(line for line, _ in BAD_INPUT)
    subprocess.run([sys.executable, "-c", code], input=lines, text=True, check=True)


@pytest.mark.parametrize(
    ("command", "name", "title"),
    [("variants", "swin_unetr_v2", "SwinUNETR-V2"), ("profiles", "paper", "The paper's settings")],
)
def test_variants_and_profiles_are_listed_one_per_line(command, name, title):
    result = run(command)
    (line,) = (line for line in result.stdout.splitlines() if line.split()[0] == name)
    assert result.exit_code == 0 and title in line


@pytest.mark.parametrize("line", ["trian", "segment scan.nii.gz", "train amos22 bipvlseg --seed one"])
def test_a_wrong_command_or_option_shows_the_usage(line):
    result = run(*line.split())
    assert result.exit_code == 2
    assert "Usage: bipvl" in result.stderr


def test_an_interruption_says_how_to_resume(place, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("bipvl.data.synthetic.synthesize", interrupted)
    result = run("synthesize", "amos22")
    assert result.exit_code == 130
    assert "the same command resumes" in result.stderr
    assert "Traceback" not in result.output


def test_a_cohort_is_written_and_checked(place):
    assert run("synthesize", "mmwhs_ct", "--size", "24x24x16", "--cases", "2").exit_code == 0
    result = run("check", "mmwhs_ct", "--data-root", "data/synthetic")
    assert result.exit_code == 0
    assert "2 cases, no issues" in result.stdout


def test_every_issue_is_listed(place):
    run("synthesize", "mmwhs_ct", "--size", "16", "--cases", "2")
    first, second = sorted(Path("data/synthetic/mmwhs/ct_train").glob("*_label.nii.gz"))
    first.unlink()
    second.write_bytes(b"no image")
    result = run("check", "mmwhs_ct", "--data-root", "data/synthetic")
    assert result.exit_code == 1
    assert all(path.name in result.stderr for path in (first, second))
    assert "2 issues, listed above" in result.stderr.splitlines()[-1]


def test_a_scan_is_segmented_or_its_issue_reported(smoke_runs, place, trained_run):
    trained = trained_run("swin_unetr_v2").directory
    scan = next(smoke_runs.data_root.rglob("*_image.nii.gz"))
    result = run("segment", scan, "--run", trained, "-o", "out/labels.nii.gz")
    assert result.exit_code == 0, result.output
    assert nib.load("out/labels.nii.gz").shape == nib.load(scan).shape
    facts = json.loads(Path("out/labels.json").read_text(encoding="utf-8"))
    assert (facts["cohort"], facts["profile"], facts["seed"]) == ("synthetic", "smoke", 0)
    (place / "broken.nii.gz").write_bytes(b"no image")
    result = run("segment", "broken.nii.gz", "--run", trained, "-o", "out/broken.nii.gz")
    assert result.exit_code == 1
    assert "broken.nii.gz" in result.stderr
    assert {path.name for path in Path("out").iterdir()} == {"labels.csv", "labels.json", "labels.nii.gz"}


def test_a_folder_of_scans_is_segmented_and_other_files_are_reported(smoke_runs, place, trained_run):
    trained = trained_run("swin_unetr_v2").directory
    Path("scans").mkdir()
    for name, scan in zip("ab", sorted(smoke_runs.data_root.rglob("*_image.nii.gz")), strict=False):
        shutil.copyfile(scan, f"scans/{name}.nii.gz")
    Path("scans/notes.txt").touch()
    result = run("segment", "scans", "--run", trained, "-o", "out", "--probabilities")
    assert result.exit_code == 0, result.output
    assert all(f"wrote out/{name}" in result.stdout for name in ("a.nii.gz", "b.nii.gz", "volumes.csv"))
    assert "skipped" in result.stdout and "notes.txt" in result.stdout
    assert len(pd.read_csv("out/volumes.csv")) == 14
    assert len([*Path("out/a_probabilities").iterdir()]) == 7


def test_a_run_that_is_not_trained_cannot_segment(place, trained_run):
    trained = trained_run("bipvlseg").directory
    (place / "stopped").mkdir()
    (place / "stopped" / "config.json").write_bytes((trained / "config.json").read_bytes())
    result = run("segment", "scan.nii.gz", "--run", "stopped", "-o", "labels.nii.gz")
    assert result.exit_code == 1
    assert "stopped: no trained network" in result.stderr


def test_a_run_on_real_data_needs_a_data_root_to_be_evaluated(place, trained_run):
    trained = trained_run("bipvlseg").directory
    config = (trained / "config.json").read_text(encoding="utf-8")
    (place / "config.json").write_text(config.replace('"synthetic"', '"real"'), encoding="utf-8")
    (place / "model").mkdir()
    result = run("evaluate", place)
    assert result.exit_code == 1
    assert "--data-root" in result.stderr
