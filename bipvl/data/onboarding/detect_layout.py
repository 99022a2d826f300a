"""Which layout a folder of scans has: MSD's or nnU-Net's dataset.json, else images and label maps by name."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from bipvl.common.errors import BipvlError
from bipvl.data.layouts import matching, read_json
from bipvl.data.spec import Patterns

DEPTH = 4
"""Folders below the dataset's own in which scans are looked for."""


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """What a folder's names and its dataset.json tell.

    Attributes:
        why: by what the layout was recognised.
        channels: their names; empty where nothing names them.
        labels: the codes of each name; empty where nothing names them.
        overlapping: labels are regions, which lie in each other.
        sections: dataset.json lists labelled validation cases too.
        left: scans that lie there and belong to no case.
    """

    layout: str | Patterns
    why: str
    channels: tuple[str, ...] = ()
    labels: dict[str, tuple[int, ...]] = field(default_factory=dict)
    overlapping: bool = False
    sections: bool = False
    left: tuple[str, ...] = ()


def recognise(folder: Path) -> Recognised:
    """How the files of a folder belong together.

    Raises:
        BipvlError: no scan there, a dataset.json of another form, no label maps or no images beside them.
    """
    scans = [*_scans(folder)]
    if not scans:
        raise BipvlError(
            f"{folder} holds no scan (.nii.gz or .nii){_dicom_hint(folder)}; give another folder."
        )
    path = folder / "dataset.json"
    if not path.is_file():
        return _by_names(folder, scans)
    content = read_json(path)
    if "channel_names" in content:
        return _nnunet(content, path)
    if isinstance(content.get("training"), list):
        return _decathlon(content, path)
    raise BipvlError(
        f"{path} has neither 'training', as MSD's has, nor 'channel_names', as nnU-Net v2's has; mend it, or "
        "move it elsewhere, so that files are paired by their names."
    )


def _scans(folder: Path) -> Iterator[str]:
    """The scans below a folder, relative to it, sorted; hidden files and folders are left out."""
    if not folder.is_dir():
        raise BipvlError(f"{folder} is not a folder; give the one that holds the scans and label maps.")
    found = (path for depth in range(DEPTH + 1) for path in folder.glob("*/" * depth + "*.nii*"))
    relative = sorted(path.relative_to(folder).as_posix() for path in found if path.is_file())
    for name in relative:
        if name.lower().endswith((".nii", ".nii.gz")) and not re.search(r"(^|/)\.", name):
            yield name


def _dicom_hint(folder: Path) -> str:
    dicom = any(next(folder.glob("*/" * depth + "*.dcm"), None) for depth in range(DEPTH + 1))
    return ", only DICOM, which dcm2niix turns into it" if dicom else ""


# --- dataset.json ---


def _decathlon(content: dict[str, Any], path: Path) -> Recognised:
    labels = _labels(content, path)
    return Recognised(
        layout="dataset_json",
        why="its dataset.json lists images and label maps, as MSD's does",
        channels=_channels(content.get("modality")),
        labels=labels,
        sections=bool(content.get("validation")),
    )


def _nnunet(content: dict[str, Any], path: Path) -> Recognised:
    labels = _labels(content, path)
    return Recognised(
        layout="nnunet",
        why="its dataset.json is in the form of nnU-Net v2",
        channels=_channels(content["channel_names"]),
        labels=labels,
        overlapping=any(isinstance(value, list) for value in content["labels"].values()),
    )


def _channels(names: Any) -> tuple[str, ...]:
    """Names by number, from "0" on."""
    return tuple(str(names.get(str(i))) for i in range(len(names))) if isinstance(names, dict) else ()


def _labels(content: dict[str, Any], path: Path) -> dict[str, tuple[int, ...]]:
    """Name → codes, the background left out; MSD writes codes → names, nnU-Net names → codes."""
    labels = content.get("labels")
    if not isinstance(labels, dict):
        raise BipvlError(f"{path} names no labels; write names and codes under 'labels'.")
    named = {}
    for key, value in labels.items():
        name, code = (value, int(key)) if key.isdecimal() else (key, value)
        codes = tuple(code) if isinstance(code, list) else (code,)
        if not (isinstance(name, str) and codes and all(type(c) is int and c >= 0 for c in codes)):
            raise BipvlError(f"{path} has the label {key!r}: {value!r}, which is no name with whole numbers.")
        if codes != (0,):
            named[name.strip()] = codes
    return named


# --- by names ---

_WORD = r"(?:labels?|masks?|segs?|segmentations?|gts?|truths?|groundtruths?|annotations?)"
_LABEL_FOLDER = re.compile(rf"(?i)(?:.*[_. -])?{_WORD}(?:[_. -].*|Tr|Ts|Va|Train|Val|Test)?")
_LABEL_NAME = re.compile(rf"(?i)(?:(?P<before>.+)[_. -])?{_WORD}(?:[_. -](?P<after>.+))?")


def _by_names(folder: Path, scans: Sequence[str]) -> Recognised:
    """Label maps by a word in their name or folder; of each its images, whose names hold the same id."""
    labels = [name for name in scans if _in_label_folder(name)]
    if len(labels) in (0, len(scans)):
        labels = [name for name in scans if _LABEL_NAME.fullmatch(_stem(name))]
    if not labels:
        raise BipvlError(
            f"{folder} holds scans, such as {scans[0]}, but no label map: none has a word such as label, "
            "mask or seg in its name or its folder's; add the label maps, or rename them."
        )
    label, ids = _label_pattern(folder, labels)
    images = _image_patterns([name for name in scans if name not in {*labels}], ids)
    if not images:
        raise BipvlError(
            f"{folder} holds label maps, such as {labels[0]}, but no images whose names share their ids, "
            f"such as {ids[0]}; add the images, or rename them."
        )
    patterns = Patterns(image=images, label=label)
    own = {
        p.relative_to(folder).as_posix() for case in matching(folder, patterns) for p in case.files.values()
    }
    return Recognised(
        layout=patterns,
        why="paired by their names",
        channels=_channel_names(images),
        left=tuple(name for name in scans if name not in own),
    )


def _label_pattern(folder: Path, labels: Sequence[str]) -> tuple[str, list[str]]:
    """The pattern that most label maps fit, and the ids that it gives them."""
    ids: dict[str, set[str]] = {}
    for name in labels:
        for i in _possible_ids(name):
            ids.setdefault(_pattern(name, i), set()).add(i)
    if not ids:
        raise BipvlError(
            f"{folder} holds {labels[0]}, whose name tells no case; name it like CASE_seg.nii.gz."
        )
    first, *others = sorted(ids, key=lambda pattern: (-len(ids[pattern]), pattern))
    if others and ids[others[0]] == ids[first]:
        raise BipvlError(
            f"{folder} holds several label maps a case, {first} and {others[0]}; merge them into one with a "
            "code a class, or move the others elsewhere."
        )
    return first, sorted(ids[first])


def _possible_ids(name: str) -> Iterator[str]:
    """What may be the case in a label map's path: its name less the word for labels, or its folder."""
    stem, folders = _stem(name), PurePosixPath(name).parts[:-1]
    match = _LABEL_NAME.fullmatch(stem)
    yield from filter(None, match.groups()) if match else [stem]
    yield from [part for part in reversed(folders) if not _LABEL_FOLDER.fullmatch(part)][:1]


def _image_patterns(images: Sequence[str], ids: Sequence[str]) -> tuple[str, ...]:
    """The patterns that the images of at least half of the cases fit, sorted."""
    longest = sorted(ids, key=len, reverse=True)
    found: Counter[str] = Counter()
    for name in images:
        patterns = (_pattern(name, i) for i in longest if i in name)
        found.update([p for p in patterns if "{case}" in p][:1])
    return tuple(sorted(pattern for pattern, count in found.items() if 2 * count >= len(ids)))


def _pattern(name: str, case: str) -> str:
    """A path with ``{case}`` wherever the id stands by itself."""
    return re.sub(rf"(?<![A-Za-z0-9]){re.escape(case)}(?![A-Za-z0-9])", "{case}", name)


def _channel_names(patterns: Sequence[str]) -> tuple[str, ...]:
    """Of a file a channel: what tells their names or else their folders apart; empty where neither does."""
    stems = tuple(_stem(pattern).replace("{case}", "").strip("_.- ") for pattern in patterns)
    folders = tuple(PurePosixPath(pattern).parent.name for pattern in patterns)
    for names in (stems, folders):
        if len({*names} - {""}) == len(patterns) > 1:
            return names
    return ()


def _in_label_folder(name: str) -> bool:
    return any(_LABEL_FOLDER.fullmatch(part) for part in PurePosixPath(name).parts[:-1])


def _stem(name: str) -> str:
    return re.sub(r"(?i)\.nii(\.gz)?$", "", PurePosixPath(name).name)
