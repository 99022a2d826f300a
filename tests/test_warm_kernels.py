"""Warm kernels: forked from a process that has imported everything, otherwise as Jupyter's own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from bipvl.common.errors import BipvlError
from tools import warm_kernels
from tools.run_notebook import execute

pytestmark = pytest.mark.slow
SCRIPT = Path(warm_kernels.__file__)


def run(tmp_path, *cells):
    """Execute a notebook of these cells; returns what each printed."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, tmp_path / "in.ipynb")
    execute(tmp_path / "in.ipynb", tmp_path / "out.ipynb", {})
    done = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    return ["".join(o.get("text", "") for o in cell.outputs) for cell in done.cells if cell.source in cells]


def test_a_kernel_has_the_packages_its_own_environment_and_its_own_state(warm_kernels, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    facts = "import sys, os; print('bipvl.engine.train' in sys.modules, os.environ['MARK'], os.getcwd())"
    threads = "import torch; print(torch.get_num_threads(), 'left' in globals()); left = 1"
    for mark in ("a", "b"):
        monkeypatch.setenv("MARK", mark)
        assert run(tmp_path, facts, threads) == [f"True {mark} {tmp_path}\n", "1 False\n"]


def test_a_killed_kernel_is_reported_and_the_next_one_starts(warm_kernels, tmp_path):
    with pytest.raises(BipvlError, match="the notebook's process was killed"):
        run(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert run(tmp_path, "print('alive')") == ["alive\n"]


def test_a_kernel_ends_with_the_process_that_jupyter_started(warm_kernels, tmp_path):
    folder = warm_kernels
    pid = tmp_path / "pid"
    code = f"import os; open({str(pid)!r}, 'w').write(str(os.getpid())); import time; time.sleep(60)"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, tmp_path / "long.ipynb")
    command = [
        sys.executable,
        SCRIPT.with_name("run_notebook.py"),
        tmp_path / "long.ipynb",
        tmp_path / "o.ipynb",
    ]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    _wait_for(lambda: pid.is_file() and pid.read_text())
    starters = subprocess.run(
        ["pgrep", "-f", f"start {folder}"], capture_output=True, text=True
    ).stdout.split()
    for starter in map(int, starters):
        os.kill(starter, 9)
    _wait_for(lambda: not Path(f"/proc/{pid.read_text()}").exists())
    process.wait(timeout=60)


def _wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_without_a_server_a_kernel_is_jupyters_own(tmp_path, monkeypatch):
    folder = tmp_path / "none"
    folder.mkdir()
    monkeypatch.setenv("JUPYTER_PATH", str(warm_kernels.write_kernelspec(folder)))
    assert run(tmp_path, "import sys; print('bipvl' in sys.modules)") == ["False\n"]
