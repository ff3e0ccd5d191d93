"""Shards on a server: copied once, gone on with after a cut, then as local ones."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

import pytest

from jstc.data.sources import remote, shards
from jstc.errors import DataError

DATA = bytes(range(256)) * 40


class Files(dict[str, bytes]):
    """What the server has; the first `cuts` answers end in the middle. `asked` are the requests."""

    cuts = 0
    ranges = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    def __init__(self, files: Files, *args: Any) -> None:
        self.files = files
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        data, wanted = self.files.get(self.path), self.headers.get("Range")
        self.files.asked.append(f"{self.command} {self.path} {wanted or ''}".strip())
        if data is None:
            self.send_error(404)
            return
        first = int(re.findall(r"\d+", wanted)[0]) if wanted and self.files.ranges else 0
        if first and first >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        if self.command == "GET":
            self.files.cuts, cut = self.files.cuts - 1, self.files.cuts > 0
            self.wfile.write(data[first : first + 1000] if cut else data[first:])

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr(remote, "_WAIT_S", 0.0)
    return Files({"/a.tar": DATA})


@pytest.fixture
def host(files: Files) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, files))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def _copy(url: str, folder: Path) -> Path:
    [path] = remote.copies([url], folder, say=lambda _: None)
    return path


def test_a_file_is_copied_once(files: Files, host: str, tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        [path] = remote.copies([f"{host}/a.tar"], tmp_path, say=said.append)
        assert path.read_bytes() == DATA
    assert files.asked == ["HEAD /a.tar", "GET /a.tar"]
    assert said == [f"copying 1 shards, about 0.0 GB, to {tmp_path}, once"]


def test_a_cut_copy_is_gone_on_with(files: Files, host: str, tmp_path: Path) -> None:
    files.cuts = 2
    assert _copy(f"{host}/a.tar", tmp_path).read_bytes() == DATA
    assert files.asked[1:] == ["GET /a.tar", "GET /a.tar bytes=1000-", "GET /a.tar bytes=2000-"]


def test_from_the_start_where_the_server_cannot_go_on(files: Files, host: str, tmp_path: Path) -> None:
    files.cuts, files.ranges = 1, False
    assert _copy(f"{host}/a.tar", tmp_path).read_bytes() == DATA


def test_a_copy_longer_than_the_file_is_made_anew(files: Files, host: str, tmp_path: Path) -> None:
    files.cuts = 9
    with pytest.raises(DataError, match=r"cannot copy http.*/a\.tar: the connection was cut"):
        _copy(f"{host}/a.tar", tmp_path)
    files["/a.tar"], files.cuts = b"short", 0
    assert _copy(f"{host}/a.tar", tmp_path).read_bytes() == b"short"


def test_what_is_not_there_is_said_at_once(files: Files, host: str, tmp_path: Path) -> None:
    for call in (lambda: remote.require_there(f"{host}/b.tar"), lambda: _copy(f"{host}/b.tar", tmp_path)):
        with pytest.raises(DataError, match=r"cannot read http.*/b\.tar: 404 Not Found"):
            call()
    assert remote.read(f"{host}/classes.txt", limit=10) is None
    with pytest.raises(DataError, match="larger than"):
        remote.read(f"{host}/a.tar", limit=10)
    with pytest.raises(DataError, match=r"cannot read http://127\.0\.0\.1:1/x: .*refused"):
        remote.require_there("http://127.0.0.1:1/x")


def test_too_little_disk_is_found_before_copying(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"do not fit on the disk of .* with input\.cache"):
        _copy(f"{host}/a.tar", tmp_path)


def test_a_url_survives_being_a_path_and_needs_a_list_of_classes(files: Files, host: str) -> None:
    found = shards.find(Path(f"{host}/set/{{train-{{0..1}},val-0}}.tar"))
    assert found.train == (f"{host}/set/train-0.tar", f"{host}/set/train-1.tar")
    assert found.test == (f"{host}/set/val-0.tar",)
    assert shards.class_names(found) is None
    files["/set/classes.txt"] = b"cat\ndog\n"
    assert shards.class_names(found) == ("cat", "dog")


@pytest.mark.parametrize("name", ["a\\..\\..\\b.tar", "..%2f..%2fb.tar", "c:b.tar", "b" * 300 + ".tar", ".."])
def test_a_copy_lies_in_its_folder_whatever_the_url_says(
    host: str, files: Files, tmp_path: Path, name: str
) -> None:
    files[f"/{name}"] = DATA
    path = _copy(f"{host}/{name}", tmp_path)
    assert path.parent == tmp_path and path.read_bytes() == DATA
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,120}", path.name)


@pytest.mark.parametrize("flavour", [PurePosixPath, PureWindowsPath])
def test_a_url_survives_the_paths_of_every_system(flavour: type[PurePath]) -> None:
    text = "https://host/set/{train-{0..1},val-0}.tar::http://other/val-1.tar"
    assert shards._pattern(flavour(text)) == text
