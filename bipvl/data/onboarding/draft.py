"""Write the initial YAML file and prompt CSV of a data set from its folder; comments give the reasons."""

import csv
import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bipvl.common.errors import BipvlError
from bipvl.common.files import write_text
from bipvl.data.layouts import list_cases
from bipvl.data.onboarding.detect_layout import DetectedLayout, detect_layout
from bipvl.data.onboarding.measure import Measurements, measure
from bipvl.data.prompts import COLUMNS, CONCEPTS
from bipvl.data.spec import CROP_STEP, FILL_IN, ClassSpec, DatasetSpec, Patterns, parse_spec

LARGEST_CROP = 96
"""Voxels per side, as in the paper."""
AIR = -200
"""HU: images that go below this value are taken for CT, which contains air (-1000)."""
CHANNEL_NAMES = {"CT": "ct|cta", "MR": r"mri?|mra|t1\w*|t2\w*|flair|adc|dwi"}
"""Modality → regular expression of its usual channel names."""
AUGMENTATION = {
    "CT": {"intensity_shift": 0.1, "rotation_degrees": 6, "zoom": 0.1},
    "MR": {"intensity_scale": 0.1, "intensity_shift": 0.1},
}
"""Modality → augmentation, as for the benchmarks."""
HINTS = {
    "Shape": "its form in 3D, such as crescent, wedge, tube",
    "Location": "its position, and its neighbours",
    "Appearance/Density": "its brightness compared with its surroundings",
    "Contour/Symmetry": "how sharp its border is, whether it has a twin",
    "Internal Texture": "even, mottled, layered or branching",
}
"""Concept → what to write about it."""

Classes = Sequence[ClassSpec]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """The content of both initial files, and the spec of the YAML with placeholders filled in."""

    path: Path
    yaml: str
    prompts: str
    spec: DatasetSpec
    cases: int

    @property
    def prompts_path(self) -> Path:
        """The prompt CSV beside the YAML file."""
        return self.path.with_suffix(".csv")

    @property
    def found(self) -> str:
        """One line on the cases, channels and codes that were found."""
        channels, codes = ", ".join(self.spec.channels), ", ".join(map(str, self.spec.known_codes))
        return f"{self.cases} cases; {self.spec.modality}, channels: {channels}; label codes: {codes}"

    @property
    def to_fill(self) -> list[str]:
        """What the user must fill in, one line per file."""
        names, cells = self.yaml.count(FILL_IN), self.spec.num_classes * len(CONCEPTS)
        unnamed = f"{self.path}: the names of {names} classes, also in the titles of {self.prompts_path.name}"
        texts = f"{self.prompts_path}: {cells} texts about the appearance of each class"
        return [unnamed, texts] if names else [texts]


def draft_dataset(
    folder: str | Path, output: str | Path | None = None, *, name: str | None = None, progress: bool = True
) -> Draft:
    """Write the initial files of a data set: a YAML file and a prompt CSV of the same name beside it.

    Args:
        output: the YAML file; by default NAME.yaml in the current folder.
        name: name of the data set; by default that of its folder.

    Raises:
        BipvlError: one of the files exists already; the folder holds no scans, or no valid data set
            (images without label maps, fractional codes, different grids).
    """
    folder = Path(folder)
    name = name or re.sub(r"\W+", "_", data_root(folder)[1].casefold()).strip("_") or "dataset"
    output = Path(output or f"{name}.yaml")
    if output.suffix not in (".yaml", ".yml"):
        raise BipvlError("does not end in .yaml", "give --output a name that does", output)
    for path in (output, output.with_suffix(".csv")):
        if path.exists():
            raise BipvlError("exists already and is not overwritten", "give another --output", path)
    drafted = draft(folder, output, name, progress=progress)
    write_text(drafted.prompts_path, drafted.prompts)
    write_text(output, drafted.yaml)
    return drafted


def draft(folder: Path, output: Path, name: str, *, progress: bool = True) -> Draft:
    """As `draft_dataset`, but without writing files."""
    root, relative = data_root(folder)
    layout = detect_layout(folder)
    cases = list_cases(_spec_for_listing(name, relative, layout), root)
    measured = measure(cases, progress=progress)
    classes = _classes(layout, measured, folder)
    prompts = output.with_suffix(".csv").name
    lines = [*_head(len(cases), layout), *_lines(name, relative, prompts, layout, measured, classes)]
    text = "\n".join(lines) + "\n"
    # Invalid content raises an error here, before anything is written.
    spec = parse_spec(yaml.safe_load(text.replace(FILL_IN, "class")), output)
    texts = _prompts(classes, spec.modality)
    return Draft(path=output, yaml=text, prompts=texts, spec=spec, cases=len(cases))


def data_root(folder: Path) -> tuple[Path, str]:
    """The data root (the parent of a data set's folder), and the folder relative to it."""
    folder = folder if folder.name not in ("", "..") else folder.resolve()
    return folder.parent, folder.name


def _spec_for_listing(name: str, folder: str, layout: DetectedLayout) -> DatasetSpec:
    """A spec without settings, sufficient to list the cases."""
    classes = tuple(ClassSpec.model_construct(name=n, codes=codes) for n, codes in layout.labels.items())
    files = len(layout.layout.image) if isinstance(layout.layout, Patterns) else 1
    return DatasetSpec.model_construct(
        name=name,
        title=name,
        channels=layout.channels or tuple(map(str, range(files))),
        folder=folder,
        layout=layout.layout,
        classes=classes,
        overlapping=layout.overlapping,
        code_names={} if layout.overlapping else {code: (c.name,) for c in classes for code in c.codes},
    )


# --- suggested values with their reasons ---


def _classes(layout: DetectedLayout, measured: Measurements, folder: Path) -> Classes:
    """The classes that dataset.json names; else one per code, with a placeholder as name."""
    if not measured.volumes:
        raise BipvlError("holds label maps of background only", "label the cases first", folder)
    if not layout.labels:
        codes = sorted(measured.volumes)
        return [ClassSpec.model_construct(name=f"{FILL_IN} {code}", codes=(code,)) for code in codes]
    if unnamed := sorted({*measured.volumes}.difference(*layout.labels.values())):
        problem = f"has no label with the codes {unnamed}, which the label maps hold"
        raise BipvlError(problem, "add them, or correct the label maps", folder / "dataset.json")
    return [ClassSpec.model_construct(name=name, codes=codes) for name, codes in layout.labels.items()]


def _modality(layout: DetectedLayout, measured: Measurements) -> tuple[str, str]:
    channels, dark = " ".join(layout.channels).casefold(), float(np.median(measured.lowest))
    for modality, words in CHANNEL_NAMES.items():
        if re.search(rf"\b({words})\b", channels):
            return modality, "CT or MR. From the names of the channels."
    modality = "CT" if dark <= AIR else "MR"
    return modality, f"CT or MR. Guessed from the lowest values, about {dark:g}: air is -1000 in CT."


def _channels(layout: DetectedLayout, measured: Measurements, modality: str) -> Sequence[str]:
    (count, _), *others = measured.channels.most_common()
    if others:
        problem = f"some images have {count} channels, others {others[0][0]}"
        raise BipvlError(problem, "give all images the same channels")
    return layout.channels or ([modality] if count == 1 else [f"channel {i}" for i in range(1, count + 1)])


def _crop(measured: Measurements, spacing: Sequence[float]) -> tuple[list[int], str]:
    voxels = np.median(measured.extents, axis=0) / spacing
    sides = [int(np.clip(CROP_STEP * round(v / CROP_STEP), CROP_STEP, LARGEST_CROP)) for v in voxels]
    return sides, (
        f"Voxels of a training crop; the median scan has {_times(voxels.round())} at this spacing. Each side "
        f"is {CROP_STEP}, 64 or {LARGEST_CROP}, since networks halve it repeatedly; less takes less memory. "
        "This crop and spacing apply to every profile."
    )


def _intensity(modality: str, measured: Measurements) -> tuple[dict[str, Any], str]:
    if modality == "MR":
        why = "MR has no unit: scale each channel to mean 0 and standard deviation 1 where it is not 0."
        return {"zscore": "nonzero"}, why
    values = np.concatenate(measured.foreground)
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, [0.5, 99.5]) if len(values) else (-1000, 1000)
    window = [5 * int(np.floor(low / 5)), 5 * int(np.floor(high / 5)) + 5]
    return {"window": window}, f"HU. 99 % of the labelled voxels are between {low:.0f} and {high:.0f}."


def _split(layout: DetectedLayout) -> tuple[dict[str, Any], str]:
    if layout.sections:
        why = "The test cases are the validation section of dataset.json."
        return {"test": "validation", "val": 0.1}, why
    why = "Fractions; or {train: [ids], val: [ids], test: [ids]}, or the path of a .json or .csv with these."
    return {"test": 0.2, "val": 0.1, "seed": 42}, why


# --- content of the files ---


def _head(cases: int, layout: DetectedLayout) -> Iterator[str]:
    text = f"Initial file from `bipvl init-dataset`; check every value. {cases} cases: {layout.why}."
    yield from _comment(text)
    if unused := layout.unused:
        text = f"Unused, since they belong to no case: {len(unused)} scans, such as {unused[0]}."
        yield from _comment(text)


def _lines(
    name: str, folder: str, prompts: str, layout: DetectedLayout, measured: Measurements, classes: Classes
) -> Iterator[str]:
    modality, why = _modality(layout, measured)
    spacing = [float(f"{mm:.3g}") for mm in np.median(measured.spacings, axis=0)]
    ends = " to ".join(_times(end(measured.spacings, axis=0)) for end in (np.min, np.max))
    yield from _line("name", name)
    yield from _line("title", name, "For tables and figures.")
    yield from _line("modality", modality, why)
    yield from _line("channels", [*_channels(layout, measured, modality)], "In the order of the files.")
    yield from _line("folder", folder, "Below the data root.")
    yield from _line("layout", _layout(layout.layout))
    yield from _comment(f"Row c of {prompts} describes class c. A class may have several codes.")
    yield "classes:"
    for c in classes:
        yield f"  - {_flow({'name': c.name, 'codes': [*c.codes]})}{_statistics(c, measured)}"
    why = "True if a class may contain another, as a tumour contains its core."
    yield from _line("overlapping", layout.overlapping, why)
    why = f"mm to the right, front and head. The median; cases range from {ends}."
    yield from _line("spacing", spacing, why)
    yield from _line("crop", *_crop(measured, spacing))
    yield from _line("intensity", *_intensity(modality, measured))
    why = "As for the benchmarks. Add flip_axes: [0] if left and right look alike."
    yield from _line("augmentation", AUGMENTATION[modality], why)
    yield from _line("split", *_split(layout))
    yield from _line("prompts", prompts)
    why = "Tolerance of surface distances in mm. Here the longest side of a voxel."
    yield from _line("nsd_tolerance", max(spacing), why)
    yield from _comment("If patients have several cases: a regular expression for the patient in a case id.")
    yield r"# patient: '(P\d+)_'"


def _line(key: str, value: Any, why: str = "") -> Iterator[str]:
    yield from _comment(why)
    yield f"{key}: {_flow(value)}"


def _comment(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# ", break_long_words=False)


def _statistics(c: ClassSpec, measured: Measurements) -> str:
    """A comment on the frequency and size of a class with one code."""
    if len(c.codes) > 1:
        return ""
    volumes = measured.volumes.get(c.codes[0], [])
    if not volumes:
        return "  # in no case: remove it"
    count = f"{len(volumes)} of {len(measured.spacings)} cases"
    return f"  # in {count}, median volume {np.median(volumes):.3g} ml"


def _layout(layout: str | Patterns) -> Any:
    if isinstance(layout, str):
        return layout
    return {"image": layout.image[0] if len(layout.image) == 1 else [*layout.image], "label": layout.label}


def _flow(value: Any) -> str:
    """A value in YAML's flow style, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()


def _times(sizes: Sequence[float]) -> str:
    return " x ".join(f"{size:.3g}" for size in sizes)


def _prompts(classes: Classes, modality: str) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    image = f"in {'an' if modality == 'MR' else 'a'} {modality} image"
    for c in classes:
        title = f"{c.name[:1].upper()}{c.name[1:]} {image}"
        writer.writerow([title, *(f"{FILL_IN}: {HINTS[concept]}" for concept in CONCEPTS)])
    return file.getvalue()
