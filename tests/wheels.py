"""Build the package as a wheel and install it into a new environment, without network access."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build_wheel(source: Path) -> Path:
    """The package's wheel, built from a copy in an empty folder, so that the checkout is not changed."""
    shutil.copytree(ROOT / "bipvl", source / "bipvl", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", source / "dist", source], check=True)
    return next((source / "dist").glob("bipvl-*.whl"))


def environment(wheel: Path, folder: Path) -> Path:
    """The Python of a new environment with only the wheel, without its dependencies."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", wheel], check=True)
    return python


def site_packages(python: Path) -> Path:
    """The site-packages folder of an environment."""
    return next(python.parents[1].glob("lib/python*/site-packages"))
