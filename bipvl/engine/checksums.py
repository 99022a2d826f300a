"""SHA-256 checksums of a data set's files: computed when it is prepared, reused until a file changes."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bipvl.common.errors import BipvlError
from bipvl.data.layouts import Case, read_json

CaseChecksums = dict[str, dict[str, dict[str, Any]]]
"""Case id → image (or image 1, …) and label → sha256 and bytes."""


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_checksum(value: Any) -> str:
    """SHA-256 of a value that JSON can hold; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def case_checksums(cases: Sequence[Case]) -> CaseChecksums:
    """Read each file of the cases and return its SHA-256 and size in bytes."""
    with ThreadPoolExecutor() as pool:
        found = [{key: pool.submit(_checksum, path) for key, path in case.files.items()} for case in cases]
    return {
        case.id: {key: future.result() for key, future in files.items()}
        for case, files in zip(cases, found, strict=True)
    }


def read_checksums(path: str | Path) -> CaseChecksums:
    """Read the ``case_checksums`` in a JSON file; one that is missing or of another form is a BipvlError."""
    path = Path(path)
    if not path.is_file():
        raise BipvlError("file not found", "prepare the data set first with `bipvl prepare`", path)
    known = read_json(path)
    try:
        complete = all({"sha256", "bytes"} <= f.keys() for case in known.values() for f in case.values())
    except AttributeError:
        complete = False
    if not complete:
        raise BipvlError("holds no checksums of files", _restart(path), path)
    return known


def data_checksum(cases: Iterable[Case], path: str | Path) -> str:
    """One checksum of the cases' files, from the checksums at ``path``.

    A file of the same size that is older than the checksums counts as unchanged; others are read again.

    Raises:
        BipvlError: no checksums there, none of a case, or a file that has changed since.
    """
    path = Path(path)
    known, written = read_checksums(path), path.stat().st_mtime_ns
    chosen = {}
    for case in cases:
        if known.get(case.id, {}).keys() != case.files.keys():
            problem = f"the case {case.id} was not there when the data set was prepared"
            raise BipvlError(problem, f"remove it from the data set, or {_restart(path)}", path)
        chosen[case.id] = known[case.id]
        for key, file in case.files.items():
            if not _is_unchanged(file, known[case.id][key], written):
                problem = "has changed since its data set was prepared"
                raise BipvlError(problem, f"restore it, or {_restart(path)}", file)
    return json_checksum(chosen)


def _restart(path: Path) -> str:
    return f"delete {path.parent} and prepare the data set again"


def _checksum(path: Path) -> dict[str, Any]:
    return {"sha256": sha256(path), "bytes": path.stat().st_size}


def _is_unchanged(file: Path, known: Mapping[str, Any], written: int) -> bool:
    now = file.stat()
    return now.st_size == known["bytes"] and (now.st_mtime_ns <= written or sha256(file) == known["sha256"])
