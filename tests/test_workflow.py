"""The studies of experiments.yaml, the workflow that runs them, and the notebooks and reports it writes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import score_files
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from bipvl.analysis.studies import load_experiments
from bipvl.common.errors import BipvlError
from bipvl.engine.variants import VARIANTS
from tools.report import write_report
from tools.run_notebook import LabelledLines, execute

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "notebooks" / "experiments.yaml"
STUDY = {
    "title": "A study",
    "question": "Does it work?",
    "variants": ["bipvlseg"],
    "seeds": {"quick": [0]},
    "notebooks": ["03_main_table"],
}


def write_notebook(path: Path, code: str, **parameters: object) -> Path:
    """Write a notebook with a heading, its parameters and one cell of code."""
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


def write_data_notebook(notebooks: Path, **parameters: object) -> None:
    """Write a 01_data.ipynb that creates the files that the workflow expects, all empty."""
    write_notebook(
        notebooks / "01_data.ipynb",
        "from pathlib import Path\n"
        "folder = Path(runs, profile, dataset)\n"
        "(folder / 'mean_atlas' / 'seed0').mkdir(parents=True, exist_ok=True)\n"
        "(folder / 'mean_atlas' / 'seed0' / 'metrics.csv').touch()\n"
        "(folder / 'split.json').touch()",
        **parameters,
        dataset="",
        figures="",
    )


def write_experiments(folder: Path, **changes: object) -> Path:
    """Write an experiments.yaml with one study on one data set; ``changes`` replace fields of the study."""
    (folder / "03_main_table.ipynb").touch()
    path = folder / "experiments.yaml"
    content = {"datasets": ["mmwhs_ct"], "studies": {"small": STUDY | changes}}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def snakemake(folder: Path, *flags: str, **config: object) -> tuple[int, str]:
    """Run the workflow in a folder; returns its exit code and its output."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "notebooks" / "Snakefile"]
    command += ["--cores", "2", "--nolock", "--rerun-incomplete", *flags]
    command += ["--config", *(f"{name}={value}" for name, value in config.items())] if config else []
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


# --- studies ---


def test_the_main_study_compares_two_networks_on_four_data_sets():
    experiments = load_experiments("quick", EXPERIMENTS)
    (main,) = (s for s in experiments.select("all") if s.name == "main")
    assert main.datasets == ("amos22", "mmwhs_ct", "mmwhs_mr", "msd_brain")
    assert set(experiments.datasets) >= set(main.datasets)
    assert main.variants == ("bipvlseg", "swin_unetr_v2")
    assert main.seeds == (0,)
    laptop, paper = (load_experiments(p, EXPERIMENTS).study("main") for p in ("laptop", "paper"))
    assert laptop.datasets == ("msd_hippocampus", "openkbp") and len(laptop.seeds) == 2
    assert set(paper.variants) > {"bipvlseg", "swin_unetr_v2", "universal"}
    assert paper.seeds == (0, 1, 2)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"variants": ["bipvlsegg"]}, "there is no variant 'bipvlsegg'; choose one of: bipvlseg"),
        ({"variants": []}, "'studies.small.variants' is []; it must be a list of different names"),
        ({"variants": ["bipvlseg"] * 2}, "'studies.small.variants' lists 'bipvlseg' twice; remove one"),
        (
            {"variants": {"laptop": ["bipvlseg"]}},
            "'studies.small.variants' has nothing for profile 'quick'; ",
        ),
        ({"seeds": {"quik": [0]}}, "'studies.small.seeds' 'quik'; choose one of: quick"),
        ({"seeds": {"quick": [0], "defualt": [0]}}, "'defualt'; choose one of: default"),
        ({"seeds": {"quick": [-1]}}, "'studies.small.seeds' is {'quick': [-1]}; it must be a list of whole"),
        (
            {"seeds": {"quick": 0}},
            "'studies.small.seeds' is {'quick': 0}; it must be a list of whole numbers",
        ),
        ({"external": ["nnunet"]}, "there is no external prediction 'nnunet'; "),
        ({"notebooks": ["03_main_tabel"]}, "there is no notebook 03_main_tabel.ipynb in "),
        ({"notebooks": ["../03_main_table"]}, "there is no notebook ../03_main_table.ipynb in "),
        ({"title": 3}, "'studies.small.title' is 3; it must be a text"),
        ({"datasets": ["mmwhs"]}, "'mmwhs'; choose one of: mmwhs_mr, mmwhs_ct"),
        ({"datasets": []}, "'studies.small.datasets' is []; name at least one data set"),
        ({"notes": ""}, "there is no key 'studies.small.notes'; use one of: notebooks"),
    ],
)
def test_a_mistake_in_a_study_is_reported(tmp_path, changes, sentence):
    path = write_experiments(tmp_path, **changes)
    with pytest.raises(BipvlError, match=re.escape(sentence)) as caught:
        load_experiments("quick", path)
    assert caught.value.file == path and caught.value.fix


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("datasets: [amos23]\nstudies: {small: STUDY}", "'amos23'; choose one of: amos22"),
        ("datasets: [amos22]", "'studies' is missing; "),
        ("datasets: [amos22]\nstudies: {}", "'studies' is {}; "),
        ("datasets: [amos22]\nstudies: {all: STUDY}", "'all'"),
        ("datasets: [amos22]\nstudies: {../elsewhere: STUDY}", "'../elsewhere'"),
        ("datasets: [amos22]\nstudies: {small: {title: x}}", "'studies.small.question' is missing; "),
        ("datasets: [amos22]\nstudy: {}", "there is no key 'study'; use one of: studies"),
        ("- amos22", "holds no mapping of keys to values; "),
        ("datasets: [", "not readable as YAML"),
    ],
)
def test_a_mistake_in_the_file_is_reported(tmp_path, text, sentence):
    path = write_experiments(tmp_path)
    path.write_text(text.replace("STUDY", json.dumps(STUDY)), encoding="utf-8")
    with pytest.raises(BipvlError, match=re.escape(sentence)) as caught:
        load_experiments("quick", path)
    assert caught.value.file == path and caught.value.fix


def test_a_study_runs_on_its_data_sets_or_on_all(tmp_path):
    study = load_experiments("quick", write_experiments(tmp_path, datasets=["msd_brain"])).study("small")
    assert study.datasets == ("msd_brain",)
    assert load_experiments("quick", write_experiments(tmp_path)).study("small").datasets == ("mmwhs_ct",)


def test_defaults_fill_in_what_a_study_leaves_out(tmp_path):
    path = write_experiments(tmp_path)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["defaults"] = {"datasets": ["msd_brain"], "seeds": [5]}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    study = load_experiments("quick", path).study("small")
    assert (study.datasets, study.seeds) == (("msd_brain",), (0,))
    del content["studies"]["small"]["seeds"]
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert load_experiments("quick", path).study("small").seeds == (5,)
    content["defaults"] = {"seed": [5]}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(BipvlError, match=r"there is no key 'defaults.seed'; use one of: seeds"):
        load_experiments("quick", path)


def test_variants_and_seeds_may_depend_on_the_profile(tmp_path):
    variants = {"default": ["bipvlseg", "unet"], "quick": ["bipvlseg"]}
    path = write_experiments(tmp_path, variants=variants, seeds={"default": [0, 1], "quick": [3]})
    quick, laptop = (load_experiments(p, path).study("small") for p in ("quick", "laptop"))
    assert quick.runs("mmwhs_ct") == [("bipvlseg", 3)]
    assert laptop.runs("mmwhs_ct") == [("bipvlseg", 0), ("bipvlseg", 1), ("unet", 0), ("unet", 1)]


@pytest.mark.parametrize("profile", ["quick", "laptop", "paper"])
def test_every_profile_has_all_studies_of_the_paper_and_each_starts_with_the_method(profile):
    studies = {s.name: s for s in load_experiments(profile, EXPERIMENTS).select("all")}
    named = {"main", "comparison", "fusion", "objective", "text_encoder", "prompts", "backbone", "released"}
    assert set(studies) >= named | {"variance", "efficiency"}
    assert all(study.variants[0] == "bipvlseg" for study in studies.values() if study.datasets)


def test_every_variant_is_part_of_a_study():
    studies = [s for p in ("laptop", "paper") for s in load_experiments(p, EXPERIMENTS).select("all")]
    assert {variant for study in studies for variant in study.variants} == set(VARIANTS)


def test_studies_are_selected_by_name_or_by_profile(tmp_path):
    experiments = load_experiments("quick", write_experiments(tmp_path))
    (small,) = experiments.select("small")
    assert experiments.select("all") == [small]
    assert load_experiments("laptop", write_experiments(tmp_path)).select("all") == []
    for study, profile, sentence in [
        ("smal", "quick", "there is no study 'smal'; choose one of: small"),
        ("small", "laptop", "no seeds for profile 'laptop'"),
        ("all", "x", "no profile 'x'"),
    ]:
        with pytest.raises(BipvlError, match=sentence):
            load_experiments(profile, write_experiments(tmp_path)).select(study)


# --- the workflow ---


@pytest.mark.slow
def test_the_quick_profile_runs_every_study_and_each_run_once_on_the_data_set_in_its_path(tmp_path):
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    code, output = snakemake(tmp_path, "--dry-run", "--printshellcmds")
    assert code == 0, output
    counts = {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)}
    studies = load_experiments("quick", EXPERIMENTS).select("all")
    for dataset in ("amos22", "mmwhs_ct", "mmwhs_mr", "msd_brain"):
        assert counts[f"prepare_{dataset}"] == 1
        runs = {run for study in studies if dataset in study.datasets for run in study.runs(dataset)}
        assert counts[f"run_{dataset}"] == len(runs)
    assert counts["study"] == sum(len(study.notebooks) for study in studies)
    assert counts["claims"] == 1
    assert counts["reading"] == sum(len(s.variants) * len(s.seeds) for s in studies if not s.datasets) == 3
    assert not (tmp_path / "runs").exists()
    steps = re.findall(r"run_notebook.py \S+ runs/quick/(\w+)/.* dataset=(\w+)", output)
    assert len(steps) > 16
    assert all(folder == dataset for folder, dataset in steps)


@pytest.mark.slow
def test_the_reading_test_needs_neither_data_nor_claims(tmp_path):
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    code, output = snakemake(tmp_path, "--dry-run", STUDY="reading")
    assert code == 0, output
    counts = {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)}
    assert counts == {"all": 1, "reading": 3, "study": 1, "total": 5}


@pytest.mark.slow
def test_external_predictions_are_evaluated_for_the_studies_that_use_them(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        (tmp_path / "notebooks" / path.name).symlink_to(path)
    other = {"title": "Their tool", "dataset": "mmwhs_ct", "folder": "masks"}
    content = {
        "datasets": ["mmwhs_ct", "msd_brain"],
        "external": {"their_tool": other},
        "studies": {"small": STUDY | {"external": ["their_tool"]}},
    }
    (tmp_path / "notebooks" / "experiments.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    _, output = snakemake(tmp_path, "--dry-run", "--printshellcmds")
    steps = re.findall(r"12_external.ipynb (\S+) .* dataset=(\w+) name=(\w+)", output)
    assert steps == [("runs/quick/mmwhs_ct/their_tool/seed0/notebook.ipynb", "mmwhs_ct", "their_tool")], (
        output
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"STUDY": "mian"}, "there is no study 'mian'; choose one of: main"),
        ({"PROFILE": "quik"}, "there is no profile 'quik'; choose one of: quick"),
        ({"JOBS": "many"}, "JOBS is 'many'; give the number of notebooks"),
    ],
)
def test_a_wrong_value_is_reported_in_one_sentence(tmp_path, config, sentence):
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    code, output = snakemake(tmp_path, **config)
    assert code != 0
    assert output.count("\n") == 1
    assert output.startswith(f"bipvl: {sentence}")


@pytest.mark.slow
def test_a_failed_workflow_reports_the_error_resumes_and_then_has_nothing_to_do(tmp_path):
    notebooks = tmp_path / "notebooks"
    common = {"profile": "", "runs": "", "data_root": None}
    write_data_notebook(notebooks, **common)
    write_notebook(
        notebooks / "02_run.ipynb",
        "from pathlib import Path\n"
        "from bipvl.common.errors import BipvlError\n"
        "folder = Path(runs, profile, dataset, variant, f'seed{seed}')\n"
        "steps = (folder / 'state').read_text() if (folder / 'state').exists() else ''\n"
        "(folder / 'state').write_text(steps + '|')\n"
        "(folder / 'metrics.csv').write_text(f'{seed + 1}')\n"
        "if not steps:\n"
        "    raise BipvlError('the lamp is out', 'light it')",
        **common,
        dataset="",
        variant="",
        seed=None,
    )
    for name in ("03_main_table", "11_claims"):
        write_notebook(notebooks / f"{name}.ipynb", "", **common, study="", figures="")
    write_experiments(notebooks)
    run = tmp_path / "runs" / "quick" / "mmwhs_ct" / "bipvlseg" / "seed0"

    code, output = snakemake(tmp_path)
    assert code != 0
    assert "mmwhs_ct/bipvlseg/seed0: the lamp is out; light it; see the failed cell in runs/" in output, (
        output
    )
    assert "Traceback" not in output
    assert {path.name for path in run.iterdir()} == {"state", "notebook.failed.ipynb"}

    code, output = snakemake(tmp_path)
    assert code == 0, output
    assert {path.name for path in run.iterdir()} == {"state", "notebook.ipynb", "metrics.csv"}
    assert (run / "state").read_text() == "||"
    assert (run / "metrics.csv").read_text() == "1"

    code, output = snakemake(tmp_path)
    assert code == 0
    assert "Nothing to be done" in output


# --- notebooks and reports ---


def test_progress_is_printed_in_labelled_lines(capsys):
    lines = LabelledLines(label="heart", target=sys.stdout)
    for text in ("one\nt", "wo\n", "\rbar 0%", "\rbar 9%", "\n", " \n", "three"):
        lines.write(text)
    assert capsys.readouterr().out == "heart: one\nheart: two\nheart: bar 0%\nheart: bar 9%\n"


@pytest.mark.slow
def test_the_output_notebook_exists_only_after_success(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("SPYDER_TQDM", "")  # ``execute`` sets it; monkeypatch restores it
    code = "from tqdm.auto import tqdm\nfor _ in tqdm(range(2), 'steps'):\n    print(2 / number)"
    notebook = write_notebook(tmp_path / "divide.ipynb", code, number=1)
    output = tmp_path / "a" / "b" / "out.ipynb"
    with pytest.raises(BipvlError, match="ZeroDivisionError"):
        execute(notebook, output, {"number": 0})
    assert [path.name for path in output.parent.iterdir()] == ["out.failed.ipynb"]
    execute(notebook, output, {"number": 4})
    assert [path.name for path in output.parent.iterdir()] == ["out.ipynb"]
    assert "0.5" in output.read_text(encoding="utf-8")
    progress = capfd.readouterr().err
    assert "0.5" not in progress
    assert re.search(r": steps: 100%.* 2/2 ", progress)


@pytest.fixture
def report(tmp_path, monkeypatch):
    """The folder of a report on one run and one study, with a figure and a claim that holds HTML."""
    monkeypatch.chdir(tmp_path)
    runs, figures = Path("runs", "quick"), Path("figures", "quick")
    paths = [runs / "amos22" / "bipvlseg" / "seed0" / "notebook.ipynb", runs / "studies" / "main" / "x.ipynb"]
    for path in paths:
        write_notebook(path, "1 + 1")
    config = {
        "profile": "quick",
        "cohort": "synthetic",
        "dataset": "amos22",
        "variant": "bipvlseg",
        "seed": 0,
    }
    phases = {"train": {"seconds": 61.4, "peak_memory_gib": 1.25, "commit": "0123456789abcdef"}}
    paths[0].with_name("config.json").write_text(json.dumps(config), encoding="utf-8")
    manifest = json.dumps({"phases": phases})
    paths[0].with_name("manifest.json").write_text(manifest, encoding="utf-8")
    figures.mkdir(parents=True)
    for name in ("bars.png", "bars.csv", "scores.csv"):
        (figures / name).write_text(name, encoding="utf-8")
    (figures / "claims.csv").write_text("claim,verdict\n<b>it</b> helps,undecided\n", encoding="utf-8")
    index = Path("report", "quick", "index.html")
    write_report(index, paths, studies=[score_files.study(title="The <main> one")], figures=figures)
    return index.parent


def test_a_report_has_a_page_for_each_notebook(report):
    text = (report / "index.html").read_text(encoding="utf-8")
    assert "Profile quick; synthetic cohorts; 1 runs." in text
    pages = re.findall(r'<li><a href="(.*?html)">(.*?)<', text)
    assert pages == [
        ("amos22-bipvlseg-seed0.html", "About notebook (amos22, bipvlseg, seed0)"),
        ("studies-main-x.html", "About x (studies, main, x)"),
    ]
    for page, _ in pages:
        assert "1 + 1" in re.sub("<.*?>", "", (report / page).read_text(encoding="utf-8"))


def test_a_report_shows_verdicts_studies_figures_and_costs_of_runs(report):
    text = (report / "index.html").read_text(encoding="utf-8")
    assert "<td>&lt;b&gt;it&lt;/b&gt; helps</td><td>undecided</td>" in text
    assert (
        'The &lt;main&gt; one</td><td>?</td><td>MM-WHS (cardiac CT)</td><td><a href="studies-main-x.html">'
        in text
    )
    assert '<a href="figures/scores.csv">scores.csv</a>' in text
    assert re.search(
        r"BiPVL-Seg</a></td><td>0</td><td>61</td><td></td><td>1.2</td><td>0123456789ab</td>", text
    )


def test_a_report_links_only_files_in_its_folder(report):
    links = re.findall(r'(?:href|src)="(.*?)"', (report / "index.html").read_text(encoding="utf-8"))
    assert links and all((report / link).is_file() for link in links)
    for page in report.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r'<(script|link)[^>]*(src|href)="http', text), page
