"""Every block of code in the README and the pages of docs/ does what it says; so do the docstrings' pages."""

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
from bipvl.analysis.external import read_externals
from bipvl.analysis.studies import load_experiments
from bipvl.data.prompts import read_prompts
from bipvl.data.spec import load_spec
from bipvl.engine.run import load_profiles
from bipvl.engine.variants import VARIANTS
from bipvl.model.baselines import BASELINES
from tools.update_tables import pages

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

STAGED = {
    r"\bamos22\b": "mmwhs_ct",
    r"--profile \w+": "--profile smoke",
    r"\bquick\b": "smoke",
    r"(?<=[ =])/data\b": "data/synthetic-smoke",
}
"""What stands in pages → what stands for it here, where the runs of the profile smoke lie."""

NEED_NETWORK = ({"fetch", "msd_brain"}, {"--push"})
"""Words of the commands of bipvl that are parsed only."""

NOT_CODE = ("text", "bibtex")


@dataclass(frozen=True)
class Block:
    """A block of code: its page, the line that opens it, its language, the file that it is of, its text."""

    page: str
    line: int
    language: str
    file: str
    text: str


def blocks_of(markdown: str, page: str = "page") -> list[Block]:
    """Every block of code; one without a language, or indented, has the language ""."""
    return [
        Block(page, token.map[0] + 1, *token.info.strip().partition(" ")[::2], token.content)
        for token in MarkdownIt().parse(markdown)
        if token.type in ("fence", "code_block")
    ]


def staged(text: str) -> str:
    for pattern, stand_in in STAGED.items():
        text = re.sub(pattern, stand_in, text)
    return text


@pytest.fixture
def stage(smoke_runs, tmp_path, monkeypatch):
    """A folder that has what pages speak of: runs and data of the profile smoke, a scan, a figure's table."""
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
    shutil.copy(ROOT / "figures" / "quick" / "ablation-main.csv", tmp_path / "figures" / "smoke")
    names = ("out.conv.conv.weight", "bifusions.1.layers.0.norm1.weight")
    torch.save({"model": {name: torch.zeros(1) for name in names}}, tmp_path / "theirs.pth")
    profiles = load_profiles()
    for key in ("epochs", "validations"):  # of a page's own dataset one suffices
        training = profiles["smoke"]["training"]
        training[key] = {"shapes": 1, "default": training[key]}
    monkeypatch.setattr("bipvl.engine.run.load_profiles", lambda: profiles)
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(VARIANTS), mock.patch.dict(BASELINES):  # pages add to them
        yield tmp_path


@pytest.mark.parametrize("path", pages(ROOT), ids=lambda path: path.name)
def test_every_block_of_a_page_does_what_it_says(path, stage):
    namespace = {"__name__": "__main__"}
    for block in blocks_of(path.read_text(encoding="utf-8"), path.name):
        try:
            check(block, namespace)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{block.page}, line {block.line}: {error!r}") from error


@pytest.mark.parametrize(
    ("markdown", "told"),
    [
        ("```\nbipvl --help\n```", "no language"),
        ("    bipvl --help\n", "no language"),
        ("```fortran\nEND\n```", "fortran"),
        ("```bash\nrm -r runs\n```", "nobody checks 'rm'"),
        ("```bash\nmake plan | less\n```", "one command a line"),
        ("```bash\nmake coffee\n```", "coffee"),
        ("```bash\nbipvl trian amos22\n```", "trian"),
        ("```bash\naccelerate launch -m bipvl train amos22\n```", "MissingParameter"),
        ("```bash\npip install '.[notebook]'\n```", "notebook"),
        ("```yaml\nanything: 1\n```", "anything"),
        ("```yaml\nstudies: {mine: {title: Mine}}\n```", "lacks question"),
        ("```python\nassert 1 == 2\n```", "AssertionError"),
    ],
)
def test_a_block_that_does_not_is_found(markdown, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks_of(markdown)
    with pytest.raises((Exception, SystemExit)) as caught:
        check(block, {})
    assert told in repr(caught.value)


def check(block: Block, namespace: dict) -> None:
    """Run a block, or hold it against what would read it; raises where it is wrong."""
    if block.language == "python":
        above = "\n" * block.line  # so that an error tells the page's own line
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
        raise AssertionError(f"{block.language or 'no language'}: nobody checks such a block")


def check_yaml(text: str, file: str) -> None:
    """A part of experiments.yaml is read with the page's parts before it, a dataset's by what reads such."""
    content, path = yaml.safe_load(text), Path("experiments.yaml")
    if content.keys() <= {"external", "studies"}:
        before = path.read_text(encoding="utf-8") if path.is_file() else "{datasets: [], studies: {}}"
        whole = yaml.safe_load(before) | {"datasets": ["mmwhs_mr"]}
        for key, part in content.items():
            whole[key] = whole.get(key, {}) | part
        for notebook in (ROOT / "notebooks").glob("*.ipynb"):
            Path(notebook.name).touch()
        path.write_text(yaml.safe_dump(whole), encoding="utf-8")
        if whole["studies"]:
            load_experiments("paper", path)
        else:
            read_externals(whole["external"], path)
    elif "classes" in content:
        Path(file).write_text(text, encoding="utf-8")
        load_spec(file)
    else:
        raise AssertionError(f"nobody reads a file with {', '.join(content)}")


def check_command(words: list[str]) -> None:
    """A command of one line, by its program's name."""
    assert not {"|", "&&", ";", ">"} & {*words}, "one command a line, so that each can be checked"
    program = Path(words[0]).name
    if program not in PROGRAMS:
        raise AssertionError(f"nobody checks '{program}'")
    PROGRAMS[program](words[1:])


def check_bipvl(words: list[str]) -> None:
    """Run at the profile smoke, or parsed where it cannot be."""
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
    """The command that the words name, once they have passed its own parser."""
    group = typer.main.get_command(app)
    with group.make_context("bipvl", [*words]) as context:
        name, command, rest = group.resolve_command(context, words)
        command.make_context(name, rest, parent=context)
    return command


def check_make(words: list[str]) -> None:
    done = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def check_accelerate(words: list[str]) -> None:
    """Parsed: several processes, or GPUs, are not at hand."""
    from accelerate.commands.launch import launch_command_parser

    assert words[0] == "launch"
    launched = launch_command_parser().parse_args(words[1:])
    assert launched.module and launched.training_script == "bipvl"
    parse(launched.training_script_args)


def check_pip(words: list[str]) -> None:
    """Parsed: a registry is not at hand. Extras of this package must be its own."""
    assert words[0] == "install"
    for word in words[1:]:
        wanted = Requirement(word.replace(".", PROJECT["name"], 1) if word.startswith(".") else word)
        unknown = wanted.extras - PROJECT["optional-dependencies"].keys()
        assert wanted.name != PROJECT["name"] or not unknown, unknown


def check_python(words: list[str]) -> None:
    """Parsed: MONAI's command takes the options of its function, and the names in the bundle's config."""
    import monai.bundle

    assert words[:2] == ["-m", "monai.bundle"]
    given = dict(zip(words[3::2], words[4::2], strict=True))
    config = json.loads(Path(given["--config_file"]).read_text(encoding="utf-8"))
    known = config.keys() | inspect.signature(getattr(monai.bundle, words[2])).parameters.keys()
    assert {option.removeprefix("--") for option in given} <= known


def check_papermill(words: list[str]) -> None:
    """Parsed, and the notebook's parameters by their names: executing it is another test's."""
    from papermill import inspect_notebook
    from papermill.cli import papermill

    given = papermill.make_context("papermill", words).params
    known = inspect_notebook(str(ROOT / given["notebook_path"]))
    assert {name for name, _ in given["parameters"]} <= known.keys()


def check_apt(words: list[str]) -> None:
    """Not at hand everywhere: a name of a package must at least be one."""
    assert words[0] == "install" and all(re.fullmatch(r"[a-z0-9.+-]+", word) for word in words[1:])


def check_conda(words: list[str]) -> None:
    """Not at hand: the file and the name must be those of the repository."""
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


def test_the_reference_is_made_of_the_docstrings_without_a_warning(tmp_path):
    """As `make docs` makes it, of the modules that `bipvl` lends its names from."""
    pytest.importorskip("pdoc")
    modules = sorted({*bipvl._HOMES.values()})
    program = [sys.executable, "-W", "error::UserWarning", ROOT / "docs" / "reference.py"]
    done = subprocess.run([*program, tmp_path, *modules], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr[-2000:]
    for module in modules:
        page = (tmp_path / f"{module.replace('.', '/')}.html").read_text(encoding="utf-8")
        assert not re.search(r":(class|meth|func):|``", page), "markup of the docstrings shows in the page"
    assert "InfoNCE of B × N × N similarities" in (tmp_path / "bipvl" / "losses.html").read_text("utf-8")
