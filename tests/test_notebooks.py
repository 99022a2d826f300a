"""Notebooks: pairing with scripts, common first cells, and one quick execution of each."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import jupytext
import nbformat
import pandas as pd
import papermill
import pytest
from wheels import build_wheel, environment, site_packages

from bipvl.analysis.studies import load_experiments, reading_folders
from bipvl.engine import reading
from bipvl.engine.reading import run_reading
from tools.update_links import repository, with_links

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
PARAMETERS = {"profile", "dataset", "variant", "name", "seed", "data_root", "runs", "figures", "study"}
QUICKSTART = {"run", "data_root", "prompts", "output"}
LAB = {"run", "data_root", "case", "structure", "concept", "text", "word", "output"}


def notebook(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def tags(cell):
    return cell.metadata.get("tags", [])


def test_each_notebook_has_a_script():
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.py")) == NAMES
    assert len(NAMES) >= 7


@pytest.mark.parametrize("name", NAMES)
def test_script_and_notebook_are_equal_and_the_notebook_has_no_outputs(name):
    script, book = jupytext.read(ROOT / "notebooks" / f"{name}.py"), notebook(name)
    assert [(c.cell_type, c.source, tags(c)) for c in script.cells] == [
        (c.cell_type, c.source, tags(c)) for c in book.cells
    ]
    assert book.metadata.kernelspec.name == "python3"
    for cell in book.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.parametrize("name", NAMES)
def test_the_first_cells_are_title_badge_installation_and_parameters(name):
    head, install, parameters, *rest = notebook(name).cells
    address = repository(ROOT / "pyproject.toml")
    path = address.removeprefix("https://github.com/")
    assert head.source.startswith("# ")
    assert f"https://colab.research.google.com/github/{path}/blob/main/notebooks/{name}.ipynb" in head.source
    assert 'find_spec("bipvl") is None' in install.source and f'"{address}"' in install.source
    assert tags(parameters) == ["parameters"] and not any(tags(cell) for cell in rest)
    names: dict[str, object] = {}
    exec(parameters.source, names)
    known = {"00_quickstart": QUICKSTART, "16_prompt_lab": LAB}.get(name, PARAMETERS)
    assert set(names) - {"__builtins__"} <= known
    assert names["data_root"] is None


@pytest.mark.parametrize("name", NAMES)
def test_links_follow_the_address_in_pyproject(name, tmp_path):
    text = (ROOT / "notebooks" / f"{name}.py").read_text(encoding="utf-8")
    address = repository(ROOT / "pyproject.toml")
    assert with_links(text, name, address) == text, "run: python tools/update_links.py notebooks/*.py"
    moved = with_links(text, name, "https://github.com/else/where")
    assert moved.count("else/where") == 2 and address not in moved
    assert with_links(moved, name, address) == text


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_that_needs_a_study_names_the_command_to_run_first(name):
    head = notebook(name).cells[0].source
    code = "".join(cell.source for cell in notebook(name).cells)
    if "study_folders(" in code or "gather_runs(" in code:
        study = re.search(r"make reproduce STUDY=(\w+)` first", head)[1]
        assert f'study = "{study}"' in code and f"--config STUDY={study}`" in head


@pytest.fixture
def execute(smoke_runs, warm_kernels, tmp_path):
    """A function that executes a notebook by name with parameters, into ``tmp_path``, and returns it."""

    def run(name, **parameters):
        common = {"data_root": smoke_runs.data_root} | parameters
        return papermill.execute_notebook(
            ROOT / "notebooks" / f"{name}.ipynb",
            tmp_path / f"{name}.ipynb",
            {key: str(value) if isinstance(value, Path) else value for key, value in common.items()},
            cwd=ROOT,
            progress_bar=False,
        )

    return run


def pictures(book):
    """The number of pictures in the notebook."""
    outputs = (o for cell in book.cells if cell.cell_type == "code" for o in cell.outputs)
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
def test_quickstart_segments_a_test_case(smoke_runs, execute, tmp_path):
    run = smoke_runs.runs / "smoke" / smoke_runs.dataset / "bipvlseg" / "seed0"
    book = execute("00_quickstart", run=run, output=tmp_path / "labels.nii.gz")
    assert (tmp_path / "labels.nii.gz").is_file()
    assert pictures(book) == 1


@pytest.mark.slow
def test_quickstart_without_a_trained_run_is_an_error(execute, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        execute("00_quickstart", run=tmp_path / "none")
    assert caught.value.ename == "BipvlError"
    assert "holds no trained run yet; type `make reproduce`" in caught.value.evalue


@pytest.mark.slow
def test_quickstart_in_an_empty_folder_trains_a_run_first(tmp_path):
    """As on Colab: a new environment, the package from a wheel, no repository."""
    python = environment(build_wheel(tmp_path / "source"), tmp_path / "python")
    here = sysconfig.get_path("purelib")  # the dependencies, without the editable installation
    (site_packages(python) / "others.pth").write_text(f"{here}\n")
    place = tmp_path / "place"
    place.mkdir()
    shutil.copy(ROOT / "notebooks" / "00_quickstart.ipynb", place)
    words = ["-p", "run", "runs/smoke/mmwhs_ct/bipvlseg/seed0", "--no-progress-bar"]
    done = subprocess.run(
        [python, "-m", "papermill", "00_quickstart.ipynb", "executed.ipynb", *words],
        cwd=place,
        capture_output=True,
        text=True,
        env=os.environ | {"TQDM_DISABLE": "1", "JUPYTER_PREFER_ENV_PATH": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert pictures(nbformat.read(place / "executed.ipynb", as_version=4)) == 1
    assert (place / "runs" / "quickstart.nii.gz").is_file()
    where = [python, "-c", "import bipvl; print(bipvl.__file__)"]
    installed = subprocess.run(where, cwd=place, capture_output=True, text=True, check=True).stdout
    assert Path(installed.strip()).is_relative_to(tmp_path / "python")


@pytest.mark.slow
def test_prompt_lab_shows_slices_and_edits_without_widgets_when_executed(smoke_runs, execute, tmp_path):
    run = smoke_runs.runs / "smoke" / smoke_runs.dataset / "bipvlseg" / "seed0"
    words = {"structure": "left atrium", "text": "a shape of my own", "output": tmp_path / "labels.nii.gz"}
    book = execute("16_prompt_lab", run=run, **words)
    assert pictures(book) == 2
    outputs = [o for cell in book.cells if cell.cell_type == "code" for o in cell.outputs]
    assert not any("widget" in kind for o in outputs for kind in o.get("data", {}))
    assert "Open this notebook in JupyterLab" in outputs[-1]["text"]


@pytest.mark.slow
def test_own_data_notebook_trains_on_a_folder_and_writes_a_mask(execute, tmp_path):
    book = execute("15_own_data", profile="smoke", data_root=tmp_path / "own")
    assert (tmp_path / "own" / "labels.nii.gz").is_file()
    assert pictures(book) == 1


@pytest.mark.slow
def test_reading_notebooks_draw_a_run_and_the_study(execute, tmp_path, monkeypatch):
    profile, runs, figures = tmp_path / "mine.yaml", tmp_path / "runs", tmp_path / "figures"
    profile.write_text("extends: quick\nreading_steps: 2\n", encoding="utf-8")
    for name, value in {"TEST_VOLUMES": 1, "CHECK_VOLUMES": 1, "CHECKS": 1}.items():
        monkeypatch.setattr(reading, name, value)
    study = load_experiments(profile, ROOT / "notebooks" / "experiments.yaml").study("reading")
    for folder, variant in zip(reading_folders(study, runs), study.variants, strict=True):
        run_reading(folder, variant, 0, 2, progress=False)
    assert pictures(execute("18_reading_run", profile=profile, variant=study.variants[1], runs=runs)) == 1
    assert pictures(execute("17_reading", profile=profile, runs=runs, figures=figures)) == 3
    assert len([*(figures / "mine").glob("reading*-reading.png")]) == 3


@pytest.mark.slow
def test_data_notebook_prepares_the_data_and_draws_samples(smoke_runs, execute, tmp_path):
    runs, figures = tmp_path / "runs", tmp_path / "figures"
    book = execute("01_data", profile="smoke", dataset=smoke_runs.dataset, runs=runs, figures=figures)
    assert (runs / "smoke" / smoke_runs.dataset / "split.json").is_file()
    assert (figures / "smoke" / f"data_samples-{smoke_runs.dataset}.npz").is_file()
    assert pictures(book) == 1


@pytest.mark.slow
def test_run_notebook_trains_and_evaluates(smoke_runs, execute, tmp_path):
    named = {"profile": "smoke", "dataset": smoke_runs.dataset, "variant": "swin_unetr_v2", "seed": 3}
    book = execute("02_run", **named, runs=tmp_path / "runs")
    folder = tmp_path / "runs" / "smoke" / smoke_runs.dataset / "swin_unetr_v2" / "seed3"
    assert (folder / "metrics.csv").is_file() and (folder / "history.csv").is_file()
    assert pictures(book) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("03_main_table", ("main_dice", "class_dice")),
        ("04_qualitative", ("qualitative", "errors", "surfaces", "failures")),
        ("05_training_curves", ("training_curves",)),
        ("07_ablation", ("ablation-main",)),
        ("09_alignment", ("similarity", "embedding_map")),
        ("10_word_attention", ("word_attention-mmwhs_ct",)),
        ("11_claims", ("claims",)),
        ("13_efficiency", ("efficiency-mmwhs_ct", "runtime-mmwhs_ct")),
    ],
)
def test_study_notebooks_draw_their_figures(smoke_runs, execute, tmp_path, name, written):
    book = execute(name, profile="smoke", study="main", runs=smoke_runs.runs, figures=tmp_path / "figures")
    folder = tmp_path / "figures" / "smoke"
    assert {path.stem for path in folder.glob("*.png")} == set(written)
    assert pictures(book) == len(written)
    if name == "03_main_table":
        main = pd.read_csv(folder / "main_table.csv")
        assert list(main["variant"]) == ["bipvlseg", "swin_unetr_v2", "mean_atlas"]
        assert "Synthetic cohort, profile smoke, seed 0" in (folder / "main_table.md").read_text()
