"""List the cases of a data set, whatever its layout on disk."""

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bipvl.common.errors import BipvlError
from bipvl.data.spec import DatasetSpec, Patterns

SECTIONS = ("training", "validation")  # a "test" section has no labels


@dataclass(frozen=True)
class Case:
    """One image and its label map.

    Attributes:
        image: the image's file; with one file per channel the first channel's.
        section, position: the section of the benchmark, and the place in that section's own list.
        patient: "" if the data set's YAML does not identify patients.
        further: the files of the other channels.
    """

    id: str
    image: Path
    label: Path
    section: str = "training"
    position: int = 0
    patient: str = ""
    further: tuple[Path, ...] = ()

    @property
    def person(self) -> str:
        """The patient; if unknown, each case counts as another patient."""
        return self.patient or self.id

    @property
    def images(self) -> tuple[Path, ...]:
        """The image's file, or its files in the order of the channels."""
        return (self.image, *self.further)

    @property
    def files(self) -> dict[str, Path]:
        """Every file by its role: image and label or, with one file per channel, image 1, … and label."""
        if not self.further:
            return {"image": self.image, "label": self.label}
        return {f"image {i}": path for i, path in enumerate(self.images, 1)} | {"label": self.label}

    @property
    def paths(self) -> dict[str, str | list[str]]:
        """The input of transforms: "image" (a path, or a list with one file per channel) and "label"."""
        images = [str(path) for path in self.images]
        return {"image": images if self.further else images[0], "label": str(self.label)}


def list_cases(spec: DatasetSpec, data_root: str | Path) -> list[Case]:
    """All labelled cases of a data set, sorted by id; all their files exist.

    Raises:
        BipvlError: the folder or a file is missing, there is no case, or dataset.json is missing or wrong.
    """
    cases = declared_cases(spec, data_root)
    missing = [path for case in cases for path in case.files.values() if not path.is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more files)" if len(missing) > 1 else ""
        fix = "copy it there, or remove its case from the data set"
        raise BipvlError(f"file not found{more}", fix, missing[0])
    return cases


def declared_cases(spec: DatasetSpec, data_root: str | Path) -> list[Case]:
    """As `list_cases`, but the files of the cases need not exist."""
    cases, issues = find_cases(spec, data_root)
    if issues:
        raise issues[0]
    return cases


def find_cases(spec: DatasetSpec, data_root: str | Path) -> tuple[list[Case], list[BipvlError]]:
    """The cases that a data set declares, sorted by id, each once; and all issues of the declaration."""
    folder = Path(data_root) / spec.folder
    if not os.path.isdir(folder):
        fix = f"check the data root, since {spec.title} is expected here"
        return [], [BipvlError("is not a folder", fix, folder)]
    found = [*_placed_entries(spec, folder)]
    issues = [entry for entry in found if isinstance(entry, BipvlError)]
    cases = sorted((entry for entry in found if isinstance(entry, Case)), key=lambda case: case.id)
    if not found:
        expected = f"arrange the files in the layout '{spec.layout}', or correct 'layout' in the YAML"
        issues.append(BipvlError(f"holds no case of {spec.title}", expected, folder))
    for case_id, count in Counter(case.id for case in cases).items():
        if count > 1:  # it could be in both training and test
            issues.append(BipvlError(f"lists the case {case_id} {count} times", "list it once", folder))
    return [*{case.id: case for case in cases}.values()], issues


def extra_files(spec: DatasetSpec, data_root: str | Path) -> list[BipvlError]:
    """Scans beside the cases' files that belong to no case and would be ignored without notice.

    Excluded: hidden files, other types of file, and cases outside 'case_numbers'. If the data set's own
    patterns select its files, nothing is reported.
    """
    folder = Path(data_root) / spec.folder
    entries = _entries(spec, folder) if os.path.isdir(folder) else ()
    known = {path for case in entries if isinstance(case, Case) for path in case.files.values()}
    if not known or isinstance(spec.layout, Patterns):
        return []
    listed = known | (_named_in_json(folder) if spec.layout == "dataset_json" else set())
    return [
        BipvlError("belongs to no case", f"{_ASSIGN[spec.layout]}, or move it elsewhere", path)
        for place in sorted({path.parent for path in known})
        for path in sorted(place.glob("[!.]*"))
        if path not in listed and _is_scan(path) and _is_selected(spec, _number(_stem(path)))
    ]


def cohort_of(data_root: str | Path) -> str:
    """The origin of the files below a data root: "synthetic" if cohort.json says so, else "real"."""
    path = Path(data_root) / "cohort.json"
    if not path.exists():
        return "real"
    if read_json(path).get("cohort") != "synthetic":
        raise BipvlError('does not say "cohort": "synthetic"', "delete it if these are real data", path)
    return "synthetic"


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        BipvlError: the file is missing or not readable, holds no object, or has a key twice.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique_keys)
    except FileNotFoundError as error:
        raise BipvlError("file not found", "check the path, or download it again", path) from error
    except (OSError, ValueError, RecursionError) as error:
        raise BipvlError(f"not readable as JSON ({error})", "download or write it again", path) from error
    if not isinstance(content, dict):
        fix = "download or write it again"
        raise BipvlError(f"holds a {type(content).__name__} instead of a JSON object", fix, path)
    return content


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's content; Python's JSON reader would silently drop the first value of a repeated key."""
    if repeated := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise ValueError(f"the key '{repeated[0]}' is there twice")
    return dict(pairs)


def _entries(spec: DatasetSpec, folder: Path) -> Iterator[Case | BipvlError]:
    """The cases that a data set's folder declares, by its layout, and the issues of the declaration."""
    if spec.layout not in ("dataset_json", "nnunet"):
        yield from matching(folder, spec.layout if isinstance(spec.layout, Patterns) else _PAIRED)
        return
    path = folder / "dataset.json"
    try:
        content = read_json(path)
    except BipvlError as error:
        yield error
        return
    read = _from_nnunet if spec.layout == "nnunet" else _from_dataset_json
    for entry in read(spec, content, folder):
        yield entry.at(path) if isinstance(entry, BipvlError) else entry


def _from_dataset_json(spec: DatasetSpec, content: dict, folder: Path) -> Iterator[Case | BipvlError]:
    yield from _name_issues(spec, content)
    found = [
        entry for section in SECTIONS for entry in _from_section(content.get(section, []), section, folder)
    ]
    yield from found
    cases = [entry for entry in found if isinstance(entry, Case)]
    ids = {case.id for case in cases}
    for case in cases:
        if (other := _stem(case.label)) in ids - {case.id}:
            problem = f"gives the image of {case.id} the label map of {other}"
            yield BipvlError(problem, "pair each image with its own label map")


def _from_section(entries: Any, section: str, folder: Path) -> Iterator[Case | BipvlError]:
    if not isinstance(entries, list):
        yield BipvlError(f"has no list under '{section}'", "list the image and the label of each case there")
        return
    for position, entry in enumerate(entries):
        paths = [entry.get(key) for key in ("image", "label")] if isinstance(entry, dict) else [None]
        if not all(isinstance(path, str) for path in paths):
            problem = f"lacks a path in entry {position} of '{section}'"
            yield BipvlError(problem, "give each entry an image and a label")
        elif outside := [path for path in paths if not _is_inside(folder, path)]:
            yield BipvlError(f"names {outside[0]}, outside its own folder", f"keep all paths below {folder}")
        else:
            image, label = (_below(folder, path) for path in paths)
            yield Case(_stem(image), image, label, section, position)


def _from_nnunet(spec: DatasetSpec, content: dict, folder: Path) -> Iterator[Case | BipvlError]:
    """nnU-Net v2: one file per channel, ``imagesTr/CASE_0000.nii.gz``; its dataset.json lists no files."""
    if (ending := content.get("file_ending")) not in (".nii.gz", ".nii"):
        fix = "convert the scans to NIfTI, and write .nii.gz or .nii there"
        yield BipvlError(f"has the 'file_ending' {ending!r}", fix)
        return
    if "dataset" in content:
        fix = "move the files to imagesTr and labelsTr, and remove 'dataset'"
        yield BipvlError("lists its files under 'dataset', which is not supported", fix)
        return
    yield from _region_issues(spec, content)
    yield from _channel_issues(spec, content.get("channel_names"))
    images = tuple(f"imagesTr/{{case}}_{i:04}{ending}" for i in range(len(spec.channels)))
    cases = [*matching(folder, Patterns(image=images, label=f"labelsTr/{{case}}{ending}"))]
    if (count := content.get("numTraining")) != len(cases):
        problem = f"has the 'numTraining' {count!r}, but there are {len(cases)} cases"
        yield BipvlError(problem, "add the missing files, or correct the number")
    yield from cases


def matching(folder: Path, patterns: Patterns) -> Iterator[Case]:
    """One case per id for which a file exists, sorted; the case's other files need not exist.

    A file that fits two patterns belongs to the one that leaves less to the id.
    """
    every = sorted((*patterns.image, patterns.label), key=lambda p: (-len(p.replace("{case}", "")), p))
    files = {path.relative_to(folder).as_posix() for p in every for path in folder.glob(_as_glob(p))}
    readers = [re.compile(_as_regex(p)) for p in every]
    matches = (next(filter(None, (reader.fullmatch(file) for reader in readers)), None) for file in files)
    for position, i in enumerate(sorted({match["case"] for match in matches if match})):
        image, *further = (folder / p.replace("{case}", i) for p in patterns.image)
        label = folder / patterns.label.replace("{case}", i)
        yield Case(i, image, label, position=position, further=tuple(further))


def _as_glob(pattern: str) -> str:
    return "*".join(map(glob.escape, pattern.split("{case}")))


def _as_regex(pattern: str) -> str:
    """The id is the same at each of its places, and not hidden as the files that macOS leaves behind."""
    first, second, *more = map(re.escape, pattern.split("{case}"))
    return "(?P=case)".join([rf"{first}(?P<case>(?!\.)[^/]+){second}", *more])


_PAIRED = Patterns(image=("{case}_image.nii.gz",), label="{case}_label.nii.gz")
_ASSIGN = {
    "dataset_json": "list it in dataset.json",
    "nnunet": "name it CASE_0000.nii.gz, … by its channel, or CASE.nii.gz if it is a label map",
    "paired_files": "name it ID_image.nii.gz or ID_label.nii.gz",
}
"""How to assign a scan to a case, by layout."""


def _placed_entries(spec: DatasetSpec, folder: Path) -> Iterator[Case | BipvlError]:
    """The entries of a folder: each case with its patient, without the cases outside 'case_numbers'."""
    for entry in _entries(spec, folder):
        if isinstance(entry, BipvlError):
            yield entry
            continue
        number, match = _number(entry.id), re.match(spec.patient or "()", entry.id)
        if spec.case_numbers and number is None:
            problem = f"holds the case {entry.id}, which does not end in a number"
            yield BipvlError(problem, "rename it, since 'case_numbers' selects cases by number", folder)
        elif spec.patient and not (match and match[1]):
            problem = f"holds the case {entry.id}, whose patient '{spec.patient}' does not find"
            yield BipvlError(problem, "rename it, or correct 'patient' in the data set's YAML", folder)
        elif _is_selected(spec, number):
            yield replace(entry, patient=match[1] if match else "")


def _name_issues(spec: DatasetSpec, content: dict) -> Iterator[BipvlError]:
    """Names of codes and channels in dataset.json that are not the declared ones."""
    labels = content.get("labels")
    labels = labels if isinstance(labels, dict) else {}
    if not set(labels) >= {str(code) for code in spec.code_names}:
        problem = f"must have 'labels' that name the codes {sorted(spec.code_names)}"
        yield BipvlError(problem, "restore the file, or correct 'code_names' in the data set's YAML")
    for code, name in labels.items():
        accepted = spec.code_names.get(int(code) if code.isdecimal() else -1, ())
        if code != "0" and plain_name(name) not in map(plain_name, accepted):
            yield _wrong_name(spec, code, name, accepted)
    yield from _channel_issues(spec, content.get("modality"))


def _region_issues(spec: DatasetSpec, content: dict) -> Iterator[BipvlError]:
    """As `_name_issues` for nnU-Net v2, whose names stand for one code or, as regions, for several."""
    labels, covered = content.get("labels"), set()
    named = [(name, {code}) for code, names in spec.code_names.items() for name in names]
    named += [(name, {*c.codes}) for c in spec.classes for name in (c.name, *c.aliases)]
    for name, value in labels.items() if isinstance(labels, dict) else ():
        codes = value if isinstance(value, list) else [value]
        if codes == [0]:
            continue
        accepted = [known for known, known_codes in named if sorted(known_codes) == codes]
        if plain_name(name) not in map(plain_name, accepted):
            yield _wrong_name(spec, value, name, accepted)
        covered |= {code for code in codes if isinstance(code, int)}
    if missing := sorted({*spec.known_codes} - covered - {0}):
        fix = "restore the file, or correct 'classes' in the data set's YAML"
        yield BipvlError(f"has no label for the codes {missing}", fix)


def _wrong_name(spec: DatasetSpec, code: Any, name: Any, accepted: Sequence[str]) -> BipvlError:
    expected = f"expected '{accepted[0]}'" if accepted else f"{spec.title} declares no such label"
    return BipvlError(f"calls label {code} '{name}'", f"{expected}, so check that this is the right data set")


def _channel_issues(spec: DatasetSpec, channels: Any) -> Iterator[BipvlError]:
    if len(spec.channels) > 1 and isinstance(channels, dict):
        found = [channels.get(str(i)) for i in range(len(channels))]
        if [*map(plain_name, found)] != [*map(plain_name, spec.channels)]:
            yield BipvlError(f"has the channels {found}", f"expected {list(spec.channels)} in this order")


def plain_name(name: object) -> str:
    """A name for comparisons: case, underscores and runs of spaces make no difference."""
    return " ".join(str(name).casefold().replace("_", " ").split())


def _named_in_json(folder: Path) -> set[Path]:
    """Every file that dataset.json names, including unlabelled test scans and incomplete entries."""
    content = read_json(folder / "dataset.json")
    sections = [content[key] for key in (*SECTIONS, "test") if isinstance(content.get(key), list)]
    entries = [entry for section in sections for entry in section]
    paths = [path for entry in entries for path in (entry.values() if isinstance(entry, dict) else [entry])]
    return {_below(folder, path) for path in paths if isinstance(path, str) and _is_inside(folder, path)}


def _below(folder: Path, relative: str) -> Path:
    # Lexical on purpose: a folder may be a link to another disk, but "../" or "/etc" in the file is refused.
    return Path(os.path.normpath(folder / relative))


def _is_inside(folder: Path, relative: str) -> bool:
    return _below(folder, relative).is_relative_to(os.path.normpath(folder))


def _is_scan(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name)


def _number(case_id: str) -> int | None:
    """The number at the end of an id."""
    return int(digits[0]) if (digits := re.search(r"\d+$", case_id)) else None


def _is_selected(spec: DatasetSpec, number: int | None) -> bool:
    """Whether 'case_numbers' selects the cases of this number (None: unknown)."""
    if spec.case_numbers is None or number is None:
        return True
    first, last = spec.case_numbers
    return first <= number <= last
