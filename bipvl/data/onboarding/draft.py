"""Drafts of a dataset's YAML and prompt CSV from what lies in its folder, with the reasons as comments."""

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
from bipvl.data.onboarding.detect_layout import Recognised, recognise
from bipvl.data.onboarding.measure import Measured, measure
from bipvl.data.prompts import COLUMNS, CONCEPTS
from bipvl.data.spec import CROP_STEP, FILL_IN, ClassSpec, DatasetSpec, Patterns, parse_spec

LARGEST_CROP = 96
"""Voxels a side, the paper's."""
AIR = -200
"""HU: a CT holds air, -1000, and what is darker than this; no MR does."""
NAMES = {"CT": "ct|cta", "MR": r"mri?|mra|t1\w*|t2\w*|flair|adc|dwi"}
"""What channels of a modality are called."""
AUGMENTATION = {
    "CT": {"intensity_shift": 0.1, "rotation_degrees": 6, "zoom": 0.1},
    "MR": {"intensity_scale": 0.1, "intensity_shift": 0.1},
}
"""As the benchmarks have them."""
HINTS = {
    "Shape": "its form in 3D, such as crescent, wedge, tube",
    "Location": "where it lies, and between which neighbours",
    "Appearance/Density": "how bright it is, and against what",
    "Contour/Symmetry": "how sharp its border is, whether it has a twin",
    "Internal Texture": "even, mottled, layered or branching",
}
"""What to write under each concept."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """The texts of both files, and the spec that the YAML declares once its names are filled in."""

    path: Path
    yaml: str
    prompts: str
    spec: DatasetSpec
    cases: int

    @property
    def prompts_path(self) -> Path:
        """Beside the YAML file."""
        return self.path.with_suffix(".csv")

    @property
    def found(self) -> str:
        """What was found, in a line."""
        channels, codes = ", ".join(self.spec.channels), ", ".join(map(str, self.spec.known_codes))
        return f"{self.cases} cases; {self.spec.modality}, channels: {channels}; label codes: {codes}"

    @property
    def to_fill(self) -> list[str]:
        """What their owner must write, a line each."""
        names, cells = self.yaml.count(FILL_IN), self.spec.num_classes * len(CONCEPTS)
        unnamed = f"{self.path}: the names of {names} classes, also in the titles of {self.prompts_path.name}"
        texts = f"{self.prompts_path}: {cells} texts, what can be seen of each class"
        return [unnamed, texts] if names else [texts]


def draft_dataset(
    folder: str | Path, output: str | Path | None = None, *, name: str | None = None, progress: bool = True
) -> Draft:
    """Write a dataset's drafts: a YAML file and, beside it, the prompt CSV of the same name.

    Args:
        output: the YAML file; by default the dataset's name, in the current folder.
        name: of the dataset; by default its folder's.

    Raises:
        BipvlError: one of the two files is there already; the folder holds no scans, or what cannot be a
            dataset: images without label maps, codes that are not whole, grids that differ.
    """
    folder = Path(folder)
    name = name or re.sub(r"\W+", "_", data_root(folder)[1].casefold()).strip("_") or "dataset"
    output = Path(output or f"{name}.yaml")
    if output.suffix not in (".yaml", ".yml"):
        raise BipvlError(f"{output} cannot be the draft; give a name that ends in .yaml")
    for path in (output, output.with_suffix(".csv")):
        if path.exists():
            raise BipvlError(f"{path} is there already and is not overwritten; give another --output")
    drafted = draft(folder, output, name, progress=progress)
    write_text(drafted.prompts_path, drafted.prompts)
    write_text(output, drafted.yaml)
    return drafted


def draft(folder: Path, output: Path, name: str, *, progress: bool = True) -> Draft:
    """As `draft_dataset`, but nothing is written."""
    root, own = data_root(folder)
    seen = recognise(folder)
    cases = list_cases(_outline(name, own, seen), root)
    measured = measure(cases, progress=progress)
    classes = _classes(seen, measured, folder)
    text = "\n".join([*_head(len(cases), seen), *_lines(name, own, output, seen, measured, classes)]) + "\n"
    # What is wrong in itself ends here, before anything is written.
    spec = parse_spec(yaml.safe_load(text.replace(FILL_IN, "class")), output)
    return Draft(
        path=output, yaml=text, prompts=_prompts(classes, spec.modality), spec=spec, cases=len(cases)
    )


def data_root(folder: Path) -> tuple[Path, str]:
    """The data root that a dataset's folder lies in, and the folder's name there."""
    folder = folder if folder.name not in ("", "..") else folder.resolve()
    return folder.parent, folder.name


def _outline(name: str, folder: str, seen: Recognised) -> DatasetSpec:
    """What suffices to list the cases."""
    classes = tuple(ClassSpec.model_construct(name=name, codes=codes) for name, codes in seen.labels.items())
    files = len(seen.layout.image) if isinstance(seen.layout, Patterns) else 1
    return DatasetSpec.model_construct(
        name=name,
        title=name,
        modality="MR",
        channels=seen.channels or tuple(map(str, range(files))),
        folder=folder,
        layout=seen.layout,
        classes=classes,
        spacing=(1, 1, 1),
        intensity={},
        split={},
        prompts=Path(),
        nsd_tolerance=1,
        overlapping=seen.overlapping,
        code_names={} if seen.overlapping else {code: (c.name,) for c in classes for code in c.codes},
    )


# --- what to suggest, and why ---


def _classes(seen: Recognised, measured: Measured, folder: Path) -> list[ClassSpec]:
    """Those that dataset.json names; else one a code, its name to be filled in."""
    if not measured.volumes:
        raise BipvlError(f"{folder} holds label maps of background only; label the cases first.")
    if not seen.labels:
        codes = sorted(measured.volumes)
        return [ClassSpec.model_construct(name=f"{FILL_IN} {code}", codes=(code,)) for code in codes]
    if unnamed := sorted({*measured.volumes}.difference(*seen.labels.values())):
        raise BipvlError(
            f"{folder / 'dataset.json'} has no label of the codes {unnamed}, which label maps hold; add them "
            "there, or mend the label maps."
        )
    return [ClassSpec.model_construct(name=name, codes=codes) for name, codes in seen.labels.items()]


def _modality(seen: Recognised, measured: Measured) -> tuple[str, str]:
    channels, dark = " ".join(seen.channels).casefold(), float(np.median(measured.lowest))
    for modality, words in NAMES.items():
        if re.search(rf"\b({words})\b", channels):
            return modality, "CT or MR. By the names of the channels."
    if dark <= AIR:
        return "CT", f"CT or MR. A guess: images go down to {dark:g}, and air is -1000 in a CT."
    return "MR", f"CT or MR. A guess: images go down to {dark:g} only, and air is -1000 in a CT."


def _channels(seen: Recognised, measured: Measured, modality: str) -> Sequence[str]:
    (count, _), *others = measured.channels.most_common()
    if others:
        raise BipvlError(f"Some images have {count} channels, others {others[0][0]}; give all the same.")
    return seen.channels or ([modality] if count == 1 else [f"channel {i}" for i in range(1, count + 1)])


def _crop(measured: Measured, spacing: Sequence[float]) -> tuple[list[int], str]:
    voxels = np.median(measured.extents, axis=0) / spacing
    sides = [int(np.clip(CROP_STEP * round(v / CROP_STEP), CROP_STEP, LARGEST_CROP)) for v in voxels]
    return sides, (
        f"Voxels of a training crop. The median scan has {_times(voxels.round())} at this spacing; networks "
        f"halve a crop, so {CROP_STEP}, 64 or {LARGEST_CROP} a side, and less takes less memory. With it, "
        "this crop and spacing hold at every profile."
    )


def _intensity(modality: str, measured: Measured) -> tuple[dict[str, Any], str]:
    if modality == "MR":
        return {
            "zscore": "nonzero"
        }, "MR has no unit: each channel to mean 0 and deviation 1 where it is not 0."
    values = np.concatenate(measured.foreground)
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, [0.5, 99.5]) if len(values) else (-1000, 1000)
    window = [5 * int(np.floor(low / 5)), 5 * int(np.floor(high / 5)) + 5]
    return {"window": window}, f"HU. 99 % of the labelled voxels lie between {low:.0f} and {high:.0f}."


def _split(seen: Recognised) -> tuple[dict[str, Any], str]:
    if seen.sections:
        return {"test": "validation", "val": 0.1}, "Tested on dataset.json's own validation section."
    return {"test": 0.2, "val": 0.1, "seed": 42}, (
        "Shares; or {train: [ids], val: [ids], test: [ids]}, or the path of a .json or .csv with these."
    )


# --- the texts ---


def _head(cases: int, seen: Recognised) -> Iterator[str]:
    yield from _comment(
        f"A draft of `bipvl init-dataset`, to be read and corrected. {cases} cases: {seen.why}."
    )
    if seen.left:
        yield from _comment(
            f"Left out, as they belong to no case: {len(seen.left)} scans, such as {seen.left[0]}."
        )


def _lines(
    name: str, folder: str, output: Path, seen: Recognised, measured: Measured, classes: Sequence[ClassSpec]
) -> Iterator[str]:
    modality, why = _modality(seen, measured)
    spacing = [float(f"{mm:.3g}") for mm in np.median(measured.spacings, axis=0)]
    ends = " to ".join(_times(end(measured.spacings, axis=0)) for end in (np.min, np.max))
    prompts = output.with_suffix(".csv").name
    yield from _line("name", name)
    yield from _line("title", name, "For tables and figures.")
    yield from _line("modality", modality, why)
    yield from _line("channels", [*_channels(seen, measured, modality)], "In the order of the files.")
    yield from _line("folder", folder, "Below the data root.")
    yield from _line("layout", _layout(seen.layout))
    yield from _comment(f"Row c of {prompts} is of class c. A class may have several codes.")
    yield "classes:"
    yield from (f"  - {_flow({'name': c.name, 'codes': [*c.codes]})}{_seen(c, measured)}" for c in classes)
    yield from _line(
        "overlapping", seen.overlapping, "True where a class lies in another, as a core in its tumour."
    )
    yield from _line("spacing", spacing, f"mm to the right, front and head. The median; cases have {ends}.")
    yield from _line("crop", *_crop(measured, spacing))
    yield from _line("intensity", *_intensity(modality, measured))
    yield from _line(
        "augmentation", AUGMENTATION[modality], "As the benchmarks. flip_axes: [0] where sides look alike."
    )
    yield from _line("split", *_split(seen))
    yield from _line("prompts", prompts)
    yield from _line(
        "nsd_tolerance", max(spacing), "mm that a surface may be off. Here the longest side of a voxel."
    )
    yield from _comment("Where a patient has several cases, what tells whose at the beginning of an id:")
    yield r"# patient: '(P\d+)_'"


def _line(key: str, value: Any, why: str = "") -> Iterator[str]:
    yield from _comment(why)
    yield f"{key}: {_flow(value)}"


def _comment(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# ", break_long_words=False)


def _seen(c: ClassSpec, measured: Measured) -> str:
    """A comment on how often and how large a class of one code is."""
    if len(c.codes) > 1:
        return ""
    volumes = measured.volumes.get(c.codes[0], [])
    if not volumes:
        return "  # in no case: take it out"
    return (
        f"  # in {len(volumes)} of {len(measured.spacings)} cases, {np.median(volumes):.3g} ml in the median"
    )


def _layout(layout: str | Patterns) -> Any:
    if isinstance(layout, str):
        return layout
    return {"image": layout.image[0] if len(layout.image) == 1 else [*layout.image], "label": layout.label}


def _flow(value: Any) -> str:
    """A value in YAML's short form, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()


def _times(sizes: Sequence[float]) -> str:
    return " x ".join(f"{size:.3g}" for size in sizes)


def _prompts(classes: Sequence[ClassSpec], modality: str) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    image = f"in {'an' if modality == 'MR' else 'a'} {modality} image"
    for c in classes:
        title = f"{c.name[:1].upper()}{c.name[1:]} {image}"
        writer.writerow([title, *(f"{FILL_IN}: {HINTS[concept]}" for concept in CONCEPTS)])
    return file.getvalue()
