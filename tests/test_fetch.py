"""Public data: a download that goes on, a checksum that is held, a folder that is whole or absent."""

import hashlib
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from bipvl.__main__ import app
from bipvl.common.errors import BipvlError
from bipvl.data import fetch
from bipvl.data.fetch import fetch_archive
from bipvl.data.spec import load_spec


class Server(SimpleHTTPRequestHandler):
    """Understands ranges; after ``breaks_off`` bytes of an answer it falls silent."""

    breaks_off: int | None = None
    asked: list[str | None]

    def do_GET(self):
        type(self).asked.append(self.headers["Range"])
        content = Path(self.translate_path(self.path)).read_bytes()
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if self.headers["Range"] else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: type(self).breaks_off])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    class Own(Server):
        asked: ClassVar = []

    (tmp_path / "site").mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Own, directory=tmp_path / "site"))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    Own.url = f"http://127.0.0.1:{httpd.server_port}/Task.tar"
    yield Own
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def archive(tmp_path, server):
    """A tiny archive on the server, and its MD5."""
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


def test_an_archive_is_fetched_and_unpacked_once(tmp_path, server, archive):
    folder = get(server, archive, tmp_path)
    assert (folder / "imagesTr/scan.nii.gz").read_bytes() == bytes(range(256)) * 100
    assert get(server, archive, tmp_path) == folder
    assert server.asked == [None]


def test_a_broken_download_goes_on_where_it_was(tmp_path, server, archive):
    server.breaks_off = 1000
    with pytest.raises(
        BipvlError, match=r"Task\.tar did not come whole \(1000 of \d+ bytes came\); give the same"
    ):
        get(server, archive, tmp_path)
    assert visible(tmp_path / "data") == ["Task.tar.part"]
    server.breaks_off = None
    assert (get(server, archive, tmp_path) / "imagesTr/scan.nii.gz").is_file()
    assert server.asked == [None, "bytes=1000-"]
    assert visible(tmp_path / "data") == ["Task", "Task.tar"]


def test_a_download_that_was_whole_but_not_named_so_is_not_fetched_again(tmp_path, server, archive):
    (tmp_path / "data").mkdir()
    whole = (tmp_path / "site" / "Task.tar").read_bytes()
    (tmp_path / "data" / "Task.tar.part").write_bytes(whole)
    assert get(server, archive, tmp_path).is_dir()
    assert server.asked == [f"bytes={len(whole)}-"]


def test_a_whole_archive_is_unpacked_without_the_server(tmp_path, server, archive):
    (tmp_path / "data").mkdir()
    (tmp_path / "site" / "Task.tar").rename(tmp_path / "data" / "Task.tar")
    assert get(server, archive, tmp_path).is_dir()
    assert server.asked == []


def test_a_wrong_checksum_is_told_and_nothing_is_unpacked(tmp_path, server, archive):
    with pytest.raises(BipvlError, match=rf"Task\.tar has the MD5 {archive}, but {'0' * 32} is published"):
        get(server, "0" * 32, tmp_path)
    assert visible(tmp_path / "data") == ["Task.tar"]


@pytest.mark.parametrize("content", ["no archive", "another folder", "a member outside"])
def test_an_archive_that_is_none_of_ours_leaves_nothing(tmp_path, server, content):
    path = tmp_path / "site" / "Task.tar"
    path.write_bytes(b"none")
    if content != "no archive":
        with tarfile.open(path, "w") as tar:
            tar.add(__file__, "Other/a.py" if content == "another folder" else "../a.py")
    with pytest.raises(BipvlError, match=r"Task\.tar (cannot be unpacked|does not hold the folder Task)"):
        get(server, hashlib.md5(path.read_bytes()).hexdigest(), tmp_path)
    assert visible(tmp_path / "data") == ["Task.tar"] and not (tmp_path / "a.py").exists()


def test_an_address_that_does_not_answer_is_told(tmp_path):
    with pytest.raises(BipvlError, match=r"nothing\.tar did not come whole"):
        fetch_archive((tmp_path / "nothing.tar").as_uri(), "0", tmp_path / "Task", progress=False)


def test_a_file_address_serves_too(tmp_path, server, archive):
    url = (tmp_path / "site" / "Task.tar").as_uri()
    assert fetch_archive(url, archive, tmp_path / "data" / "Task", progress=False).is_dir()


def test_brain_comes_from_monais_address_with_monais_checksum(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(fetch, "fetch_archive", lambda *words, **_: asked.append(words) or words[2])
    result = CliRunner().invoke(app, ["fetch", "msd_brain", "--data-root", str(tmp_path)])
    assert result.exit_code == 0, result.output
    ((url, md5, folder),) = asked
    assert url.endswith("/Task01_BrainTumour.tar") and len(md5) == 32
    assert folder == tmp_path / load_spec("msd_brain").folder
    assert "MSD Task01 (brain tumour MR): 484 cases, no fault" in result.output


@pytest.mark.parametrize("name", ["amos22", "mmwhs_ct", "mmwhs_mr"])
def test_the_steps_lead_to_the_folder_that_the_dataset_is_read_from(tmp_path, name):
    result = CliRunner().invoke(app, ["fetch", name, "--data-root", str(tmp_path)])
    assert result.exit_code == 0
    assert f"{tmp_path}/{load_spec(name).folder}" in result.output
    assert f"{load_spec(name).title}: {fetch.CASES[name]} cases, no fault" in result.output
    with pytest.raises(BipvlError, match=r"must be fetched by hand"):
        fetch.fetch(name, tmp_path)


def test_another_name_lists_the_near_ones():
    result = CliRunner().invoke(app, ["fetch", "amos", "--data-root", "."])
    assert result.exit_code == 1 and "amos22" in result.stderr
