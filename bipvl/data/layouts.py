"""From a data root to the list of cases, whatever the benchmark's layout on disk."""

import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bipvl.data.spec import DatasetSpec
from bipvl.errors import BipvlError

SECTIONS = ("training", "validation")  # a "test" section has no labels


@dataclass(frozen=True)
class Case:
    """One image and its label map, in a section of the benchmark, at a place in that section's own list."""

    id: str
    image: Path
    label: Path
    section: str = "training"
    position: int = 0


def list_cases(spec: DatasetSpec, data_root: str | Path) -> list[Case]:
    """All labelled cases of a dataset, sorted by id, every file there.

    Raises:
        BipvlError: no such folder, no or a wrong dataset.json, no case, a file missing.
    """
    cases = declared_cases(spec, data_root)
    missing = [path for case in cases for path in (case.image, case.label) if not path.is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more files)" if len(missing) > 1 else ""
        raise BipvlError(
            f"{missing[0]} is missing{more}; copy it there, or take its case out of the dataset."
        )
    return cases


def declared_cases(spec: DatasetSpec, data_root: str | Path) -> list[Case]:
    """As `list_cases`, but a case's files need not be there."""
    folder = Path(data_root) / spec.folder
    if not folder.is_dir():
        raise BipvlError(f"{folder} is not a folder; {spec.title} is expected there, so check the data root.")
    cases = _READERS[spec.layout](spec, folder)
    if spec.case_numbers:
        first, last = spec.case_numbers
        cases = [case for case in cases if first <= _number(case, folder) <= last]
    if not cases:
        raise BipvlError(f"{folder} holds no case of {spec.title}; expected the layout '{spec.layout}'.")
    case_id, count = Counter(case.id for case in cases).most_common(1)[0]
    if count > 1:  # it could be trained on and tested on
        raise BipvlError(f"{folder} lists the case {case_id} {count} times; each case may be listed once.")
    return sorted(cases, key=lambda case: case.id)


def cohort_of(data_root: str | Path) -> str:
    """Where the files below a data root come from: "synthetic" if cohort.json says so, else "real"."""
    path = Path(data_root) / "cohort.json"
    if not path.exists():
        return "real"
    content = read_json(path)
    if content.get("cohort") != "synthetic":
        raise BipvlError(f'{path} does not say "cohort": "synthetic"; delete it if these are real data.')
    return "synthetic"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object; BipvlError where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise BipvlError(f"{path} is missing; check the path, or fetch it again.") from error
    except (OSError, ValueError) as error:
        raise BipvlError(f"{path} cannot be read as JSON ({error}); fetch or write it again.") from error
    if not isinstance(content, dict):
        raise BipvlError(f"{path} must hold a JSON object, but holds a {type(content).__name__}.")
    return content


def _from_dataset_json(spec: DatasetSpec, folder: Path) -> list[Case]:
    path = folder / "dataset.json"
    content = read_json(path)
    _check_names(spec, content, path)
    cases = []
    for section in SECTIONS:
        for position, entry in enumerate(content.get(section, [])):
            if not isinstance(entry, dict) or not {"image", "label"} <= set(entry):
                raise BipvlError(f"{path}: entry {position} of '{section}' must hold an image and a label.")
            image, label = (_inside(folder, entry[key], path) for key in ("image", "label"))
            cases.append(Case(re.sub(r"\.nii(\.gz)?$", "", image.name), image, label, section, position))
    return cases


def _from_paired_files(spec: DatasetSpec, folder: Path) -> list[Case]:
    names = [path.name for path in folder.glob("[!.]*.nii.gz")]
    ids = sorted(
        {match[1] for name in names if (match := re.fullmatch(r"(.+)_(image|label)\.nii\.gz", name))}
    )
    return [
        Case(i, folder / f"{i}_image.nii.gz", folder / f"{i}_label.nii.gz", position=position)
        for position, i in enumerate(ids)
    ]


_READERS = {"dataset_json": _from_dataset_json, "paired_files": _from_paired_files}


def _check_names(spec: DatasetSpec, content: dict, path: Path) -> None:
    """The file's names for codes and channels must be the declared ones: a number alone proves nothing."""
    labels, channels = content.get("labels"), content.get("modality")
    if not isinstance(labels, dict) or not set(labels) >= {str(code) for code in spec.code_names}:
        raise BipvlError(f"{path} must have 'labels' that name the codes {sorted(spec.code_names)}.")
    for code, name in labels.items():
        accepted = spec.code_names.get(int(code) if code.isdecimal() else -1, ())
        if code != "0" and plain_name(name) not in map(plain_name, accepted):
            expected = f"expected '{accepted[0]}'" if accepted else f"{spec.title} declares no such code"
            raise BipvlError(f"{path} calls label {code} '{name}'; {expected}: is this the right dataset?")
    if len(spec.channels) > 1 and isinstance(channels, dict):
        found = [channels.get(str(i)) for i in range(len(channels))]
        if [*map(plain_name, found)] != [*map(plain_name, spec.channels)]:
            raise BipvlError(
                f"{path} has the channels {found}; expected {list(spec.channels)} in this order."
            )


def plain_name(name: object) -> str:
    """A name as it is compared: case, underscores and runs of spaces make no difference."""
    return " ".join(str(name).casefold().replace("_", " ").split())


def _inside(folder: Path, relative: object, source: Path) -> Path:
    # Lexical on purpose: a folder that is a link to another disk is fine, "../" or "/etc" in the file is not.
    path = Path(os.path.normpath(folder / str(relative)))
    if not path.is_relative_to(os.path.normpath(folder)):
        raise BipvlError(
            f"{source} names {relative}, outside its own folder; paths must stay below {folder}."
        )
    return path


def _number(case: Case, folder: Path) -> int:
    if not (digits := re.search(r"\d+$", case.id)):
        raise BipvlError(
            f"{folder}: the case {case.id} does not end in a number, by which it would be chosen."
        )
    return int(digits[0])
