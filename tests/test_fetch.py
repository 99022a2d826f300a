"""Public data: downloads resume, checksums are verified, folders appear atomically."""

import hashlib
import re
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import nibabel as nib
import pytest
from data_files import write_openkbp_patient
from typer.testing import CliRunner

from bipvl.__main__ import app
from bipvl.common.errors import BipvlError
from bipvl.data import fetch
from bipvl.data.fetch import fetch_archive, fetch_openkbp
from bipvl.data.layouts import find_cases, list_cases
from bipvl.data.openkbp import ORGANS, Patient, checksum, read_patient
from bipvl.data.spec import load_spec


class Server(SimpleHTTPRequestHandler):
    """A server that understands ranges and stops after ``limit`` bytes of an answer."""

    limit: int | None = None
    requests: list[str | None]

    def do_GET(self):
        type(self).requests.append(self.headers["Range"])
        content = Path(self.translate_path(self.path)).read_bytes()
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if self.headers["Range"] else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: type(self).limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    class Own(Server):
        requests: ClassVar = []

    (tmp_path / "site").mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Own, directory=tmp_path / "site"))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    Own.url = f"http://127.0.0.1:{httpd.server_port}/Task.tar"
    yield Own
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def archive(tmp_path, server):
    """The MD5 of a tiny archive on the server."""
    inside = tmp_path / "made" / "Task" / "imagesTr"
    inside.mkdir(parents=True)
    (inside / "scan.nii.gz").write_bytes(bytes(range(256)) * 100)
    with tarfile.open(tmp_path / "site" / "Task.tar", "w") as tar:
        tar.add(inside.parent, "Task")
    return hashlib.md5((tmp_path / "site" / "Task.tar").read_bytes()).hexdigest()


def get(server, md5, tmp_path):
    return fetch_archive(server.url, md5, tmp_path / "data" / "Task", progress=False)


def visible(folder):
    return sorted(path.name for path in folder.glob("[!.]*"))


def test_an_archive_is_downloaded_and_unpacked_once(tmp_path, server, archive):
    folder = get(server, archive, tmp_path)
    assert (folder / "imagesTr/scan.nii.gz").read_bytes() == bytes(range(256)) * 100
    assert get(server, archive, tmp_path) == folder
    assert server.requests == [None]


def test_an_interrupted_download_resumes(tmp_path, server, archive):
    server.limit = 1000
    with pytest.raises(
        BipvlError, match=r"Task\.tar: incomplete download \(1000 of \d+ bytes received\); run the same"
    ):
        get(server, archive, tmp_path)
    assert visible(tmp_path / "data") == ["Task.tar.part"]
    server.limit = None
    assert (get(server, archive, tmp_path) / "imagesTr/scan.nii.gz").is_file()
    assert server.requests == [None, "bytes=1000-"]
    assert visible(tmp_path / "data") == ["Task", "Task.tar"]


def test_a_complete_part_file_is_not_downloaded_again(tmp_path, server, archive):
    (tmp_path / "data").mkdir()
    whole = (tmp_path / "site" / "Task.tar").read_bytes()
    (tmp_path / "data" / "Task.tar.part").write_bytes(whole)
    assert get(server, archive, tmp_path).is_dir()
    assert server.requests == [f"bytes={len(whole)}-"]


def test_a_complete_archive_is_unpacked_without_the_server(tmp_path, server, archive):
    (tmp_path / "data").mkdir()
    (tmp_path / "site" / "Task.tar").rename(tmp_path / "data" / "Task.tar")
    assert get(server, archive, tmp_path).is_dir()
    assert server.requests == []


def test_a_wrong_checksum_is_reported_and_nothing_is_unpacked(tmp_path, server, archive):
    with pytest.raises(
        BipvlError, match=rf"Task\.tar: is damaged: its MD5 is {archive} .* {'0' * 32}; delete"
    ):
        get(server, "0" * 32, tmp_path)
    assert visible(tmp_path / "data") == ["Task.tar"]


@pytest.mark.parametrize("content", ["no archive", "another folder", "a member outside"])
def test_a_wrong_archive_leaves_nothing_behind(tmp_path, server, content):
    path = tmp_path / "site" / "Task.tar"
    path.write_bytes(b"none")
    if content != "no archive":
        with tarfile.open(path, "w") as tar:
            tar.add(__file__, "Other/a.py" if content == "another folder" else "../a.py")
    with pytest.raises(BipvlError, match=r"Task\.tar: (cannot be unpacked|does not hold the folder Task)"):
        get(server, hashlib.md5(path.read_bytes()).hexdigest(), tmp_path)
    assert visible(tmp_path / "data") == ["Task.tar"] and not (tmp_path / "a.py").exists()


def test_an_address_that_does_not_answer_is_reported(tmp_path):
    with pytest.raises(BipvlError, match=r"nothing\.tar: incomplete download"):
        fetch_archive((tmp_path / "nothing.tar").as_uri(), "0", tmp_path / "Task", progress=False)


def test_a_file_address_works_too(tmp_path, server, archive):
    url = (tmp_path / "site" / "Task.tar").as_uri()
    assert fetch_archive(url, archive, tmp_path / "data" / "Task", progress=False).is_dir()


@pytest.mark.parametrize(
    ("name", "archive", "expected"),
    [
        ("msd_brain", "Task01_BrainTumour.tar", "MSD Task01 (brain tumour MR): 484 cases, no issues"),
        ("msd_hippocampus", "Task04_Hippocampus.tar", "MSD Task04 (hippocampus MR): 260 cases, no issues"),
    ],
)
def test_the_decathlon_is_downloaded_by_monais_address_and_checksum(
    tmp_path, monkeypatch, name, archive, expected
):
    requests = []
    monkeypatch.setattr(fetch, "fetch_archive", lambda *words, **_: requests.append(words) or words[2])
    result = CliRunner().invoke(app, ["fetch", name, "--data-root", str(tmp_path)])
    assert result.exit_code == 0, result.output
    ((url, md5, folder),) = requests
    assert url.endswith(f"/{archive}") and len(md5) == 32
    assert folder == tmp_path / load_spec(name).folder
    assert expected in result.output


@pytest.fixture
def patients(tmp_path):
    """Two tiny OpenKBP patients on the server, as the data set's split would list them."""
    found = []
    for number, (case, part) in enumerate([("pt_001", "train"), ("pt_201", "val")], start=1):
        place = Patient(case, part, "").folder
        voxels = {(number, 1, 1): 900.0, (2, 2, 2): 1000.0}
        organs = {organ: [*voxels] for organ in ORGANS}
        source = write_openkbp_patient(tmp_path / "site" / place, voxels, organs)
        found.append(Patient(case, part, checksum(*read_patient(source))))
    return found


def get_openkbp(server, patients, tmp_path):
    url = server.url.removesuffix("/Task.tar")
    return fetch_openkbp(url, patients, tmp_path / "data" / "OpenKBP", progress=False)


def test_openkbp_is_downloaded_and_converted_once(tmp_path, server, patients):
    folder = get_openkbp(server, patients, tmp_path)
    found, issues = find_cases(load_spec("openkbp"), tmp_path / "data")
    assert [case.id for case in found] == ["pt_001", "pt_201"] and not issues
    assert visible(folder) == ["dataset.json", "imagesTr", "labelsTr"]
    for case, patient in zip(found, patients, strict=True):
        assert checksum(nib.load(case.image), nib.load(case.label)) == patient.sha256
    requests = len(server.requests)
    assert get_openkbp(server, patients, tmp_path) == folder and len(server.requests) == requests == 2 * 7


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            "cut short",
            r"validation-pats/pt_201/ct\.csv: incomplete download \(10 of \d+ bytes received\)",
        ),
        ("other voxels", r"validation-pats/pt_201: is damaged: its converted voxels differ .*; run the same"),
        ("other indices", r"validation-pats/pt_201/Mandible\.csv: lists voxels that are not whole numbers"),
    ],
)
def test_damaged_openkbp_leaves_nothing_visible_and_the_next_attempt_resumes(
    tmp_path, server, patients, damage, message
):
    mandible = tmp_path / "site" / patients[1].folder / "Mandible.csv"
    published = mandible.read_text()
    get_openkbp(server, patients[:1], tmp_path).rename(tmp_path / "data" / ".OpenKBP.partial")
    if damage == "cut short":
        server.limit = 10
    else:
        mandible.write_text(f",data\n{5 if damage == 'other voxels' else 128**3},\n")
    with pytest.raises(BipvlError, match=message):
        get_openkbp(server, patients, tmp_path)
    assert visible(tmp_path / "data") == []
    server.limit, server.requests[:] = None, []
    mandible.write_text(published)
    get_openkbp(server, patients, tmp_path)
    assert [case.id for case in list_cases(load_spec("openkbp"), tmp_path / "data")] == ["pt_001", "pt_201"]
    assert server.requests == [*(["bytes=10-"] if damage == "cut short" else [None]), *[None] * 6]
    assert visible(tmp_path / "data") == ["OpenKBP"]


def test_openkbp_is_the_challenges_repository_at_one_commit(tmp_path, monkeypatch):
    requests = []
    monkeypatch.setattr(fetch, "fetch_openkbp", lambda *words, **_: requests.append(words) or words[2])
    result = CliRunner().invoke(app, ["fetch", "openkbp", "--data-root", str(tmp_path)])
    assert result.exit_code == 0, result.output
    ((url, patients, folder),) = requests
    assert re.search(r"/ababier/open-kbp/[0-9a-f]{40}/provided-data$", url)
    folders = [patient.folder for patient in patients]
    assert (len(folders), folders[0], folders[-1]) == (165, "train-pats/pt_1", "test-pats/pt_340")
    assert "validation-pats/pt_201" in folders and folder == tmp_path / "OpenKBP"
    assert "OpenKBP (head-and-neck CT): 165 cases, no issues" in result.output


@pytest.mark.parametrize("name", ["amos22", "mmwhs_ct", "mmwhs_mr"])
def test_the_instructions_name_the_data_sets_folder(tmp_path, name):
    result = CliRunner().invoke(app, ["fetch", name, "--data-root", str(tmp_path)])
    assert result.exit_code == 0
    assert f"{tmp_path}/{load_spec(name).folder}" in result.output
    assert f"{load_spec(name).title}: {fetch.CASES[name]} cases, no issues" in result.output
    with pytest.raises(BipvlError, match=r"must be downloaded by hand; follow: bipvl fetch"):
        fetch.fetch(name, tmp_path)


def test_an_unknown_name_lists_the_nearest():
    result = CliRunner().invoke(app, ["fetch", "amos", "--data-root", "."])
    assert result.exit_code == 1 and "amos22" in result.stderr
