"""What files hold, as SHA-256: of a dataset once, when it is prepared, then trusted while nothing changes."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bipvl.common.errors import BipvlError
from bipvl.common.files import write_json
from bipvl.data.layouts import Case, read_json


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of what JSON can hold; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_fingerprints(cases: Sequence[Case], path: str | Path) -> None:
    """Each case's files: SHA-256 and bytes."""
    write_json(path, fingerprints(cases))


def read_fingerprints(path: str | Path) -> dict[str, dict[str, dict[str, Any]]]:
    """As they were written; a file that is missing or of another form is a BipvlError."""
    path = Path(path)
    if not path.is_file():
        raise BipvlError(f"{path} is missing; prepare the dataset first, which writes what its files hold.")
    known = read_json(path)
    try:
        whole = all({"sha256", "bytes"} <= file.keys() for case in known.values() for file in case.values())
    except AttributeError:
        whole = False
    if not whole:
        raise BipvlError(f"{path} does not hold what files hold; delete {path.parent} and begin anew.")
    return known


def fingerprints(cases: Sequence[Case]) -> dict[str, dict[str, dict[str, Any]]]:
    """Case id → image (or image 1, …) and label → SHA-256 and bytes, read anew."""
    with ThreadPoolExecutor() as pool:
        found = [{key: pool.submit(_fingerprint, path) for key, path in case.files.items()} for case in cases]
    return {
        case.id: {key: future.result() for key, future in files.items()}
        for case, files in zip(cases, found, strict=True)
    }


def data_digest(cases: Iterable[Case], path: str | Path) -> str:
    """One digest of the cases' files, by the fingerprints at ``path``.

    Files of their size that are older than the fingerprints are taken as unchanged; others are read anew.

    Raises:
        BipvlError: no fingerprints there, none of a case, or a file that has changed since.
    """
    path = Path(path)
    known, written = read_fingerprints(path), path.stat().st_mtime_ns
    chosen = {}
    for case in cases:
        if known.get(case.id, {}).keys() != case.files.keys():
            raise BipvlError(
                f"{path} does not know the case {case.id}; take it out of the dataset again, or delete "
                f"{path.parent} and begin anew."
            )
        chosen[case.id] = known[case.id]
        for key, file in case.files.items():
            _check_unchanged(file, known[case.id][key], path, written)
    return digest(chosen)


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"sha256": sha256(path), "bytes": path.stat().st_size}


def _check_unchanged(file: Path, known: Mapping[str, Any], path: Path, written: int) -> None:
    now = file.stat()
    if now.st_size == known["bytes"] and (now.st_mtime_ns <= written or sha256(file) == known["sha256"]):
        return
    raise BipvlError(
        f"{file} has changed since its dataset was prepared; put it back, or delete {path.parent} and begin "
        "anew."
    )
