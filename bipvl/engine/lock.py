"""One writer a run directory: no two at once, nothing left lying about, a full disk told in a sentence."""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from bipvl.common.errors import BipvlError
from bipvl.engine.run import Run

if TYPE_CHECKING:
    from accelerate import PartialState

UNWRITABLE = {
    getattr(errno, name)
    for name in (
        "ENOSPC",
        "EDQUOT",
        "EFBIG",
        "EROFS",
        "EACCES",
        "EPERM",
        "EIO",
        "EEXIST",
        "ENOTDIR",
        "EISDIR",
    )
    if hasattr(errno, name)
}
"""What the system says where a disk is full or a folder cannot be written."""
WRITERS = ("PytorchStreamWriter", "inline_container", "iostream error", "I/O error", "os error")
"""In what torch and safetensors say where the system would not let them write."""
TEMPORARY = re.compile(r"\.\d+\..+|\.state-done")
"""Names of files that are not finished yet, or no longer needed."""


def launch() -> "PartialState":
    """The processes that were launched together, of which this is one; on CPUs if the launcher says so."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


@contextmanager
def sole_writer(run: Run) -> Iterator[None]:
    """Write the run's config, keep its directory for this process, and clear what killed ones left half done.

    Of several processes of one launch the first alone holds the directory. One that was begun for an input
    that is then refused is taken away again.

    Raises:
        BipvlError: another process works there; it holds other settings; it cannot be written.
    """
    lock = FileLock(run.directory / ".lock")
    try:
        if not launch().is_main_process:
            yield
            return
        is_new = not run.directory.exists()
        run.claim()
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise BipvlError(
                f"{run.directory} is being worked on by another process; wait for it, or stop it first"
            ) from None
        _clear(run)
        try:
            yield
        except BipvlError:
            if is_new:
                _take_away(run)
            raise
    except (OSError, SafetensorError, RuntimeError) as error:
        if not _unwritable(error):
            raise
        raise BipvlError(
            f"{run.directory} cannot be written ({_reason(error)}); free some space there or make it "
            "writable: the same command goes on from what is saved"
        ) from error
    finally:
        lock.release()


def unwritable(error: OSError) -> str:
    """The sentence for what could not be written; "" for an error of another kind."""
    if not _unwritable(error):
        return ""
    path = Path(error.filename or "the output")
    place = path.with_name(re.sub(r"^\.\d+\.", "", path.name))  # not by its temporary name
    return f"{place} cannot be written ({_reason(error)}); free some space there or make it writable"


def _take_away(run: Run) -> None:
    """A directory in which nothing was done yet."""
    if {path.name for path in run.directory.iterdir()} <= {"config.json", ".lock"}:
        shutil.rmtree(run.directory)


def _clear(run: Run) -> None:
    for path in [*run.directory.rglob(".*")]:
        if TEMPORARY.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _unwritable(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in UNWRITABLE
    return any(words in str(error) for words in WRITERS)


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or "a write failed"
