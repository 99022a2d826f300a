"""Other people's tools join by their predictions: a folder of label maps, evaluated as a run is."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bipvl.common.errors import BipvlError
from bipvl.common.files import write_csv, write_json
from bipvl.common.lookup import choose
from bipvl.data.label_names import LABELS_FORM, native_codes
from bipvl.data.layouts import Case, cohort_of, read_json
from bipvl.data.spec import DatasetSpec, load_spec
from bipvl.data.splits import split_cases
from bipvl.engine.run import Run, dataset_settings
from bipvl.engine.variants import VARIANTS

if TYPE_CHECKING:  # the studies are read from here, which must not cost the import of torch
    import pandas as pd

FORM = "{title: nnU-Net, dataset: amos22, folder: predictions/nnunet_amos22}"


@dataclass(frozen=True, kw_only=True)
class External:
    """A tool's predictions on the test cases of one dataset.

    Attributes:
        name: of its folder below ``runs/PROFILE/DATASET``.
        title: what tables and figures call it.
        dataset: a dataset's name or YAML file.
        folder: holds a label map for each test case, ``CASE.nii.gz`` or ``CASE.nii``, on the scan's grid.
        labels: class name → code in these label maps; None where the folder's ``dataset.json`` tells.

    Raises:
        BipvlError: a name with other than letters, digits, _ and -, or a name or title that is taken.
    """

    name: str
    title: str
    dataset: str
    folder: Path
    labels: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        from bipvl.engine.variants import MEAN_ATLAS, variant_title

        taken = {*VARIANTS, MEAN_ATLAS}
        if not (isinstance(self.name, str) and re.fullmatch(r"[\w-]+", self.name)):
            raise BipvlError(f"an external may not be called '{self.name}'; use letters, digits, _ and -")
        if self.name in taken:
            raise BipvlError(f"external '{self.name}' has the name of a variant; give it another")
        if self.title in taken | {variant_title(name) for name in taken}:
            raise BipvlError(f"external '{self.name}' has a variant's title, '{self.title}'; give it another")


def read_externals(raw: Any, path: str | Path) -> tuple[External, ...]:
    """What the YAML file ``path`` has under ``external:``; the folders need not be there yet.

    Raises:
        BipvlError: an unknown, missing or wrong field; a name or title that is taken; an unknown dataset;
            labels that are not its classes.
    """
    try:
        if not isinstance(raw or {}, dict):
            raise BipvlError(f"'external' must map names to entries such as {FORM}")
        externals = tuple(_external(name, entry) for name, entry in (raw or {}).items())
        shown = Counter((external.dataset, external.title) for external in externals)
        for (dataset, title), count in shown.items():
            if count > 1:
                raise BipvlError(f"{count} externals on {dataset} are titled '{title}'; tell them apart")
    except BipvlError as error:
        raise BipvlError(f"{path}: {error}") from error
    return externals


def get_external(externals: Iterable[External], name: str, dataset: str) -> External:
    """The predictions of a name on a dataset; where there are none, a BipvlError."""
    here = {external.name: external for external in externals if external.dataset == dataset}
    if not here:
        raise BipvlError(f"no external is on {dataset}; add one under 'external' in experiments.yaml, {FORM}")
    return choose(f"external on {dataset}", name, here)


def _external(name: Any, raw: Any) -> External:
    fields = ("title", "dataset", "folder", "labels")
    if not isinstance(raw, dict):
        raise BipvlError(f"external '{name}' must be written like {FORM}")
    for key in raw:
        choose(f"field of external '{name}'", key, dict.fromkeys(fields))
    for key in fields[:3]:
        if not (isinstance(raw.get(key), str) and raw[key].strip()):
            raise BipvlError(f"external '{name}' must have a '{key}' that is a text, as in {FORM}")
    spec = load_spec(raw["dataset"])
    if raw.get("labels") is not None:
        native_codes(raw["labels"], spec, f"'labels' of external '{name}'")
    return External(name=name, **raw | {"folder": Path(raw["folder"])})


def evaluate_external(
    external: External,
    *,
    profile: str,
    data_root: str | Path,
    root: str | Path = Path("runs"),
    progress: bool = True,
) -> "pd.DataFrame":
    """Score a tool's label maps as a run's predictions are scored; writes metrics.csv and config.json.

    They lie in ``root/profile/dataset/name/seed0``. Every test case is checked before anything is written.
    On the working grid a label map is brought as the truth is: nearest voxel, cropped to the image's content.

    Raises:
        BipvlError: no split; no folder; a test case without a label map, with two, or a label map of no test
            case; one that cannot be read, lies on another grid or holds codes without a name; labels that
            are not the dataset's.
    """
    from bipvl.analysis.masks import score_masks
    from bipvl.engine.manifest import recorded

    spec = load_spec(external.dataset)
    run = _run(external, spec, profile, data_root, Path(root))
    _, _, cases = split_cases(run.split_path, spec, data_root)
    masks = _find_masks(external.folder, cases, run.split_path)
    codes = _codes(external, spec)
    with recorded(run, "evaluate", cases):
        title = f"{spec.name} · {external.title}"
        table = score_masks(cases, masks, codes, spec, run.config["spacing"], title=title, progress=progress)
        run.config["external"] = {
            "folder": str(external.folder),
            "labels": {str(c): spec.code_names[own][0] for c, own in sorted(codes.items()) if own},
            "sha256": _sha256(masks.values()),
        }
        # In this order, so that scores never lie beside the config of others.
        (run.directory / "metrics.csv").unlink(missing_ok=True)
        write_json(run.directory / "config.json", run.config)
        write_csv(run.directory / "metrics.csv", table)
    return table


def _run(external: External, spec: DatasetSpec, profile: str, data_root: str | Path, root: Path) -> Run:
    """The run that the label maps stand for."""
    config = {
        "dataset": str(external.dataset),
        "variant": external.name,
        "title": external.title,
        "profile": profile,
        "seed": 0,
        "cohort": cohort_of(data_root),
        "spacing": dataset_settings(profile, spec)["spacing"],
    }
    return Run(root / profile / spec.name / external.name / "seed0", config)


def _find_masks(folder: Path, cases: Sequence[Case], split: Path) -> dict[str, Path]:
    """Of each test case its label map; there may be no others in the folder."""
    if not folder.is_dir():
        raise BipvlError(f"{folder} is not a folder; put the label maps of the test cases there.")
    masks: dict[str, Path] = {}
    for path in sorted(folder.glob("[!.]*")):
        if path.is_file() and (match := re.fullmatch(r"(.+)\.nii(\.gz)?", path.name)):
            if match[1] in masks:
                raise BipvlError(f"{masks[match[1]]} and {path.name} are of one case; remove one of them.")
            masks[match[1]] = path
    ids = [case.id for case in cases]
    if missing := [i for i in ids if i not in masks]:
        raise BipvlError(
            f"{folder} lacks the label maps of {len(missing)} of the {len(ids)} test cases "
            f"({_first(missing)}); add them, named like {missing[0]}.nii.gz."
        )
    if extra := [path.name for i, path in masks.items() if i not in ids]:
        raise BipvlError(
            f"{folder} holds {_first(extra)}, of no test case in {split}; a folder may hold the label maps "
            "of the test cases alone, so move others elsewhere."
        )
    return masks


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _codes(external: External, spec: DatasetSpec) -> dict[int, int]:
    """Code in the label maps → the dataset's own, as the labels or dataset.json name it, or both alike."""
    path, given = external.folder / "dataset.json", f"'labels' of external '{external.name}'"
    found = []
    if external.labels is not None:
        found.append(native_codes(external.labels, spec, given))
    if path.is_file():
        found.append(native_codes(read_json(path).get("labels"), spec, str(path)))
    if not found:
        raise BipvlError(
            f"{path} is missing, and nothing else tells which code is which class; put it there with "
            f'{{"labels": {LABELS_FORM}}}, or give {given}.'
        )
    if found[0] != found[-1]:
        raise BipvlError(f"{path} and {given} name the codes differently; correct one, or leave it out.")
    return found[0]


def _sha256(paths: Iterable[Path]) -> str:
    """Over names and contents: what ``sha256sum *.nii.gz | sha256sum`` says in the folder."""
    lines = []
    for path in sorted(paths, key=lambda path: path.name):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()
