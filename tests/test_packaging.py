"""pyproject.toml, requirements.lock and environment.yml agree, and say what the code imports."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import bipvl

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GROUPS = {"core": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
DECLARED = [Requirement(line) for lines in GROUPS.values() for line in lines]
LOCK = [
    line.partition("==")
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
LOCKED = {canonicalize_name(name): version for name, _, version in LOCK}


def names(group: str) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in GROUPS[group]}


def test_every_line_of_the_lock_pins_a_release_that_any_machine_can_install():
    assert len(LOCKED) == len(LOCK)
    for name, sign, version in LOCK:
        assert sign, f"{name} is not pinned"
        assert Version(version).local is None, f"{name}=={version} is one machine's own build"


@pytest.mark.parametrize("requirement", DECLARED, ids=lambda r: r.name)
def test_the_lock_fits_pyproject(requirement):
    assert ">=" in str(requirement.specifier)
    assert requirement.specifier.contains(LOCKED[canonicalize_name(requirement.name)])


def test_the_lock_holds_what_pyproject_needs_and_nothing_else():
    needed = set()
    open_ends = [(canonicalize_name(r.name), extra) for r in DECLARED for extra in ("", *r.extras)]
    while open_ends:
        name, extra = open_ends.pop()
        # torch pins what it needs on a machine with a GPU itself.
        if (name, extra) in needed or name.startswith(("nvidia", "cuda", "triton")):
            continue
        needed.add((name, extra))
        for r in map(Requirement, requires(name) or []):
            if not r.marker or r.marker.evaluate({"extra": extra}):
                open_ends += [(canonicalize_name(r.name), further) for further in ("", *r.extras)]
    assert {name for name, _ in needed} == set(LOCKED)


def test_conda_users_get_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, *_, pip = environment["dependencies"]
    assert Version(python.removeprefix("python=")) >= Version(PROJECT["requires-python"].removeprefix(">="))
    assert f"PYTHON ?= {python.replace('=', '')}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}


def test_the_code_imports_what_is_declared():
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
    # papermill is made of nbclient and nbconvert of nbformat, IPython belongs to the kernel.
    of_others = {"nbclient", "nbformat", "ipython"}
    assert used - of_others <= names("core") | names("notebooks")
    assert names("core") - used <= {"einops"}, "MONAI imports einops; the rest is not imported"


def test_what_must_be_quick_imports_neither_torch_nor_monai():
    quick = ["__main__", "choices", "errors", "experiments", "files", "notebook", "readme", "report"]
    quick += ["data.layouts", "data.prompts", "data.spec", "data.splits"]
    code = "; ".join(
        [
            "import sys, bipvl",
            *(f"import bipvl.{module}" for module in quick),
            "slow = {'torch', 'monai', 'transformers', 'matplotlib', 'papermill'} & set(sys.modules)",
            "sys.exit(f'imported: {slow}' if slow else 0)",
        ]
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", bipvl.__all__)
def test_the_package_gives_its_parts(name):
    assert getattr(bipvl, name).__name__ == name
    assert name in dir(bipvl)


def test_the_package_gives_nothing_else():
    with pytest.raises(AttributeError, match="BiPVLSegg"):
        bipvl.BiPVLSegg  # noqa: B018


def test_every_target_of_make_sets_up_first():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = dict(re.findall(r"^([a-z]+):(.*?)##", makefile, re.MULTILINE))
    assert {t for t, needs in targets.items() if "$(READY)" not in needs} == {"help", "lock", "clean"}


def test_continuous_integration_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text(encoding="utf-8")
