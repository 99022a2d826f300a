"""The studies, the workflow over them, and the notebooks and pages that it makes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from bipvl.errors import BipvlError
from bipvl.experiments import load_experiments
from bipvl.notebook import Lines, execute
from bipvl.report import write_report

ROOT = Path(__file__).parents[1]
STUDY = {
    "title": "A study",
    "question": "Does it work?",
    "variants": ["bipvlseg"],
    "seeds": {"quick": [0]},
    "notebooks": ["03_main_table"],
}


def write_notebook(path: Path, code: str, **parameters: object) -> Path:
    """A stand-in notebook: a heading, its parameters, one cell of code."""
    cell = new_code_cell(
        "\n".join(f"{name} = {value!r}" for name, value in parameters.items()),
        metadata={"tags": ["parameters"]},
    )
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(
        new_notebook(
            cells=[new_markdown_cell(f"# About {path.stem}"), cell, new_code_cell(code)], metadata=kernel
        ),
        path,
    )
    return path


def write_experiments(folder: Path, **changes: object) -> Path:
    """An experiments.yaml of one study on one dataset, with one field of the study changed."""
    (folder / "03_main_table.ipynb").touch()
    path = folder / "experiments.yaml"
    content = {"datasets": ["mmwhs_ct"], "studies": {"small": STUDY | changes}}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def snakemake(folder: Path, *flags: str, **config: object) -> tuple[int, str]:
    """Run the workflow in a folder; exit code and all that it prints."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "notebooks" / "Snakefile"]
    command += ["--cores", "2", "--nolock", "--rerun-incomplete", *flags]
    command += ["--config", *(f"{name}={value}" for name, value in config.items())] if config else []
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


# The studies


def test_the_main_study_compares_two_networks_on_four_datasets():
    experiments = load_experiments(ROOT / "notebooks" / "experiments.yaml")
    (main,) = (s for s in experiments.select("all", "quick") if s.name == "main")
    assert experiments.datasets == ("amos22", "mmwhs_ct", "mmwhs_mr", "msd_brain")
    assert main.variants == ("bipvlseg", "swin_unetr_v2")
    assert main.seeds["quick"] == (0,)
    assert main.seeds["paper"] == (0, 1, 2)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"variants": ["bipvlsegg"]}, "bipvlseg"),
        ({"variants": []}, "'variants' must be a list of names"),
        ({"variants": ["bipvlseg", "bipvlseg"]}, "none twice"),
        ({"seeds": {"quik": [0]}}, "quick"),
        ({"seeds": {"quick": [-1]}}, "whole numbers"),
        ({"seeds": {"quick": 0}}, "whole numbers"),
        ({"seeds": [0]}, "must map profiles"),
        ({"notebooks": ["03_main_tabel"]}, "03_main_tabel.ipynb"),
        ({"title": 3}, "'title'"),
        ({"datasets": ["mmwhs"]}, "no dataset 'mmwhs'"),
        ({"datasets": []}, "'datasets' must be a list of names"),
        ({"notes": ""}, "no field of study 'small' 'notes'"),
    ],
)
def test_a_slip_in_a_study_is_told(tmp_path, changes, sentence):
    path = write_experiments(tmp_path, **changes)
    with pytest.raises(BipvlError, match=re.escape(sentence)) as caught:
        load_experiments(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("datasets: [amos23]\nstudies: {}", "amos22"),
        ("datasets: [amos22]", "lacks studies"),
        ("datasets: [amos22]\nstudies: {}", "'studies' must map"),
        ("datasets: [amos22]\nstudies: {all: {}}", "every study"),
        ("datasets: [amos22]\nstudies: {small: {title: x}}", "lacks question"),
        ("datasets: [amos22]\nstudy: {}", "'study'"),
        ("- amos22", "must be a mapping"),
        ("datasets: [", "cannot be read as YAML"),
    ],
)
def test_a_slip_in_the_file_is_told(tmp_path, text, sentence):
    path = tmp_path / "experiments.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BipvlError, match=sentence):
        load_experiments(path)


def test_a_study_runs_on_its_own_datasets_or_on_all(tmp_path):
    own = load_experiments(write_experiments(tmp_path, datasets=["msd_brain"])).studies["small"]
    assert own.datasets == ("msd_brain",)
    assert load_experiments(write_experiments(tmp_path)).studies["small"].datasets == ("mmwhs_ct",)


def test_every_study_of_the_paper_is_there_and_begins_with_the_method():
    studies = load_experiments(ROOT / "notebooks" / "experiments.yaml").studies
    assert set(studies) >= {"main", "comparison", "fusion", "objective", "prompts", "backbone", "released"}
    assert all(study.variants[0] == "bipvlseg" and "paper" in study.seeds for study in studies.values())


def test_a_study_is_chosen_by_name_or_by_profile(tmp_path):
    experiments = load_experiments(write_experiments(tmp_path))
    (small,) = experiments.select("small", "quick")
    assert experiments.select("all", "quick") == [small]
    assert experiments.select("all", "laptop") == []
    for study, profile, sentence in [
        ("smal", "quick", "small"),
        ("small", "laptop", "quick"),
        ("all", "x", "x"),
    ]:
        with pytest.raises(BipvlError, match=sentence):
            experiments.select(study, profile)


# The workflow


def test_the_quick_profile_is_the_main_comparison_and_the_fusion_study(tmp_path):
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    code, told = snakemake(tmp_path, "--dry-run", "--quiet", "rules")
    assert code == 0, told
    counts = dict(re.findall(r"^(\w+) +(\d+)$", told, re.MULTILINE))
    datasets = ("amos22", "mmwhs_ct", "mmwhs_mr", "msd_brain")
    steps = {f"prepare_{d}": "1" for d in datasets} | {f"run_{d}": "2" for d in datasets}
    steps["run_mmwhs_mr"] = "6"  # the fusion study's four variants beside the main comparison's two
    assert counts == {"all": "1", "study": "5", "total": "22"} | steps
    assert not (tmp_path / "runs").exists()


def test_each_step_is_of_the_dataset_that_its_output_names(tmp_path):
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    _, told = snakemake(tmp_path, "--dry-run", "--printshellcmds")
    steps = re.findall(r"bipvl.notebook \S+ runs/quick/(\w+)/.* dataset=(\w+)", told)
    assert len(steps) == 16
    assert all(output == dataset for output, dataset in steps)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"STUDY": "mian"}, "there is no study 'mian'; choose one of: main"),
        ({"PROFILE": "quik"}, "there is no profile 'quik'; choose one of: quick"),
        ({"JOBS": "many"}, "JOBS is 'many'"),
    ],
)
def test_a_wrong_value_is_one_sentence(tmp_path, config, sentence):
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    code, told = snakemake(tmp_path, **config)
    assert code != 0
    assert told.count("\n") == 1
    assert told.startswith(f"bipvl: {sentence}")


def test_it_fails_in_a_sentence_goes_on_and_then_has_nothing_to_do(tmp_path):
    notebooks = tmp_path / "notebooks"
    common = {"profile": "", "runs": "", "data_root": None}
    write_notebook(
        notebooks / "01_data.ipynb",
        "from pathlib import Path\n"
        "folder = Path(runs, profile, dataset)\n"
        "(folder / 'mean_atlas' / 'seed0').mkdir(parents=True, exist_ok=True)\n"
        "(folder / 'mean_atlas' / 'seed0' / 'metrics.csv').touch()\n"
        "(folder / 'split.json').touch()",
        **common,
        dataset="",
        figures="",
    )
    write_notebook(
        notebooks / "02_run.ipynb",
        "from pathlib import Path\n"
        "from bipvl.errors import BipvlError\n"
        "folder = Path(runs, profile, dataset, variant, f'seed{seed}')\n"
        "steps = (folder / 'state').read_text() if (folder / 'state').exists() else ''\n"
        "(folder / 'state').write_text(steps + '|')\n"
        "(folder / 'metrics.csv').write_text(f'{seed + 1}')\n"
        "if not steps:\n"
        "    raise BipvlError('the lamp is out; light it')",
        **common,
        dataset="",
        variant="",
        seed=None,
    )
    write_notebook(notebooks / "03_main_table.ipynb", "", **common, study="", figures="")
    write_experiments(notebooks)
    run = tmp_path / "runs" / "quick" / "mmwhs_ct" / "bipvlseg" / "seed0"

    code, told = snakemake(tmp_path)
    assert code != 0
    assert "mmwhs_ct/bipvlseg/seed0: the lamp is out; light it" in told, told
    assert "Traceback" not in told
    assert {path.name for path in run.iterdir()} == {"state", "notebook.failed.ipynb"}

    code, told = snakemake(tmp_path)
    assert code == 0, told
    assert {path.name for path in run.iterdir()} == {"state", "notebook.ipynb", "metrics.csv"}
    assert (run / "state").read_text() == "||"
    assert (run / "metrics.csv").read_text() == "1"

    code, told = snakemake(tmp_path)
    assert code == 0
    assert "Nothing to be done" in told


# The notebooks and pages


def test_progress_is_told_in_lines(capsys):
    lines = Lines(label="heart", target=sys.stdout)
    for text in ("one\nt", "wo\n", "\rbar 0%", "\rbar 9%", "\n", " \n", "three"):
        lines.write(text)
    assert capsys.readouterr().out == "heart: one\nheart: two\nheart: bar 0%\nheart: bar 9%\n"


def test_an_executed_notebook_is_whole_or_absent(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("SPYDER_TQDM", "")  # set by what is tested; restored after the test
    code = "from tqdm.auto import tqdm\nfor _ in tqdm(range(2), 'steps'):\n    print(2 / number)"
    notebook = write_notebook(tmp_path / "divide.ipynb", code, number=1)
    output = tmp_path / "a" / "b" / "out.ipynb"
    with pytest.raises(BipvlError, match="ZeroDivisionError"):
        execute(notebook, output, {"number": 0})
    assert [path.name for path in output.parent.iterdir()] == ["out.failed.ipynb"]
    execute(notebook, output, {"number": 4})
    assert [path.name for path in output.parent.iterdir()] == ["out.ipynb"]
    assert "0.5" in output.read_text(encoding="utf-8")
    told = capfd.readouterr().err
    assert "0.5" not in told
    assert re.search(r": steps: 100%.* 2/2 ", told)


def test_a_report_has_a_page_for_each_notebook(tmp_path):
    runs = Path("runs", "quick")
    paths = [runs / "amos22" / "bipvlseg" / "seed0" / "notebook.ipynb", runs / "studies" / "main" / "x.ipynb"]
    for path in paths:
        write_notebook(tmp_path / path, "1 + 1")
    config = (tmp_path / paths[0]).with_name("config.json")
    config.write_text('{"profile": "quick", "cohort": "synthetic"}', encoding="utf-8")
    index = tmp_path / "report" / "quick" / "index.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        write_report(index, paths)
    text = index.read_text(encoding="utf-8")
    assert "Profile quick; synthetic cohorts; 1 runs." in text
    pages = re.findall(r'href="(.*?)">(.*?)<', text)
    assert pages == [
        ("amos22-bipvlseg-seed0.html", "About notebook (amos22, bipvlseg, seed0)"),
        ("studies-main-x.html", "About x (studies, main, x)"),
    ]
    for page, _ in pages:
        assert "1 + 1" in re.sub("<.*?>", "", (index.parent / page).read_text(encoding="utf-8"))
