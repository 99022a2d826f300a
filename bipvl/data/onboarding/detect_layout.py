"""Detect the layout of a folder of scans: a dataset.json of MSD or nnU-Net, else pairs by file name."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from bipvl.common.errors import BipvlError
from bipvl.data.layouts import matching, read_json
from bipvl.data.spec import Patterns

DEPTH = 4
"""Levels of subfolders that are searched for scans."""


@dataclass(frozen=True, kw_only=True)
class DetectedLayout:
    """What file names and dataset.json reveal about a folder.

    Attributes:
        why: the reason for this layout.
        channels: names of the channels; empty if unknown.
        labels: name → codes; empty if unknown.
        overlapping: labels are regions that may contain each other.
        sections: dataset.json lists labelled validation cases too.
        unused: scans that belong to no case.
    """

    layout: str | Patterns
    why: str
    channels: tuple[str, ...] = ()
    labels: dict[str, tuple[int, ...]] = field(default_factory=dict)
    overlapping: bool = False
    sections: bool = False
    unused: tuple[str, ...] = ()


def detect_layout(folder: Path) -> DetectedLayout:
    """The layout of a folder.

    Raises:
        BipvlError: not a folder, no scans, no label maps, no images, or an unknown form of dataset.json.
    """
    scans = _scans(folder)
    path = folder / "dataset.json"
    if not path.is_file():
        return _by_names(folder, scans)
    content = read_json(path)
    if "channel_names" in content:
        return DetectedLayout(
            layout="nnunet",
            why="its dataset.json has the form of nnU-Net v2",
            channels=_channels(content["channel_names"]),
            labels=_labels(content, path),
            overlapping=any(isinstance(value, list) for value in content["labels"].values()),
        )
    if isinstance(content.get("training"), list):
        return DetectedLayout(
            layout="dataset_json",
            why="its dataset.json lists images and label maps, as MSD's does",
            channels=_channels(content.get("modality")),
            labels=_labels(content, path),
            sections=bool(content.get("validation")),
        )
    problem = "has neither 'training', as MSD's has, nor 'channel_names', as nnU-Net v2's has"
    raise BipvlError(problem, "correct it, or move it elsewhere to pair files by their names", path)


def _scans(folder: Path) -> list[str]:
    """The scans below a folder, relative to it and sorted, without hidden files and folders."""
    if not folder.is_dir():
        raise BipvlError("is not a folder", "give the folder of the scans and label maps", folder)

    def below(pattern: str) -> Iterator[Path]:
        return chain.from_iterable(folder.glob("*/" * depth + pattern) for depth in range(DEPTH + 1))

    names = sorted(path.relative_to(folder).as_posix() for path in below("*.nii*") if path.is_file())
    scans = [n for n in names if n.lower().endswith((".nii", ".nii.gz")) and not re.search(r"(^|/)\.", n)]
    if scans:
        return scans
    if next(below("*.dcm"), None):
        raise BipvlError("holds only DICOM files", "convert them to NIfTI with dcm2niix", folder)
    raise BipvlError("holds no scan (.nii.gz or .nii)", "give another folder", folder)


# --- dataset.json ---


def _channels(names: Any) -> tuple[str, ...]:
    """The names under the keys "0", "1", …"""
    return tuple(str(names.get(str(i))) for i in range(len(names))) if isinstance(names, dict) else ()


def _labels(content: dict[str, Any], path: Path) -> dict[str, tuple[int, ...]]:
    """Name → codes without the background; MSD writes code → name, nnU-Net name → code(s)."""
    labels = content.get("labels")
    if not isinstance(labels, dict):
        raise BipvlError("names no labels", "write names and codes under 'labels'", path)
    named = {}
    for key, value in labels.items():
        name, code = (value, int(key)) if key.isdecimal() else (key, value)
        codes = tuple(code) if isinstance(code, list) else (code,)
        if not (isinstance(name, str) and codes and all(type(c) is int and c >= 0 for c in codes)):
            problem = f"has the label {key!r}: {value!r}, which is not a name with whole numbers"
            raise BipvlError(problem, "correct it under 'labels'", path)
        if codes != (0,):
            named[name.strip()] = codes
    return named


# --- file names ---

_WORD = r"(?:labels?|masks?|segs?|segmentations?|gts?|truths?|groundtruths?|annotations?)"
_LABEL_FOLDER = re.compile(rf"(?i)(?:.*[_. -])?{_WORD}(?:[_. -].*|Tr|Ts|Va|Train|Val|Test)?")
_LABEL_NAME = re.compile(rf"(?i)(?:(?P<before>.+)[_. -])?{_WORD}(?:[_. -](?P<after>.+))?")


def _by_names(folder: Path, scans: Sequence[str]) -> DetectedLayout:
    """Find label maps by a word in their name or folder, and their images by the same case id."""
    labels = [name for name in scans if any(map(_LABEL_FOLDER.fullmatch, PurePosixPath(name).parts[:-1]))]
    if len(labels) in (0, len(scans)):
        labels = [name for name in scans if _LABEL_NAME.fullmatch(_stem(name))]
    if not labels:
        problem = (
            f"holds scans, such as {scans[0]}, but no label map (file or folder name with label, mask, seg)"
        )
        raise BipvlError(problem, "add the label maps, or rename them", folder)
    label, ids = _label_pattern(folder, labels)
    images = _image_patterns([name for name in scans if name not in {*labels}], ids)
    if not images:
        problem = f"holds label maps, such as {labels[0]}, but no images with the same ids, such as {ids[0]}"
        raise BipvlError(problem, "add the images, or rename them", folder)
    patterns = Patterns(image=images, label=label)
    cases = matching(folder, patterns)
    used = {path.relative_to(folder).as_posix() for case in cases for path in case.files.values()}
    return DetectedLayout(
        layout=patterns,
        why="paired by their names",
        channels=_channel_names(images),
        unused=tuple(name for name in scans if name not in used),
    )


def _label_pattern(folder: Path, labels: Sequence[str]) -> tuple[str, list[str]]:
    """The pattern that most label maps match, and their case ids."""
    ids: dict[str, set[str]] = {}
    for name in labels:
        for i in _possible_ids(name):
            ids.setdefault(_pattern(name, i), set()).add(i)
    if not ids:
        problem = "the name of this label map contains no case id"
        raise BipvlError(problem, "rename it, for example to CASE_seg.nii.gz", folder / labels[0])
    first, *others = sorted(ids, key=lambda pattern: (-len(ids[pattern]), pattern))
    if others and ids[others[0]] == ids[first]:
        problem = f"holds several label maps per case, {first} and {others[0]}"
        fix = "merge them into one with one code per class, or move the others elsewhere"
        raise BipvlError(problem, fix, folder)
    return first, sorted(ids[first])


def _possible_ids(name: str) -> Iterator[str]:
    """Possible case ids of a label map: parts of its name without the word for labels, and its folder."""
    stem, folders = _stem(name), PurePosixPath(name).parts[:-1]
    match = _LABEL_NAME.fullmatch(stem)
    yield from filter(None, match.groups()) if match else [stem]
    yield from [part for part in reversed(folders) if not _LABEL_FOLDER.fullmatch(part)][:1]


def _image_patterns(images: Sequence[str], ids: Sequence[str]) -> tuple[str, ...]:
    """The patterns that match images of at least half of the cases, sorted."""
    longest = sorted(ids, key=len, reverse=True)
    found: Counter[str] = Counter()
    for name in images:
        patterns = (_pattern(name, i) for i in longest if i in name)
        found.update([p for p in patterns if "{case}" in p][:1])
    return tuple(sorted(pattern for pattern, count in found.items() if 2 * count >= len(ids)))


def _pattern(name: str, case: str) -> str:
    """The path with ``{case}`` in place of the id, wherever the id is a whole word."""
    return re.sub(rf"(?<![A-Za-z0-9]){re.escape(case)}(?![A-Za-z0-9])", "{case}", name)


def _channel_names(patterns: Sequence[str]) -> tuple[str, ...]:
    """Names for one file per channel, from file names or else folders; empty if these do not differ."""
    stems = tuple(_stem(pattern).replace("{case}", "").strip("_.- ") for pattern in patterns)
    folders = tuple(PurePosixPath(pattern).parent.name for pattern in patterns)
    for names in (stems, folders):
        if len({*names} - {""}) == len(patterns) > 1:
            return names
    return ()


def _stem(name: str) -> str:
    return re.sub(r"(?i)\.nii(\.gz)?$", "", PurePosixPath(name).name)
