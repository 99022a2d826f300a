"""Bad input of prepare, train, evaluate, verify and segment is reported in one sentence on the command line.

Each test damages a copy of a cohort, its split and two trained runs. The sentence names the file; nothing is
written.
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
    """A copy of the smoke runs with their data, which a test may damage."""

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
        """The run of a network without language, which loads faster."""
        return self.home / "swin_unetr_v2" / "seed0"

    @property
    def reader(self) -> Path:
        """The run of a network that reads prompts."""
        return self.home / "bipvlseg" / "seed0"

    @property
    def scan(self) -> Path:
        return self.root / "scan.nii.gz"

    @property
    def prompts(self) -> Path:
        return self.root / "prompts.csv"

    def file(self, kind: str, part: str) -> Path:
        """The first image or label in a part of the split."""
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


# --- kinds of damage ---


def gone(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def written(text: str | bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(text if isinstance(text, bytes) else text.encode())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def a_file(path: Path) -> None:
    """A file in place of a folder; missing permissions would not stop root."""
    gone(path) if path.exists() else None
    path.write_text("")


def a_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def edited(change: Callable[[Any], Any]) -> Callable[[Path], Any]:
    """A JSON file that ``change`` modifies in place or replaces with what it returns."""

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
    """A compressed scan with different bytes in its header."""

    def edit(path: Path) -> None:
        raw = bytearray(gzip.decompress(path.read_bytes()))
        raw[offset : offset + len(value)] = value
        path.write_bytes(gzip.compress(bytes(raw)))

    return edit


def checksum_changed(path: Path) -> None:
    """A wrong checksum, as if a byte of the voxels had changed."""
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 1
    path.write_bytes(raw)


def flattened(path: Path) -> None:
    """A scan with a singular affine."""
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
    "resume": f"train mmwhs_ct swin_unetr_v2 --profile smoke --runs {{runs}} {DATA}",
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
REPEATED = edited(lambda split: split["train"].append(split["test"][0]))
UNKNOWN = edited(lambda split: split["train"].append("ct_train_1999"))
NONE = edited(lambda known: known.clear())
FEWER = edited(lambda known: known.popitem() and None)
INCOMPLETE = edited(lambda known: {"ct_train_1001": {"image": 3}})

OLD_MANIFEST = "{run}/manifest.json: is incomplete or of an older layout; delete {run}"
NO_NETWORK = "{run}/model: no network of SwinUNETR-V2 can be loaded from here"
NO_READER = "{reader}/model: no network of BiPVL-Seg can be loaded from here"

CATALOGUE = [
    # Command, what is damaged, how, and part of the sentence, which names the damaged file or the place here.
    ("prepare", "image train", holding(IMAGE), "issues, the first: {data}"),
    ("prepare", SPLIT, written("{}"), "is not a split"),
    (
        "prepare",
        SPLIT,
        edited(lambda split: split["train"].pop() and None),
        "is not the split that the data set gives now; restore",
    ),
    ("prepare", KNOWN, written("[]"), "instead of a JSON object"),
    (
        "prepare",
        KNOWN,
        FEWER,
        "{home}: was prepared from other data",
    ),
    ("prepare", "{root}/runs", a_file, "cannot be written (Not a directory)"),
    ("prepare", "{data}/cohort.json", written('{"cohort": "made up"}'), "does not say"),
    ("train", SPLIT, gone, "file not found; run `bipvl prepare mmwhs_ct`"),
    ("train", SPLIT, written(""), "not readable as JSON"),
    ("train", SPLIT, written(bytes(range(256))), "not readable as JSON"),
    ("train", SPLIT, written("[]"), "instead of a JSON object"),
    ("train", SPLIT, without("test"), "is not a split"),
    ("train", SPLIT, set_to(val=[]), "is not a split"),
    ("train", SPLIT, set_to(train=[1, 2]), "is not a split"),
    ("train", SPLIT, REPEATED, "more than once"),
    ("train", SPLIT, UNKNOWN, "names ct_train_1999, which the data set does not have"),
    ("train", KNOWN, gone, "file not found; prepare the data set first"),
    ("train", KNOWN, cut, "not readable as JSON"),
    ("train", KNOWN, INCOMPLETE, "holds no checksums of files; delete {home}"),
    (
        "train",
        KNOWN,
        NONE,
        "was not there when the data set was prepared; remove it",
    ),
    ("train", "image train", holding(IMAGE), "has changed since its data set was prepared; restore it"),
    ("train", "label val", cut, "has changed since its data set was prepared; restore it"),
    ("train", "image test", gone, "file not found; copy it there"),
    (
        "train",
        "{data}/mmwhs",
        gone,
        "is not a folder; check the data root, since MM-WHS",
    ),
    ("train", "{data}", a_file, "is not a folder"),
    ("train", "{data}/cohort.json", cut, "not readable as JSON"),
    ("train", "{home}/swin_unetr_v2", a_file, "cannot be written"),
    ("resume", CONFIG, cut, "not readable as JSON"),
    (
        "resume",
        CONFIG,
        without("crop"),
        "'crop' is missing, so the file is of an older layout",
    ),
    (
        "resume",
        CONFIG,
        edited(lambda config: config["training"].pop("lr") and None),
        "'training.lr' is missing, so the file is of an older layout",
    ),
    ("evaluate", "{run}", a_file, "holds no run (no config.json); give"),
    ("evaluate", CONFIG, gone, "{run}: holds no run"),
    ("evaluate", CONFIG, written(""), "not readable as JSON"),
    ("evaluate", CONFIG, written("3"), "instead of a JSON object"),
    (
        "evaluate",
        CONFIG,
        without("overlap", "language"),
        "'language' is missing, so the file",
    ),
    ("evaluate", CONFIG, set_to(crop=[16, 16]), "'crop' is [16, 16], so the file"),
    ("evaluate", CONFIG, set_to(spacing=[1, 1, 0]), "'spacing' is [1, 1, 0], so the file"),
    ("evaluate", CONFIG, set_to(variant="swin_unetr_v3"), "there is no variant 'swin_unetr_v3'"),
    ("evaluate", CONFIG, set_to(dataset="mmwhs"), "there is no data set 'mmwhs'"),
    ("evaluate", SPLIT, gone, "file not found; prepare the data set first"),
    ("evaluate", SPLIT, cut, "not readable as JSON"),
    ("evaluate", "label test", cut, "has changed since its data set was prepared; restore it"),
    ("evaluate", "{data}", gone, "is not a folder"),
    ("evaluate", MANIFEST, cut, "not readable as JSON"),
    ("evaluate", MODEL, gone, "{run}: no trained network"),
    ("evaluate", "{run}/state", a_folder, "{run}: its training is not complete; resume"),
    ("evaluate", f"{MODEL}/model.safetensors", cut, NO_NETWORK),
    ("evaluate", "{run}/predictions", a_file, "{run}: cannot be written"),
    ("verify", MANIFEST, gone, "file not found; train the run first"),
    ("verify", MANIFEST, written("{"), "not readable as JSON"),
    ("verify", MANIFEST, without("phases"), OLD_MANIFEST),
    (
        "verify",
        MANIFEST,
        set_to(phases={"tune": {"outputs": {}}}),
        OLD_MANIFEST,
    ),
    (
        "verify",
        MANIFEST,
        set_to(phases={"train": {"outputs": {}}}),
        OLD_MANIFEST,
    ),
    ("verify", MANIFEST, set_to(phases=["train"]), OLD_MANIFEST),
    ("verify", KNOWN, gone, "file not found; prepare the data set first"),
    ("verify", SPLIT, written("null"), "instead of a JSON object"),
    ("verify", "{run}/history.csv", cut, "{run}: differs from its manifest in 1 points"),
    ("segment", "{scan}", gone, "{scan}: file not found; give"),
    ("segment", "{scan}", written(""), "not readable as NIfTI"),
    ("segment", "{scan}", written("no scan"), "not readable as NIfTI"),
    ("segment", "{scan}", cut, "not readable as NIfTI"),
    ("segment", "{scan}", header_bytes(344, b"none"), "not readable as NIfTI"),
    ("segment", "{scan}", checksum_changed, "not readable as NIfTI"),
    ("segment", "{scan}", header_bytes(42, b"\xff\x7f"), "not readable as NIfTI"),
    ("segment", "{scan}", holding(IMAGE[0]), "has 2 spatial axes, but a scan has three"),
    ("segment", "{scan}", holding(np.stack([IMAGE] * 2, -1)), "has 2 channels"),
    ("segment", "{scan}", holding(IMAGE[..., None, None].repeat(2, 4)), "has "),
    ("segment", "{scan}", holding(IMAGE[:0]), "{scan}"),
    ("segment", "{scan}", holding(IMAGE.astype(np.complex64)), "holds values of type complex64"),
    ("segment", "{scan}", holding(np.where(IMAGE < 9, np.nan, IMAGE)), "holds voxels that are not finite"),
    ("segment", "{scan}", holding(np.full_like(IMAGE, -1000)), "is empty after intensity scaling"),
    ("segment", "{scan}", flattened, "has an affine that cannot be inverted"),
    ("segment", "{root}/out", a_file, "cannot be written"),
    ("segment", "{root}/out/labels.nii.gz", lambda path: path.mkdir(parents=True), "cannot be written"),
    ("segment", CONFIG, cut, "not readable as JSON"),
    ("segment", MODEL, a_file, "{run}: no trained network"),
    ("segment", f"{MODEL}/model.safetensors", gone, NO_NETWORK),
    ("segment", f"{MODEL}/model.safetensors", written(""), NO_NETWORK),
    ("segment", f"{MODEL}/config.json", gone, NO_NETWORK),
    ("segment", f"{MODEL}/config.json", cut, NO_NETWORK),
    ("segment", f"{MODEL}/config.json", without("name"), NO_NETWORK),
    ("segment", f"{MODEL}/config.json", set_to(feature_size=24), NO_NETWORK),
    ("segment", f"{MODEL}/config.json", set_to(name="unet4"), f"{NO_NETWORK} (there is no network 'unet4'"),
    ("read", "{reader}/model/tokenizer.json", gone, NO_READER),
    ("read", "{reader}/model/tokenizer.json", cut, NO_READER),
    ("read", "{reader}/model/model.safetensors", cut, NO_READER),
    ("prompted", "{prompts}", gone, "not readable as CSV"),
    (
        "prompted",
        "{prompts}",
        lines(lambda rows: rows[:-1]),
        "has 6 rows; give one row for each of the 7",
    ),
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


def sentence_of(copy: Copy, command: str) -> str:
    """The last line of a command that must fail and write nothing."""
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
    ("command", "place", "damage", "expected"),
    CATALOGUE,
    ids=[f"{number}-{command}" for number, (command, *_) in enumerate(CATALOGUE)],
)
def test_bad_input_is_reported_in_one_sentence(copy, command, place, damage, expected):
    kind, _, part = place.partition(" ")
    path = copy.file(kind, part) if part else Path(place.format(**places(copy)))
    damage(path)
    sentence = sentence_of(copy, command)
    assert expected.format(**places(copy)) in sentence
    assert "{" in expected or str(path) in sentence
    assert "; " in sentence, "it gives no fix"


@pytest.mark.parametrize(
    ("command", "expected"), [("below", "the seed -1 is below 0; give"), ("unread", "reads no prompts")]
)
def test_a_wrong_option_is_reported_in_one_sentence(copy, command, expected):
    assert expected in sentence_of(copy, command)
