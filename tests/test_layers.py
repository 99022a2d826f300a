"""The layout of the package: which layer may import which, and how large a module may be."""

from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]


def test_each_layer_imports_only_the_layers_below_it_and_there_is_no_cycle(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0, "run `make lint` to see the import that breaks a contract"


def test_the_package_is_easy_to_enter():
    entries = {path.name for path in (ROOT / "bipvl").iterdir() if path.name != "__pycache__"}
    assert len(entries - {"__init__.py", "__main__.py", "py.typed"}) <= 8
    lengths = {
        path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / "bipvl").rglob("*.py")
    }
    assert not {path: lines for path, lines in lengths.items() if lines > 400}
