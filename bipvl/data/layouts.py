"""From a data root to the list of cases, whatever the benchmark's layout on disk."""

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bipvl.common.errors import BipvlError
from bipvl.data.issues import Fault
from bipvl.data.spec import DatasetSpec, Patterns

SECTIONS = ("training", "validation")  # a "test" section has no labels


@dataclass(frozen=True)
class Case:
    """One image and its label map, in a section of the benchmark, at a place in that section's own list.

    Attributes:
        image: its file; with a file a channel the first channel's, those of the others in ``further``.
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
        """Who is in the scan; where the dataset's YAML cannot tell, each case counts as another patient."""
        return self.patient or self.id

    @property
    def images(self) -> tuple[Path, ...]:
        """The image's file, or files in the order of the channels."""
        return (self.image, *self.further)

    @property
    def files(self) -> dict[str, Path]:
        """Every file by what it is: image and label or, with a file a channel, image 1, … and label."""
        if not self.further:
            return {"image": self.image, "label": self.label}
        return {f"image {i}": path for i, path in enumerate(self.images, 1)} | {"label": self.label}

    @property
    def paths(self) -> dict[str, str | list[str]]:
        """What transforms load: "image", a path or with a file a channel a list of them, and "label"."""
        images = [str(path) for path in self.images]
        return {"image": images if self.further else images[0], "label": str(self.label)}


def list_cases(spec: DatasetSpec, data_root: str | Path) -> list[Case]:
    """All labelled cases of a dataset, sorted by id, every file there.

    Raises:
        BipvlError: no such folder, no or a wrong dataset.json, no case, a file missing.
    """
    cases = declared_cases(spec, data_root)
    missing = [path for case in cases for path in case.files.values() if not path.is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more files)" if len(missing) > 1 else ""
        raise BipvlError(
            f"{missing[0]} is missing{more}; copy it there, or take its case out of the dataset."
        )
    return cases


def declared_cases(spec: DatasetSpec, data_root: str | Path) -> list[Case]:
    """As `list_cases`, but a case's files need not be there."""
    cases, faults = survey(spec, data_root)
    if faults:
        raise faults[0].error
    return cases


def survey(spec: DatasetSpec, data_root: str | Path) -> tuple[list[Case], list[Fault]]:
    """The cases that can be told, sorted by id, each once, and all that is wrong with their declaration."""
    folder = Path(data_root) / spec.folder
    if not os.path.isdir(folder):
        fix = f"{spec.title} is expected there, so check the data root"
        return [], [Fault(str(folder), "is not a folder", fix)]
    found: list[Case | Fault] = []
    for entry in _entries(spec, folder):
        found += [entry] if isinstance(entry, Fault) else _placed(spec, folder, entry)
    faults = [entry for entry in found if isinstance(entry, Fault)]
    cases = sorted((entry for entry in found if isinstance(entry, Case)), key=lambda case: case.id)
    if not found:
        fix = f"expected the layout '{spec.layout}'"
        faults.append(Fault(str(folder), f"holds no case of {spec.title}", fix))
    for case_id, count in Counter(case.id for case in cases).items():
        if count > 1:  # it could be trained on and tested on
            faults.append(Fault(str(folder), f"lists the case {case_id} {count} times", "list it once"))
    return [*{case.id: case for case in cases}.values()], faults


def extra_files(spec: DatasetSpec, data_root: str | Path) -> list[Fault]:
    """Scans that lie among the cases' own but belong to none, so that they would be left out in silence.

    Hidden files, other kinds of file and cases that the dataset does not take by their number are not meant.
    Neither is anything where the dataset's own patterns choose its files.
    """
    folder = Path(data_root) / spec.folder
    entries = _entries(spec, folder) if os.path.isdir(folder) else ()
    own = {path for case in entries if isinstance(case, Case) for path in case.files.values()}
    if not own or isinstance(spec.layout, Patterns):
        return []
    listed = own | (_named_in_json(folder) if spec.layout == "dataset_json" else set())
    return [
        Fault(str(path), "belongs to no case", f"{_JOIN[spec.layout]}, or move it elsewhere")
        for place in sorted({path.parent for path in own})
        for path in sorted(place.glob("[!.]*"))
        if path not in listed and _is_scan(path) and _takes(spec, _number(_stem(path)))
    ]


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
    """A JSON file's object; BipvlError where there is none, or one that names a key twice."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_twins)
    except FileNotFoundError as error:
        raise BipvlError(f"{path} is missing; check the path, or fetch it again.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BipvlError(f"{path} cannot be read as JSON ({error}); fetch or write it again.") from error
    if not isinstance(content, dict):
        raise BipvlError(f"{path} must hold a JSON object, but holds a {type(content).__name__}.")
    return content


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's keys and values; of a key that is there twice, JSON's own reader would drop the first."""
    if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise ValueError(f"the key '{twice[0]}' is there twice")
    return dict(pairs)


def _described(read: Callable) -> Callable:
    """A reader of a folder, from one of what its dataset.json says and where that lies."""

    def reader(spec: DatasetSpec, folder: Path) -> Iterator[Case | Fault]:
        path = folder / "dataset.json"
        try:
            content = read_json(path)
        except BipvlError as error:
            yield Fault.told(path, error)
        else:
            yield from read(spec, content, path)

    return reader


def _from_dataset_json(spec: DatasetSpec, content: dict, path: Path) -> Iterator[Case | Fault]:
    yield from _name_faults(spec, content, path)
    listed = {section: content.get(section, []) for section in SECTIONS}
    found = [entry for section in SECTIONS for entry in _from_section(listed[section], section, path)]
    yield from found
    cases = [entry for entry in found if isinstance(entry, Case)]
    ids = {case.id for case in cases}
    for case in cases:
        if (other := _stem(case.label)) in ids - {case.id}:
            told = f"gives the image of {case.id} the label map of {other}"
            yield Fault(str(path), told, "pair each image with its own")


def _from_section(entries: Any, section: str, path: Path) -> list[Case | Fault]:
    if not isinstance(entries, list):
        return [Fault(str(path), f"has no list under '{section}'", "list an image and a label a case there")]
    return [_from_entry(entry, section, position, path) for position, entry in enumerate(entries)]


def _from_entry(entry: Any, section: str, position: int, path: Path) -> Case | Fault:
    """A case of dataset.json, or what is wrong with it."""
    keys = ("image", "label")
    if not (isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in keys)):
        told = f"lacks a path in its entry {position} of '{section}'"
        return Fault(str(path), told, "each must hold an image and a label")
    if outside := [entry[key] for key in keys if not _inside(path.parent, entry[key])]:
        told = f"names {outside[0]}, outside its own folder"
        return Fault(str(path), told, f"paths must stay below {path.parent}")
    image, label = (_below(path.parent, entry[key]) for key in keys)
    return Case(_stem(image), image, label, section, position)


def _from_nnunet(spec: DatasetSpec, content: dict, path: Path) -> Iterator[Case | Fault]:
    """nnU-Net v2: a file a channel, ``imagesTr/CASE_0000.nii.gz``, and a dataset.json that lists no files."""
    if (ending := content.get("file_ending")) not in (".nii.gz", ".nii"):
        fix = "convert the scans to NIfTI, and write .nii.gz or .nii there"
        yield Fault(str(path), f"has the 'file_ending' {ending!r}", fix)
        return
    if "dataset" in content:
        fix = "put the files into imagesTr and labelsTr, and take it out"
        yield Fault(str(path), "lists its files under 'dataset', which is not read", fix)
        return
    yield from _region_faults(spec, content, path)
    yield from _channel_faults(spec, content.get("channel_names"), path)
    cases = [*matching(path.parent, nnunet_patterns(len(spec.channels), ending))]
    if (count := content.get("numTraining")) != len(cases):
        told = f"has the 'numTraining' {count!r}, but {len(cases)} cases lie beside it"
        yield Fault(str(path), told, "add the missing files, or correct the number")
    yield from cases


def nnunet_patterns(channels: int, ending: str) -> Patterns:
    """Where nnU-Net v2 keeps the files of its training cases."""
    images = tuple(f"imagesTr/{{case}}_{i:04}{ending}" for i in range(channels))
    return Patterns(image=images, label=f"labelsTr/{{case}}{ending}")


def _from_patterns(spec: DatasetSpec, folder: Path) -> Iterator[Case]:
    yield from matching(folder, spec.layout if isinstance(spec.layout, Patterns) else _PAIRED)


def matching(folder: Path, patterns: Patterns) -> Iterator[Case]:
    """A case for each id that a file is found of, sorted; its other files need not be there.

    A file that fits two patterns belongs to the one that leaves less to the id.
    """
    every = sorted((*patterns.image, patterns.label), key=lambda p: (-len(p.replace("{case}", "")), p))
    files = {path.relative_to(folder).as_posix() for p in every for path in folder.glob(_globbed(p))}
    readers = [re.compile(_regex(p)) for p in every]
    matches = (next(filter(None, (reader.fullmatch(file) for reader in readers)), None) for file in files)
    for position, i in enumerate(sorted({match["case"] for match in matches if match})):
        image, *further = (folder / p.replace("{case}", i) for p in patterns.image)
        label = folder / patterns.label.replace("{case}", i)
        yield Case(i, image, label, position=position, further=tuple(further))


def _globbed(pattern: str) -> str:
    return "*".join(map(glob.escape, pattern.split("{case}")))


def _regex(pattern: str) -> str:
    """The id is not hidden, as what macOS leaves behind is, and the same at each of its places."""
    first, second, *more = map(re.escape, pattern.split("{case}"))
    return "(?P=case)".join([rf"{first}(?P<case>(?!\.)[^/]+){second}", *more])


_PAIRED = Patterns(image=("{case}_image.nii.gz",), label="{case}_label.nii.gz")
_READERS = {"dataset_json": _described(_from_dataset_json), "nnunet": _described(_from_nnunet)}


def _entries(spec: DatasetSpec, folder: Path) -> Iterator[Case | Fault]:
    """What a dataset's folder declares, by its layout."""
    return _READERS.get(spec.layout, _from_patterns)(spec, folder)


def _placed(spec: DatasetSpec, folder: Path, case: Case) -> Iterator[Case | Fault]:
    """A case with its patient, nothing where the dataset does not take it, or why neither can be told."""
    number, match = _number(case.id), re.match(spec.patient or "()", case.id)
    if spec.case_numbers and number is None:
        told = f"holds the case {case.id}, which does not end in a number"
        yield Fault(str(folder), told, "the dataset chooses its cases by number, so rename it")
    elif spec.patient and not (match and match[1]):
        told = f"holds the case {case.id}, whose patient '{spec.patient}' does not tell"
        yield Fault(str(folder), told, "rename it, or correct 'patient' in the dataset's YAML")
    elif _takes(spec, number):
        yield replace(case, patient=match[1] if match else "")


def _name_faults(spec: DatasetSpec, content: dict, path: Path) -> Iterator[Fault]:
    """The file's names for codes and channels must be the declared ones: a number alone proves nothing."""
    labels, channels = content.get("labels"), content.get("modality")
    if not isinstance(labels, dict) or not set(labels) >= {str(code) for code in spec.code_names}:
        told = f"must have 'labels' that name the codes {sorted(spec.code_names)}"
        yield Fault(str(path), told, "restore the file, or correct 'code_names' in the dataset's YAML")
    for code, name in labels.items() if isinstance(labels, dict) else ():
        accepted = spec.code_names.get(int(code) if code.isdecimal() else -1, ())
        if code != "0" and plain_name(name) not in map(plain_name, accepted):
            expected = f"expected '{accepted[0]}'" if accepted else f"{spec.title} declares no such code"
            told = f"calls label {code} '{name}'"
            yield Fault(str(path), told, f"{expected}, so see whether this is the right dataset")
    yield from _channel_faults(spec, channels, path)


def _region_faults(spec: DatasetSpec, content: dict, path: Path) -> Iterator[Fault]:
    """As `_name_faults` for nnU-Net v2, whose names stand for a code or, as regions, for several."""
    labels, covered = content.get("labels"), set()
    named = [(name, {code}) for code, names in spec.code_names.items() for name in names]
    named += [(name, {*c.codes}) for c in spec.classes for name in (c.name, *c.aliases)]
    for name, value in labels.items() if isinstance(labels, dict) else ():
        codes = value if isinstance(value, list) else [value]
        if codes == [0]:
            continue
        fitting = [known for known, own in named if sorted(own) == codes]
        if plain_name(name) not in map(plain_name, fitting):
            expected = f"expected '{fitting[0]}'" if fitting else f"{spec.title} declares no such label"
            told = f"calls label {value} '{name}'"
            yield Fault(str(path), told, f"{expected}, so see whether this is the right dataset")
        covered |= {code for code in codes if isinstance(code, int)}
    if absent := sorted({*spec.known_codes} - covered - {0}):
        fix = "restore the file, or correct 'classes' in the dataset's YAML"
        yield Fault(str(path), f"has no label of the codes {absent}", fix)


def _channel_faults(spec: DatasetSpec, channels: Any, path: Path) -> Iterator[Fault]:
    if len(spec.channels) > 1 and isinstance(channels, dict):
        found = [channels.get(str(i)) for i in range(len(channels))]
        if [*map(plain_name, found)] != [*map(plain_name, spec.channels)]:
            yield Fault(
                str(path), f"has the channels {found}", f"expected {list(spec.channels)} in this order"
            )


def plain_name(name: object) -> str:
    """A name as it is compared: case, underscores and runs of spaces make no difference."""
    return " ".join(str(name).casefold().replace("_", " ").split())


_JOIN = {
    "dataset_json": "list it in dataset.json",
    "nnunet": "call it CASE_0000.nii.gz, … by its channel, or CASE.nii.gz if it is a label map",
    "paired_files": "call it ID_image.nii.gz or ID_label.nii.gz",
}


def _named_in_json(folder: Path) -> set[Path]:
    """Every file that dataset.json names, unlabelled test scans and halves of entries among them."""
    content = read_json(folder / "dataset.json")
    sections = [content[key] for key in (*SECTIONS, "test") if isinstance(content.get(key), list)]
    entries = [entry for section in sections for entry in section]
    paths = [path for entry in entries for path in (entry.values() if isinstance(entry, dict) else [entry])]
    return {_below(folder, path) for path in paths if isinstance(path, str) and _inside(folder, path)}


def _below(folder: Path, relative: str) -> Path:
    # Lexical on purpose: a folder that is a link to another disk is fine, "../" or "/etc" in the file is not.
    return Path(os.path.normpath(folder / relative))


def _inside(folder: Path, relative: str) -> bool:
    return _below(folder, relative).is_relative_to(os.path.normpath(folder))


def _is_scan(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name)


def _number(case_id: str) -> int | None:
    return int(digits[0]) if (digits := re.search(r"\d+$", case_id)) else None


def _takes(spec: DatasetSpec, number: int | None) -> bool:
    """Whether a dataset takes the cases of a number; None where it cannot be told."""
    if spec.case_numbers is None or number is None:
        return True
    first, last = spec.case_numbers
    return first <= number <= last
