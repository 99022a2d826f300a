"""Public data: MSD's fetched through MONAI's addresses and checksums, of the others the steps to get them."""

import hashlib
import os
import tarfile
import tempfile
import textwrap
import zipfile
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock
from tqdm.auto import tqdm

from bipvl.common.errors import BipvlError
from bipvl.common.lookup import choose
from bipvl.data.spec import load_spec

CASES = {"amos22": 300, "mmwhs_ct": 20, "mmwhs_mr": 20, "msd_brain": 484}
"""With labels, as published: AMOS22's 200 and 100 CT, MM-WHS's training sets, MSD's training section."""
BLOCK = 2**20
WAIT = 60
"""Seconds without a byte after which a download is broken off."""

_MMWHS = """\
    1. Register with the organisers and download the training data of MM-WHS 2017:
       https://zmiclab.github.io/zxh/0/mmwhs/
    2. Unpack them, and put the folder {part} into {root}/mmwhs, so that there is
       {root}/mmwhs/{part}/{part}_1001_image.nii.gz and, beside it, {part}_1001_label.nii.gz"""
STEPS = {
    "amos22": """\
    1. Download amos22.zip from Zenodo's record 7262581: https://zenodo.org/records/7262581
    2. unzip amos22.zip -d {root}
       so that {root}/amos22 holds dataset.json, imagesTr, labelsTr, imagesVa and labelsVa""",
    "mmwhs_ct": _MMWHS.replace("{part}", "ct_train"),
    "mmwhs_mr": _MMWHS.replace("{part}", "mr_train"),
}


def steps(dataset: str, root: str | Path) -> str:
    """How to get a dataset that must be fetched by hand; "" where `fetch` can do it."""
    choose("public dataset", dataset, CASES)
    return textwrap.dedent(STEPS[dataset]).format(root=root) if dataset in STEPS else ""


def last_step(dataset: str, root: str | Path) -> str:
    """The check of a dataset that was fetched, and what it prints of one that is whole."""
    cases = choose("public dataset", dataset, CASES)
    command = f"bipvl check {dataset} --data-root {root}"
    return f"{command}\nprints, where all is well: {load_spec(dataset).title}: {cases} cases, no fault"


def fetch(dataset: str, root: str | Path, *, progress: bool = True) -> Path:
    """Fetch a dataset of the Medical Segmentation Decathlon below ``root``; returns its folder.

    Raises:
        BipvlError: it must be fetched by hand; the download is broken off, the archive is not as published.
    """
    if steps(dataset, root):
        raise BipvlError(f"{load_spec(dataset).title} must be fetched by hand; see: bipvl fetch {dataset}")
    from monai.apps import DecathlonDataset

    folder = load_spec(dataset).folder
    url, md5 = DecathlonDataset.resource[folder], DecathlonDataset.md5[folder]
    return fetch_archive(url, md5, Path(root) / folder, progress=progress)


def fetch_archive(url: str, md5: str, folder: Path, *, progress: bool = True) -> Path:
    """Download an archive, hold it against its checksum and unpack it; ``folder``, in it, is whole or absent.

    A folder that is there stays, an archive that is whole is not fetched again.

    Raises:
        BipvlError: the download is broken off, the archive is not as published, or it lacks the folder.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    archive = folder.with_name(url.rsplit("/")[-1])
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not archive.is_file():
            download(url, archive, progress=progress)
        if (found := _md5(archive)) != md5:
            raise BipvlError(
                f"{archive} has the MD5 {found}, but {md5} is published: it is damaged, and nothing was "
                "unpacked; delete it, and fetch it again."
            )
        _unpack(archive, folder)
    return folder


def download(url: str, path: Path, *, progress: bool = True) -> None:
    """A file, whole or absent: what has come waits in ``path``.part, and the next call asks for the rest.

    Raises:
        BipvlError: it is broken off, or the address does not answer.
    """
    part = path.with_name(f"{path.name}.part")
    start = part.stat().st_size if part.is_file() else 0
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urlopen(request, timeout=WAIT) as response:
            goes_on = response.status == 206  # else the server sends all of it again
            start = start if goes_on else 0
            size = start + int(response.headers["Content-Length"])
            bar = tqdm(
                desc=path.name, initial=start, total=size, unit="B", unit_scale=True, disable=not progress
            )
            with bar, part.open("ab" if goes_on else "wb") as file:
                while block := response.read(BLOCK):
                    file.write(block)
                    bar.update(len(block))
        if (come := part.stat().st_size) != size:
            raise OSError(f"{come} of {size} bytes came")
    except (OSError, HTTPException, TypeError) as error:
        if not (isinstance(error, HTTPError) and error.code == 416):  # nothing is left to be sent
            raise BipvlError(
                f"{url} did not come whole ({error}); give the same command again, which goes on from there."
            ) from error
    os.replace(part, path)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unpack(archive: Path, folder: Path) -> None:
    """By MONAI, which lets no member leave the folder; beside its place first, to be whole or absent."""
    from monai.apps.utils import extractall

    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        try:
            extractall(archive, temporary)
        except (OSError, ValueError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
            raise BipvlError(
                f"{archive} cannot be unpacked ({error}); free some space, or fetch it again."
            ) from error
        unpacked = Path(temporary, folder.name)
        if not unpacked.is_dir():
            raise BipvlError(f"{archive} does not hold the folder {folder.name}; fetch it again.")
        os.replace(unpacked, folder)
