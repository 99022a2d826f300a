"""Lock a run directory, clean up after killed processes, report full disks clearly."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from bipvl.common.errors import BipvlError
from bipvl.common.write_errors import explain_write_error
from bipvl.engine.run import Run

if TYPE_CHECKING:
    from accelerate import PartialState

TEMPORARY = re.compile(r"\.\d+\..+|\.state-done")
"""Names of files that are unfinished or no longer needed."""


def process_group() -> "PartialState":
    """The processes of one ``accelerate launch``, of which this is one; on CPUs if the launcher says so."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


@contextmanager
def locked(run: Run) -> Iterator[None]:
    """Write the run's config, lock its directory for this process, and delete what killed processes left.

    With several processes, only the first one locks. If bad input stops the block before anything was written
    to a new directory, the directory is removed again.

    Raises:
        BipvlError: another process works there; it holds a run with other settings; it is not writable.
    """
    lock = FileLock(run.directory / ".lock")
    try:
        if not process_group().is_main_process:
            yield
            return
        is_new = not run.directory.exists()
        run.claim()
        try:
            lock.acquire(timeout=0)
        except Timeout:
            fix = "wait for it, or stop it first"
            raise BipvlError("is in use by another process", fix, run.directory) from None
        for path in [*run.directory.rglob(".*")]:
            if TEMPORARY.fullmatch(path.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        try:
            yield
        except BipvlError:
            if is_new and {path.name for path in run.directory.iterdir()} <= {"config.json", ".lock"}:
                shutil.rmtree(run.directory)
            raise
    except (OSError, SafetensorError, RuntimeError) as error:
        if not (sentence := explain_write_error(error, run.directory)):
            raise
        fix = f"{sentence.fix}, then repeat the command to resume"
        raise BipvlError(sentence.problem, fix, run.directory) from error
    finally:
        lock.release()
