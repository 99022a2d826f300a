"""The studies, the workflow over them, and the notebooks and pages that it makes."""

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
from tools.run_notebook import Lines, execute

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


def write_data_notebook(notebooks: Path, **parameters: object) -> None:
    """A 01_data.ipynb that leaves the files which the workflow expects of it, and nothing in them."""
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
    experiments = load_experiments("quick", EXPERIMENTS)
    (main,) = (s for s in experiments.select("all") if s.name == "main")
    assert experiments.datasets == main.datasets == ("amos22", "mmwhs_ct", "mmwhs_mr", "msd_brain")
    assert main.variants == ("bipvlseg", "swin_unetr_v2")
    assert main.seeds == (0,)
    paper = load_experiments("paper", EXPERIMENTS).study("main")
    assert set(paper.variants) > {"bipvlseg", "swin_unetr_v2", "universal"}
    assert paper.seeds == (0, 1, 2)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"variants": ["bipvlsegg"]}, "bipvlseg"),
        ({"variants": []}, "'variants' of study 'small' must be a list of names"),
        ({"variants": ["bipvlseg", "bipvlseg"]}, "none twice"),
        ({"seeds": {"quik": [0]}}, "quick"),
        ({"seeds": {"quick": [-1]}}, "whole numbers"),
        ({"seeds": {"quick": 0}}, "whole numbers"),
        ({"seeds": {"quick": [0], "defualt": [0]}}, "default"),
        ({"variants": {"laptop": ["bipvlseg"]}}, "'variants' of study 'small' must be a list of names"),
        ({"external": ["nnunet"]}, "no external prediction 'nnunet'"),
        ({"notebooks": ["03_main_tabel"]}, "03_main_tabel.ipynb"),
        ({"notebooks": ["../03_main_table"]}, "there is no notebook '../03_main_table.ipynb' beside it"),
        ({"title": 3}, "'title'"),
        ({"datasets": ["mmwhs"]}, "no dataset 'mmwhs'"),
        ({"datasets": []}, "'datasets' of study 'small' must be a list of names"),
        ({"notes": ""}, "no field of study 'small' 'notes'"),
    ],
)
def test_a_slip_in_a_study_is_told(tmp_path, changes, sentence):
    path = write_experiments(tmp_path, **changes)
    with pytest.raises(BipvlError, match=re.escape(sentence)) as caught:
        load_experiments("quick", path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("datasets: [amos23]\nstudies: {}", "amos22"),
        ("datasets: [amos22]", "lacks studies"),
        ("datasets: [amos22]\nstudies: {}", "'studies' must map"),
        ("datasets: [amos22]\nstudies: {all: {}}", "every study"),
        ("datasets: [amos22]\nstudies: {../elsewhere: {}}", "a study may not be called '../elsewhere'"),
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
        load_experiments("quick", path)


def test_a_study_runs_on_its_own_datasets_or_on_all(tmp_path):
    own = load_experiments("quick", write_experiments(tmp_path, datasets=["msd_brain"])).study("small")
    assert own.datasets == ("msd_brain",)
    assert load_experiments("quick", write_experiments(tmp_path)).study("small").datasets == ("mmwhs_ct",)


def test_a_profile_may_have_datasets_variants_and_seeds_of_its_own(tmp_path):
    variants = {"default": ["bipvlseg", "unet"], "quick": ["bipvlseg"]}
    path = write_experiments(tmp_path, variants=variants, seeds={"default": [0, 1], "quick": [3]})
    quick, laptop = (load_experiments(p, path).study("small") for p in ("quick", "laptop"))
    assert quick.runs("mmwhs_ct") == [("bipvlseg", 3)]
    assert laptop.runs("mmwhs_ct") == [("bipvlseg", 0), ("bipvlseg", 1), ("unet", 0), ("unet", 1)]


@pytest.mark.parametrize("profile", ["quick", "laptop", "paper"])
def test_every_study_of_the_paper_is_there_and_begins_with_the_method(profile):
    studies = {s.name: s for s in load_experiments(profile, EXPERIMENTS).select("all")}
    named = {"main", "comparison", "fusion", "objective", "text_encoder", "prompts", "backbone", "released"}
    assert set(studies) >= named | {"variance", "efficiency"}
    assert all(study.variants[0] == "bipvlseg" for study in studies.values())


def test_at_the_papers_scale_every_variant_has_its_study():
    studied = {
        v
        for p in ("laptop", "paper")
        for s in load_experiments(p, EXPERIMENTS).select("all")
        for v in s.variants
    }
    assert studied == set(VARIANTS)


def test_a_study_is_chosen_by_name_or_by_profile(tmp_path):
    experiments = load_experiments("quick", write_experiments(tmp_path))
    (small,) = experiments.select("small")
    assert experiments.select("all") == [small]
    assert load_experiments("laptop", write_experiments(tmp_path)).select("all") == []
    for study, profile, sentence in [
        ("smal", "quick", "small"),
        ("small", "laptop", "no seeds for profile 'laptop'"),
        ("all", "x", "no profile 'x'"),
    ]:
        with pytest.raises(BipvlError, match=sentence):
            load_experiments(profile, write_experiments(tmp_path)).select(study)


# The workflow


def test_the_quick_profile_runs_every_study_and_each_run_once(tmp_path):
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    code, told = snakemake(tmp_path, "--dry-run", "--quiet", "rules")
    assert code == 0, told
    counts = {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", told, re.MULTILINE)}
    studies = load_experiments("quick", EXPERIMENTS).select("all")
    for dataset in ("amos22", "mmwhs_ct", "mmwhs_mr", "msd_brain"):
        assert counts[f"prepare_{dataset}"] == 1
        runs = {run for study in studies if dataset in study.datasets for run in study.runs(dataset)}
        assert counts[f"run_{dataset}"] == len(runs)
    assert counts["study"] == sum(len(study.notebooks) for study in studies)
    assert counts["claims"] == 1
    assert not (tmp_path / "runs").exists()


def test_others_predictions_are_a_step_of_the_studies_that_show_them(tmp_path):
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
    _, told = snakemake(tmp_path, "--dry-run", "--printshellcmds")
    steps = re.findall(r"12_external.ipynb (\S+) .* dataset=(\w+) name=(\w+)", told)
    assert steps == [("runs/quick/mmwhs_ct/their_tool/seed0/notebook.ipynb", "mmwhs_ct", "their_tool")], told


def test_each_step_is_of_the_dataset_that_its_output_names(tmp_path):
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    _, told = snakemake(tmp_path, "--dry-run", "--printshellcmds")
    steps = re.findall(r"run_notebook.py \S+ runs/quick/(\w+)/.* dataset=(\w+)", told)
    assert len(steps) > 16
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
        "    raise BipvlError('the lamp is out; light it')",
        **common,
        dataset="",
        variant="",
        seed=None,
    )
    for name in ("03_main_table", "11_claims"):
        write_notebook(notebooks / f"{name}.ipynb", "", **common, study="", figures="")
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


@pytest.fixture
def report(tmp_path, monkeypatch):
    """A report of a run and a study, with a figure, a claim and a data set's odd name; its folder."""
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
    for name in ("bars.png", "bars.pdf", "bars.csv", "scores.csv"):
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


def test_a_report_tells_verdicts_studies_figures_and_what_runs_took(report):
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


def test_a_report_needs_nothing_but_its_folder(report):
    links = re.findall(r'(?:href|src)="(.*?)"', (report / "index.html").read_text(encoding="utf-8"))
    assert links and all((report / link).is_file() for link in links)
    for page in report.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r'<(script|link)[^>]*(src|href)="http', text), page
