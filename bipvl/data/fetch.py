"""Download public data: MSD as MONAI publishes it, OpenKBP as CSV files; for the others, instructions."""

import hashlib
import os
import shutil
import tarfile
import tempfile
import textwrap
import zipfile
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock
from tqdm.auto import tqdm

from bipvl.common.errors import BipvlError
from bipvl.common.files import atomic_path, write_json
from bipvl.common.lookup import choose
from bipvl.data import openkbp
from bipvl.data.spec import load_spec

CASES = {
    "amos22": 300,
    "mmwhs_ct": 20,
    "mmwhs_mr": 20,
    "msd_brain": 484,
    "msd_hippocampus": 260,
    "openkbp": 165,
}
"""Labelled cases: AMOS22's 200 and 100 CT, MM-WHS's training sets, MSD's training sections; of OpenKBP's 340
patients those that the data set's split lists."""
OPENKBP = "https://raw.githubusercontent.com/ababier/open-kbp/ed9602e68411a45b7c8f039999f897895407d25f/provided-data"
BLOCK = 2**20
TIMEOUT = 60
"""Seconds without a byte after which a download fails."""

_MMWHS = """\
    1. Register with the organisers and download the training data of MM-WHS 2017:
       https://zmiclab.github.io/zxh/0/mmwhs/
    2. Unpack them, and move the folder {part} to {root}/mmwhs, so that these files exist:
       {root}/mmwhs/{part}/{part}_1001_image.nii.gz and {part}_1001_label.nii.gz"""
STEPS = {
    "amos22": """\
    1. Download amos22.zip from Zenodo's record 7262581: https://zenodo.org/records/7262581
    2. unzip amos22.zip -d {root}
       so that {root}/amos22 holds dataset.json, imagesTr, labelsTr, imagesVa and labelsVa""",
    "mmwhs_ct": _MMWHS.replace("{part}", "ct_train"),
    "mmwhs_mr": _MMWHS.replace("{part}", "mr_train"),
}


def steps(dataset: str, root: str | Path) -> str:
    """How to get a data set by hand; "" if `fetch` can download it."""
    choose("public dataset", dataset, CASES)
    return textwrap.dedent(STEPS[dataset]).format(root=root) if dataset in STEPS else ""


def last_step(dataset: str, root: str | Path) -> str:
    """How to check a downloaded data set, and what the command prints if it is complete."""
    cases = choose("public dataset", dataset, CASES)
    command = f"bipvl check {dataset} --data-root {root}"
    return f"{command}\nprints if all is well: {load_spec(dataset).title}: {cases} cases, no issues"


def fetch(dataset: str, root: str | Path, *, progress: bool = True) -> Path:
    """Download a data set below ``root``, unless it is there; returns its folder.

    Raises:
        BipvlError: the data set must be downloaded by hand, or as `fetch_archive` and `fetch_openkbp`.
    """
    if steps(dataset, root):
        title = load_spec(dataset).title
        raise BipvlError("must be downloaded by hand", f"follow: bipvl fetch {dataset}", title)
    folder = Path(root) / load_spec(dataset).folder
    if dataset == "openkbp":
        patients = openkbp.listed_patients(load_spec(dataset).split["file"])
        return fetch_openkbp(OPENKBP, patients, folder, progress=progress)
    from monai.apps import DecathlonDataset

    url, md5 = DecathlonDataset.resource[folder.name], DecathlonDataset.md5[folder.name]
    return fetch_archive(url, md5, folder, progress=progress)


def fetch_archive(url: str, md5: str, folder: Path, *, progress: bool = True) -> Path:
    """Download an archive, verify its checksum and unpack its ``folder`` atomically.

    An existing folder is kept, and a complete archive is not downloaded again.

    Raises:
        BipvlError: the download fails, the archive differs from the published one or lacks the folder.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    archive = folder.with_name(url.rsplit("/")[-1])
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not archive.is_file():
            download(url, archive, progress=progress)
        if (found := _md5(archive)) != md5:
            problem = f"is damaged: its MD5 is {found} instead of the published {md5}"
            raise BipvlError(problem, "delete it, and download it again", archive)
        _unpack(archive, folder)
    return folder


def fetch_openkbp(
    url: str, patients: Sequence[openkbp.Patient], folder: Path, *, progress: bool = True
) -> Path:
    """Download and convert the CSV files of OpenKBP's patients; ``folder`` appears atomically.

    The challenge publishes no checksums. Each patient's converted voxels and affine are compared with the
    SHA-256 of `patients`, so that a changed file is noticed if it changes the result. Converted patients are
    kept in a hidden folder until all are there, so an interrupted download resumes.

    Args:
        url: the address of the challenge's folder provided-data.

    Raises:
        BipvlError: the download fails, or a patient's files are damaged or not the expected ones.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return folder
        partial = folder.with_name(f".{folder.name}.partial")
        for patient in tqdm(patients, desc="OpenKBP", unit="patient", disable=not progress):
            if not (partial / "labelsTr" / f"{patient.case}.nii.gz").is_file():
                _fetch_patient(url, patient, partial)
        shutil.rmtree(partial / "source", ignore_errors=True)
        cases = [patient.case for patient in patients]
        write_json(partial / "dataset.json", openkbp.dataset_json(load_spec("openkbp"), cases))
        os.replace(partial, folder)
    return folder


def _fetch_patient(url: str, patient: openkbp.Patient, folder: Path) -> None:
    """Write a patient's image and, last, label map below ``folder``; its CSV files are deleted then."""
    source = folder / "source" / patient.folder
    source.mkdir(parents=True, exist_ok=True)
    for file in openkbp.FILES:
        if not (source / file).is_file():
            download(f"{url}/{patient.folder}/{file}", source / file, progress=False)
    try:
        image, label = openkbp.read_patient(source)
        if openkbp.checksum(image, label) != patient.sha256:
            problem = "is damaged: its converted voxels differ from the expected ones (SHA-256)"
            raise BipvlError(problem, "run the same command again, which downloads it again", source)
    except BipvlError:
        shutil.rmtree(source)  # else the next attempt would find it complete
        raise
    for part, scan in (("imagesTr", image), ("labelsTr", label)):
        with atomic_path(folder / part / f"{patient.case}.nii.gz") as temporary:
            scan.to_filename(temporary)
    shutil.rmtree(source)


def download(url: str, path: Path, *, progress: bool = True) -> None:
    """Download a file atomically; an interrupted download stays in ``path``.part and is resumed next time.

    Raises:
        BipvlError: the download is interrupted, or the address does not answer.
    """
    part = path.with_name(f"{path.name}.part")
    start = part.stat().st_size if part.is_file() else 0
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urlopen(request, timeout=TIMEOUT) as response:
            resumed = response.status == 206  # else the server sends the whole file again
            start = start if resumed else 0
            size = start + int(response.headers["Content-Length"])
            bar = tqdm(
                desc=path.name, initial=start, total=size, unit="B", unit_scale=True, disable=not progress
            )
            with bar, part.open("ab" if resumed else "wb") as file:
                while block := response.read(BLOCK):
                    file.write(block)
                    bar.update(len(block))
        if (received := part.stat().st_size) != size:
            raise OSError(f"{received} of {size} bytes received")
    except (OSError, HTTPException, TypeError) as error:
        if not (isinstance(error, HTTPError) and error.code == 416):  # the file is already complete
            fix = "run the same command again, which resumes the download"
            raise BipvlError(f"incomplete download ({error})", fix, url) from error
    os.replace(part, path)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack with MONAI, which refuses members outside the folder; into a temporary folder, then rename."""
    from monai.apps.utils import extractall

    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        try:
            extractall(archive, temporary)
        except (OSError, ValueError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
            fix = "free some space, or delete it and download it again"
            raise BipvlError(f"cannot be unpacked ({error})", fix, archive) from error
        unpacked = Path(temporary, folder.name)
        if not unpacked.is_dir():
            problem = f"does not hold the folder {folder.name}"
            raise BipvlError(problem, "delete it, and download it again", archive)
        os.replace(unpacked, folder)
