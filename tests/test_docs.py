"""Every code block in the README and docs/ works; the API reference builds without warnings."""

import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import nibabel as nib
import pytest
import torch
import typer
import yaml
from dicom_files import write_series
from markdown_it import MarkdownIt
from packaging.requirements import Requirement
from typer.testing import CliRunner

import bipvl
from bipvl.__main__ import app
from bipvl.analysis.studies import load_experiments
from bipvl.data.prompts import read_prompts
from bipvl.data.spec import load_spec
from bipvl.engine.profiles import _built_in, get_profile
from bipvl.engine.variants import VARIANTS
from bipvl.model.baselines import BASELINES
from tools.update_tables import pages

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

STAGED = {
    r"\bamos22\b": "mmwhs_ct",
    r"--profile \w+(?![\w.])": "--profile smoke",
    r"\bquick\b": "smoke",
    r"(?<=[ =])/data\b": "data/synthetic-smoke",
}
"""Text in pages → its replacement here, where only the runs of the profile smoke exist."""

NEED_NETWORK = ({"fetch", "msd_hippocampus"}, {"fetch", "openkbp"}, {"--push"})
"""Arguments of bipvl commands that are only parsed."""

NOT_CODE = ("text", "bibtex")

PLACEHOLDER_STUDY = {
    "title": "t",
    "question": "q",
    "variants": ["bipvlseg"],
    "seeds": [0],
    "notebooks": ["07_ablation"],
}


@dataclass(frozen=True)
class Block:
    """A code block: its page, first line, language, file name (if any) and text."""

    page: str
    line: int
    language: str
    file: str
    text: str


def blocks_of(markdown: str, page: str = "page") -> list[Block]:
    """All code blocks; one without a language, or an indented one, has the language ""."""
    return [
        Block(page, token.map[0] + 1, *token.info.strip().partition(" ")[::2], token.content)
        for token in MarkdownIt().parse(markdown)
        if token.type in ("fence", "code_block")
    ]


def staged(text: str) -> str:
    for pattern, replacement in STAGED.items():
        text = re.sub(pattern, replacement, text)
    return text


@pytest.fixture
def stage(smoke_runs, tmp_path, monkeypatch):
    """A folder with everything the pages use: runs and data of the profile smoke, scans, a figure's table."""
    shutil.copytree(smoke_runs.runs, tmp_path / "runs")
    shutil.copytree(smoke_runs.data_root, tmp_path / "data" / "synthetic-smoke")
    shutil.copy(load_spec(smoke_runs.dataset).prompts, tmp_path / "prompts.csv")
    first, second, *_ = sorted(smoke_runs.data_root.rglob("*_image.nii.gz"))
    shutil.copy(first, tmp_path / "scan.nii.gz")
    (tmp_path / "nifti_folder").mkdir()
    for scan in (first, second):
        shutil.copy(scan, tmp_path / "nifti_folder")
    volume = nib.load(first)
    write_series(tmp_path / "dicom_series", 2 * (volume.get_fdata().clip(-1024) // 2), volume.affine)
    (tmp_path / "figures" / "smoke").mkdir(parents=True)
    shutil.copy(ROOT / "figures" / "quick" / "comparisons-main.csv", tmp_path / "figures" / "smoke")
    names = ("out.conv.conv.weight", "bifusions.1.layers.0.norm1.weight")
    torch.save({"model": {name: torch.zeros(1) for name in names}}, tmp_path / "theirs.pth")
    one_step = {"training": {"epochs": 1, "validations": 1}}  # enough for the data set of a page
    built_in = _built_in() | {"smoke": _built_in()["smoke"] | {"data_sets": {"shapes": one_step}}}
    monkeypatch.setattr("bipvl.engine.profiles._built_in", lambda: built_in)
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(VARIANTS), mock.patch.dict(BASELINES):  # pages add to them
        yield tmp_path


LONG = ("own_data.md", "reproduce.md", "segment.md")
"""Pages whose code blocks train networks or segment many scans."""


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] * (p.name in LONG), id=p.name) for p in pages(ROOT)],
)
def test_every_code_block_of_a_page_works(path, stage):
    namespace = {"__name__": "__main__"}
    for block in blocks_of(path.read_text(encoding="utf-8"), path.name):
        try:
            check(block, namespace)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{block.page}, line {block.line}: {error!r}") from error


@pytest.mark.parametrize(
    ("markdown", "message"),
    [
        ("```\nbipvl --help\n```", "no language"),
        ("    bipvl --help\n", "no language"),
        ("```fortran\nEND\n```", "fortran"),
        ("```bash\nrm -r runs\n```", "no check for 'rm'"),
        ("```bash\nmake plan | less\n```", "one command per line"),
        ("```bash\nmake coffee\n```", "coffee"),
        ("```bash\nbipvl trian amos22\n```", "trian"),
        ("```bash\naccelerate launch -m bipvl train amos22\n```", "MissingParameter"),
        ("```bash\npip install '.[notebook]'\n```", "notebook"),
        ("```yaml\nanything: 1\n```", "anything"),
        ("```yaml\nstudies: {mine: {title: Mine}}\n```", "'studies.mine.question' is missing"),
        ("```python\nassert 1 == 2\n```", "AssertionError"),
    ],
)
def test_a_broken_block_is_reported(markdown, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks_of(markdown)
    with pytest.raises((Exception, SystemExit)) as caught:
        check(block, {})
    assert message in f"{caught.value!r} {caught.value}"


def check(block: Block, namespace: dict) -> None:
    """Run a block, or parse it with its program; raises if it is wrong."""
    if block.language == "python":
        above = "\n" * block.line  # so that an error shows the line in the page
        exec(compile(above + staged(block.text), block.page, "exec"), namespace)
    elif block.language == "yaml":
        check_yaml(block.text, block.file)
    elif block.language == "csv":
        Path(block.file).write_text(block.text, encoding="utf-8")
        read_prompts(block.file)
    elif block.language == "bash":
        for line in block.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                check_command(words)
    elif block.language not in NOT_CODE:
        raise AssertionError(f"{block.language or 'no language'}: no check for such a block")


def check_yaml(text: str, file: str) -> None:
    """Read a part of experiments.yaml (after the earlier parts of the page), a data set or a profile."""
    content, path = yaml.safe_load(text), Path("experiments.yaml")
    if content.keys() <= {"external", "studies"}:
        if path.is_file():
            whole = yaml.safe_load(path.read_text(encoding="utf-8"))
        else:
            whole = {"datasets": ["mmwhs_mr"], "studies": {"placeholder": PLACEHOLDER_STUDY}}
        for key, part in content.items():
            whole[key] = whole.get(key, {}) | part
        for notebook in (ROOT / "notebooks").glob("*.ipynb"):
            Path(notebook.name).touch()
        path.write_text(yaml.safe_dump(whole), encoding="utf-8")
        load_experiments("paper", path)
    elif "classes" in content:
        Path(file).write_text(text, encoding="utf-8")
        load_spec(file)
    elif "extends" in content:
        Path(file).write_text(staged(text), encoding="utf-8")
        get_profile(file)
    else:
        raise AssertionError(f"no check for a file with {', '.join(content)}")


def check_command(words: list[str]) -> None:
    """Check a command with the function of its program."""
    assert not {"|", "&&", ";", ">"} & {*words}, "write one command per line, so that each can be checked"
    program = Path(words[0]).name
    if program not in PROGRAMS:
        raise AssertionError(f"no check for '{program}'")
    PROGRAMS[program](words[1:])


def check_bipvl(words: list[str]) -> None:
    """Run with the profile smoke, or only parse what needs a network."""
    words = shlex.split(staged(shlex.join(words)))
    if words[0].startswith("-"):
        assert CliRunner().invoke(app, words).exit_code == 0
        return
    command = parse(words)
    if any(needing <= {*words} for needing in NEED_NETWORK):
        return
    if "--profile" not in words and any(p.name == "profile" for p in command.params):
        words += ["--profile", "smoke"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, f"{' '.join(words)}: {result.output} {result.exception!r}"


def parse(words: list[str]) -> typer.core.TyperCommand:
    """The command, after its parser has accepted the words."""
    group = typer.main.get_command(app)
    with group.make_context("bipvl", [*words]) as context:
        name, command, rest = group.resolve_command(context, words)
        command.make_context(name, rest, parent=context)
    return command


def check_make(words: list[str]) -> None:
    done = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def check_accelerate(words: list[str]) -> None:
    """Only parsed: there may be no GPUs."""
    from accelerate.commands.launch import launch_command_parser

    assert words[0] == "launch"
    launched = launch_command_parser().parse_args(words[1:])
    assert launched.module and launched.training_script == "bipvl"
    parse(launched.training_script_args)


def check_pip(words: list[str]) -> None:
    """Only parsed, because there may be no network. Extras of this package must exist."""
    assert words[0] == "install"
    for word in words[1:]:
        wanted = Requirement(word.replace(".", PROJECT["name"], 1) if word.startswith(".") else word)
        unknown = wanted.extras - PROJECT["optional-dependencies"].keys()
        assert wanted.name != PROJECT["name"] or not unknown, unknown


def check_python(words: list[str]) -> None:
    """Only parsed: MONAI accepts the options of its function and the names in the bundle's config."""
    import monai.bundle

    assert words[:2] == ["-m", "monai.bundle"]
    given = dict(zip(words[3::2], words[4::2], strict=True))
    config = json.loads(Path(given["--config_file"]).read_text(encoding="utf-8"))
    known = config.keys() | inspect.signature(getattr(monai.bundle, words[2])).parameters.keys()
    assert {option.removeprefix("--") for option in given} <= known


def check_papermill(words: list[str]) -> None:
    """Parsed, and the names of the notebook's parameters checked; another test executes it."""
    from papermill import inspect_notebook
    from papermill.cli import papermill

    given = papermill.make_context("papermill", words).params
    known = inspect_notebook(str(ROOT / given["notebook_path"]))
    assert {name for name, _ in given["parameters"]} <= known.keys()


def check_apt(words: list[str]) -> None:
    """Not available everywhere: only the syntax of the package name is checked."""
    assert words[0] == "install" and all(re.fullmatch(r"[a-z0-9.+-]+", word) for word in words[1:])


def check_conda(words: list[str]) -> None:
    """Not available: the file and the name must be those of the repository."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["name"]
    assert words in (["env", "create", "--file", "environment.yml"], ["activate", environment]), words


def check_git(words: list[str]) -> None:
    assert words == ["clone", PROJECT["urls"]["Repository"]], words


def check_cd(words: list[str]) -> None:
    assert words == [PROJECT["urls"]["Repository"].rpartition("/")[2]], words


PROGRAMS = {
    "bipvl": check_bipvl,
    "make": check_make,
    "accelerate": check_accelerate,
    "pip": check_pip,
    "python": check_python,
    "papermill": check_papermill,
    "apt-get": check_apt,
    "conda": check_conda,
    "git": check_git,
    "cd": check_cd,
}


@pytest.mark.slow
def test_the_api_reference_builds_without_warnings(tmp_path):
    """Like `make docs`, for the modules that `bipvl` re-exports."""
    pytest.importorskip("pdoc")
    modules = sorted({*bipvl._HOMES.values()})
    program = [sys.executable, "-W", "error::UserWarning", ROOT / "tools" / "build_api.py"]
    done = subprocess.run([*program, tmp_path, *modules], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr[-2000:]
    for module in modules:
        page = (tmp_path / f"{module.replace('.', '/')}.html").read_text(encoding="utf-8")
        assert not re.search(r":(class|meth|func):|``", page), "markup of the docstrings shows in the page"
    assert "InfoNCE of similarities B × N × N" in (tmp_path / "bipvl" / "model" / "losses.html").read_text(
        "utf-8"
    )
