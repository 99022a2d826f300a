"""Bad inputs of prepare, train, evaluate, verify and segment, on the command line: each told in one sentence.

Each spoils a copy of a cohort, its split and two trained runs. The sentence names the file; nothing else on
disk changes.
"""

import gzip
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from bipvl.__main__ import app
from bipvl.data.layouts import list_cases
from bipvl.data.spec import load_spec

SPEC = load_spec("mmwhs_ct")


@dataclass(frozen=True)
class Copy:
    """A copy of the smoke runs with their data, free to be spoilt."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def home(self) -> Path:
        return self.runs / "smoke" / SPEC.name

    @property
    def run(self) -> Path:
        """Of a network without language, which loads faster."""
        return self.home / "swin_unetr_v2" / "seed0"

    @property
    def reader(self) -> Path:
        """Of a network that reads prompts."""
        return self.home / "bipvlseg" / "seed0"

    @property
    def scan(self) -> Path:
        return self.root / "scan.nii.gz"

    @property
    def prompts(self) -> Path:
        return self.root / "prompts.csv"

    def file(self, kind: str, part: str) -> Path:
        """The first image or label of the split's part."""
        first = json.loads((self.home / "split.json").read_text())[part][0]
        return next(getattr(case, kind) for case in list_cases(SPEC, self.data) if case.id == first)


@pytest.fixture
def copy(smoke_runs, tmp_path) -> Copy:
    place = Copy(tmp_path)
    source = smoke_runs.runs / "smoke" / smoke_runs.dataset
    shutil.copytree(source, place.home, ignore=shutil.ignore_patterns("cache"))
    shutil.copytree(smoke_runs.data_root, place.data)
    shutil.copy(list_cases(SPEC, place.data)[0].image, place.scan)
    shutil.copy(SPEC.prompts, place.prompts)
    return place


# --- ways to spoil ---


def gone(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def written(text: str | bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(text if isinstance(text, bytes) else text.encode())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def a_file(path: Path) -> None:
    """In the way of a folder; a folder without permission would not stop root."""
    gone(path) if path.exists() else None
    path.write_text("")


def a_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def edited(change: Callable[[Any], Any]) -> Callable[[Path], Any]:
    """A JSON file whose content is changed in place, or replaced by what ``change`` returns."""

    def edit(path: Path) -> None:
        content = json.loads(path.read_text())
        path.write_text(json.dumps(change(content) or content))

    return edit


def set_to(**fields: Any) -> Callable[[Path], Any]:
    return edited(lambda content: content.update(fields))


def without(*keys: str) -> Callable[[Path], Any]:
    return edited(lambda content: [content.pop(key) for key in keys] and None)


def holding(array: np.ndarray) -> Callable[[Path], Any]:
    return lambda path: nib.save(nib.Nifti1Image(array, np.eye(4)), path)


def header_bytes(offset: int, value: bytes) -> Callable[[Path], Any]:
    """A compressed scan with other bytes in its header."""

    def edit(path: Path) -> None:
        raw = bytearray(gzip.decompress(path.read_bytes()))
        raw[offset : offset + len(value)] = value
        path.write_bytes(gzip.compress(bytes(raw)))

    return edit


def checksum_changed(path: Path) -> None:
    """As if a byte of the voxels were another."""
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 1
    path.write_bytes(raw)


def flattened(path: Path) -> None:
    """A scan whose affine has lost an axis."""
    scan = nib.load(path)
    scan.header.set_sform(np.diag((1, 1, 0, 1)), 1)
    nib.save(nib.Nifti1Image(np.asanyarray(scan.dataobj), None, scan.header), path)


def lines(change: Callable[[list[str]], Iterable[str]]) -> Callable[[Path], Any]:
    return lambda path: path.write_text("\n".join(change(path.read_text().splitlines())))


# --- the catalogue ---

DATA = "--data-root {data}"
COMMANDS = {
    "prepare": f"prepare mmwhs_ct --profile smoke --runs {{runs}} {DATA}",
    "train": f"train mmwhs_ct swin_unetr_v2 --profile smoke --seed 1 --runs {{runs}} {DATA}",
    "go on": f"train mmwhs_ct swin_unetr_v2 --profile smoke --runs {{runs}} {DATA}",
    "evaluate": f"evaluate {{run}} {DATA}",
    "verify": f"verify {{run}} {DATA}",
    "segment": "segment {scan} --run {run} -o {root}/out/labels.nii.gz",
    "read": "segment {scan} --run {reader} -o {root}/out/labels.nii.gz",
    "below": f"train mmwhs_ct swin_unetr_v2 --profile smoke --seed -1 --runs {{runs}} {DATA}",
    "unread": "segment {scan} --run {run} -o {root}/out/labels.nii.gz --prompts {prompts}",
    "prompted": "segment {scan} --run {reader} -o {root}/out/labels.nii.gz --prompts {prompts}",
}
SPLIT, KNOWN = "{home}/split.json", "{home}/data.json"
CONFIG, MANIFEST, MODEL = "{run}/config.json", "{run}/manifest.json", "{run}/model"
IMAGE = np.random.default_rng(0).uniform(0, 400, (20, 18, 16)).astype(np.float32)
TWICE = edited(lambda split: split["train"].append(split["test"][0]))
STRANGE = edited(lambda split: split["train"].append("ct_train_1999"))
FORGOTTEN = edited(lambda known: {"ct_train_1001": {"image": 3}})

CATALOGUE = [
    # Command, what is spoilt, how, what is told of it; where that holds a place, it is told of that place.
    ("prepare", "image train", holding(IMAGE), "faults, the first: {data}"),
    ("prepare", SPLIT, written("{}"), "is not a split"),
    (
        "prepare",
        SPLIT,
        edited(lambda split: split["train"].pop() and None),
        "is another split than the dataset",
    ),
    ("prepare", KNOWN, written("[]"), "must hold a JSON object"),
    ("prepare", KNOWN, edited(lambda known: known.popitem() and None), "{home} was prepared from other data"),
    ("prepare", "{root}/runs", a_file, "cannot be written (Not a directory)"),
    ("prepare", "{data}/cohort.json", written('{"cohort": "made up"}'), "does not say"),
    ("train", SPLIT, gone, "is missing; run `bipvl prepare mmwhs_ct`"),
    ("train", SPLIT, written(""), "cannot be read as JSON"),
    ("train", SPLIT, written(bytes(range(256))), "cannot be read as JSON"),
    ("train", SPLIT, written("[]"), "must hold a JSON object"),
    ("train", SPLIT, without("test"), "is not a split"),
    ("train", SPLIT, set_to(val=[]), "is not a split"),
    ("train", SPLIT, set_to(train=[1, 2]), "is not a split"),
    ("train", SPLIT, TWICE, "more than once"),
    ("train", SPLIT, STRANGE, "names ct_train_1999, which the dataset has not"),
    ("train", KNOWN, gone, "is missing; prepare the dataset first"),
    ("train", KNOWN, cut, "cannot be read as JSON"),
    ("train", KNOWN, FORGOTTEN, "does not hold what files hold"),
    ("train", KNOWN, edited(lambda known: known.clear()), "does not know the case"),
    ("train", "image train", holding(IMAGE), "has changed since its dataset was prepared"),
    ("train", "label val", cut, "has changed since its dataset was prepared"),
    ("train", "image test", gone, "is missing; copy it there"),
    ("train", "{data}/mmwhs", gone, "is not a folder; MM-WHS (cardiac CT) is expected there"),
    ("train", "{data}", a_file, "is not a folder"),
    ("train", "{data}/cohort.json", cut, "cannot be read as JSON"),
    ("train", "{home}/swin_unetr_v2", a_file, "cannot be written"),
    ("go on", CONFIG, cut, "cannot be read as JSON"),
    ("go on", CONFIG, without("crop"), "lacks crop"),
    (
        "go on",
        CONFIG,
        edited(lambda config: config["training"].pop("lr") and None),
        "{run} holds a run with other settings (training)",
    ),
    ("evaluate", "{run}", a_file, "holds no run"),
    ("evaluate", CONFIG, gone, "{run} holds no run"),
    ("evaluate", CONFIG, written(""), "cannot be read as JSON"),
    ("evaluate", CONFIG, written("3"), "must hold a JSON object"),
    (
        "evaluate",
        CONFIG,
        without("overlap", "language"),
        "lacks language, overlap, or holds there what cannot",
    ),
    ("evaluate", CONFIG, set_to(crop=[16, 16]), "lacks crop, or holds there what cannot be"),
    ("evaluate", CONFIG, set_to(spacing=[1, 1, 0]), "lacks spacing, or holds there what cannot be"),
    ("evaluate", CONFIG, set_to(variant="swin_unetr_v3"), "there is no variant 'swin_unetr_v3'"),
    ("evaluate", CONFIG, set_to(dataset="mmwhs"), "There is no dataset 'mmwhs'"),
    ("evaluate", SPLIT, gone, "is missing; prepare the dataset first"),
    ("evaluate", SPLIT, cut, "cannot be read as JSON"),
    ("evaluate", "label test", cut, "has changed since its dataset was prepared"),
    ("evaluate", "{data}", gone, "is not a folder"),
    ("evaluate", MANIFEST, cut, "cannot be read as JSON"),
    ("evaluate", MODEL, gone, "{run} holds no trained network"),
    ("evaluate", "{run}/state", a_folder, "{run} is not trained to its end"),
    (
        "evaluate",
        f"{MODEL}/model.safetensors",
        cut,
        "{run}/model holds no network of SwinUNETR-V2 that can be loaded",
    ),
    ("evaluate", "{run}/predictions", a_file, "{run} cannot be written"),
    ("verify", MANIFEST, gone, "is missing; train the run first"),
    ("verify", MANIFEST, written("{"), "cannot be read as JSON"),
    ("verify", MANIFEST, without("phases"), "is not whole or of an older layout"),
    ("verify", MANIFEST, set_to(phases={"tune": {"outputs": {}}}), "is not whole or of an older layout"),
    ("verify", MANIFEST, set_to(phases={"train": {"outputs": {}}}), "is not whole or of an older layout"),
    ("verify", MANIFEST, set_to(phases=["train"]), "is not whole or of an older layout"),
    ("verify", KNOWN, gone, "is missing; prepare the dataset first"),
    ("verify", SPLIT, written("null"), "must hold a JSON object"),
    ("verify", "{run}/history.csv", cut, "{run} does not agree with its manifest in 1 points"),
    ("segment", "{scan}", gone, "{scan} is"),
    ("segment", "{scan}", written(""), "cannot be read as NIfTI"),
    ("segment", "{scan}", written("no scan"), "cannot be read as NIfTI"),
    ("segment", "{scan}", cut, "cannot be read as NIfTI"),
    ("segment", "{scan}", header_bytes(344, b"none"), "cannot be read as NIfTI"),
    ("segment", "{scan}", checksum_changed, "cannot be read as NIfTI"),
    ("segment", "{scan}", header_bytes(42, b"\xff\x7f"), "cannot be read as NIfTI"),
    ("segment", "{scan}", holding(IMAGE[0]), "has 2 spatial axes, but a scan has three"),
    ("segment", "{scan}", holding(np.stack([IMAGE] * 2, -1)), "has 2 channels"),
    ("segment", "{scan}", holding(IMAGE[..., None, None].repeat(2, 4)), "has "),
    ("segment", "{scan}", holding(IMAGE[:0]), "{scan}"),
    ("segment", "{scan}", holding(IMAGE.astype(np.complex64)), "holds values of the kind complex64"),
    ("segment", "{scan}", holding(np.where(IMAGE < 9, np.nan, IMAGE)), "holds voxels that are not finite"),
    ("segment", "{scan}", holding(np.full_like(IMAGE, -1000)), "is empty after intensity scaling"),
    ("segment", "{scan}", flattened, "has an affine that cannot be inverted"),
    ("segment", "{root}/out", a_file, "cannot be written"),
    ("segment", "{root}/out/labels.nii.gz", lambda path: path.mkdir(parents=True), "cannot be written"),
    ("segment", CONFIG, cut, "cannot be read as JSON"),
    ("segment", MODEL, a_file, "{run} holds no trained network"),
    (
        "segment",
        f"{MODEL}/model.safetensors",
        gone,
        "{run}/model holds no network of SwinUNETR-V2 that can be loaded",
    ),
    (
        "segment",
        f"{MODEL}/model.safetensors",
        written(""),
        "{run}/model holds no network of SwinUNETR-V2 that can be loaded",
    ),
    (
        "segment",
        f"{MODEL}/config.json",
        gone,
        "{run}/model holds no network of SwinUNETR-V2 that can be loaded",
    ),
    (
        "segment",
        f"{MODEL}/config.json",
        cut,
        "{run}/model holds no network of SwinUNETR-V2 that can be loaded",
    ),
    (
        "segment",
        f"{MODEL}/config.json",
        without("name"),
        "{run}/model holds no network of SwinUNETR-V2 that can be loaded",
    ),
    (
        "segment",
        f"{MODEL}/config.json",
        set_to(feature_size=24),
        "{run}/model holds no network of SwinUNETR-V2 that can be",
    ),
    (
        "segment",
        f"{MODEL}/config.json",
        set_to(name="unet4"),
        "{run}/model holds no network of SwinUNETR-V2 that can be loaded (there is no network 'unet4'",
    ),
    (
        "read",
        "{reader}/model/tokenizer.json",
        gone,
        "{reader}/model holds no network of BiPVL-Seg that can be loaded",
    ),
    (
        "read",
        "{reader}/model/tokenizer.json",
        cut,
        "{reader}/model holds no network of BiPVL-Seg that can be loaded",
    ),
    (
        "read",
        "{reader}/model/model.safetensors",
        cut,
        "{reader}/model holds no network of BiPVL-Seg that can be loaded",
    ),
    ("prompted", "{prompts}", gone, "cannot be read as CSV"),
    ("prompted", "{prompts}", lines(lambda rows: rows[:-1]), "rows; MM-WHS (cardiac CT) has 7 classes"),
    ("prompted", "{prompts}", lines(lambda rows: [rows[0], *rows[:0:-1]]), "is out of order"),
    ("prompted", "{prompts}", lines(lambda rows: rows[1:]), "lacks the columns"),
    ("prompted", "{prompts}", written("Köpfe".encode("latin-1")), "is not UTF-8 text"),
    (
        "prompted",
        "{prompts}",
        lines(lambda rows: [*rows[:-1], rows[-1].split(",")[0] + ",,,,,"]),
        "no text under",
    ),
]


def places(copy: Copy) -> dict[str, Path]:
    names = ("root", "data", "runs", "home", "run", "reader", "scan", "prompts")
    return {name: getattr(copy, name) for name in names}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def told_by(copy: Copy, command: str) -> str:
    """The one sentence that a command ends with."""
    before = contents(copy.root)
    words = COMMANDS[command].format(**places(copy)).split()
    result = CliRunner().invoke(app, words, prog_name="bipvl")
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert contents(copy.root) == before, "something was written"
    *_, sentence = result.stderr.splitlines()
    assert sentence.startswith("bipvl: ")
    return sentence


@pytest.mark.parametrize(
    ("command", "place", "spoil", "told"),
    CATALOGUE,
    ids=[f"{number}-{command}" for number, (command, *_) in enumerate(CATALOGUE)],
)
def test_a_corruption_is_told_in_a_sentence(copy, command, place, spoil, told):
    kind, _, part = place.partition(" ")
    path = copy.file(kind, part) if part else Path(place.format(**places(copy)))
    spoil(path)
    sentence = told_by(copy, command)
    assert told.format(**places(copy)) in sentence
    assert "{" in told or str(path) in sentence


@pytest.mark.parametrize(
    ("command", "told"), [("below", "the seed -1 is below 0"), ("unread", "reads no prompts")]
)
def test_what_cannot_be_asked_is_told_in_a_sentence(copy, command, told):
    assert told in told_by(copy, command)
