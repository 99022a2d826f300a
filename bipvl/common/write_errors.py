"""Explain why a file could not be written: a full disk, or a folder that is not writable."""

import errno
import re
from pathlib import Path

from bipvl.common.errors import BipvlError

_NUMBERS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES),
    *(errno.EPERM, errno.EIO, errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
}
_MESSAGES = ("PytorchStreamWriter", "inline_container", "iostream error", "I/O error", "os error")
"""Parts of torch's and safetensors' messages when a write fails."""


def explain_write_error(error: Exception, place: Path | None = None) -> BipvlError | None:
    """The error of a failed write as a sentence; None for any other error.

    Args:
        place: the folder that could not be written; default: the file that the error names.
    """
    is_system_error = isinstance(error, OSError)
    if not (error.errno in _NUMBERS if is_system_error else any(m in str(error) for m in _MESSAGES)):
        return None
    reason = (is_system_error and error.strerror) or "a write failed"
    if place is None:
        path = Path((is_system_error and error.filename) or "the output")
        place = path.with_name(re.sub(r"^\.\d+\.", "", path.name))  # its final name, not the temporary one
    return BipvlError(f"cannot be written ({reason})", "free some space there or make it writable", place)
