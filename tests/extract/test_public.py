"""Public checkpoints: the catalog, and downloads against a server on this machine."""

import hashlib
import http.server
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from tad_distill import console
from tad_distill.console import Interrupted, UsageError, UserError
from tad_distill.extract import public
from tad_distill.extract.backbones import build, variants
from tad_distill.extract.public import commands
from tad_distill.extract.public import download as downloads
from tad_distill.extract.public.download import download
from tad_distill.extract.weights.layouts import layouts

DATA = os.urandom(3_000_000)


@dataclass
class Site:
    """What the server gives, and what it was asked for.

    Attributes:
        data: The file.
        tag: Its ETag; None: the server sends no validator.
        cut_after: Bytes of each answer after which the connection breaks.
        pause_s: Seconds between pieces of 64 KiB.
        ranges: Whether a part can be asked for.
    """

    data: bytes = DATA
    tag: str | None = '"one"'
    cut_after: int | None = None
    pause_s: float = 0.0
    ranges: bool = True
    status: int = 200
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def site() -> Iterator[Site]:
    state = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers["Range"]
            state.asked.append(wanted)
            if state.status != 200:
                self.send_error(state.status)
                return
            start = 0
            same = self.headers["If-Range"] in (None, state.tag)
            if wanted and state.ranges and same:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                self.send_response(206)
                size = len(state.data)
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            else:
                self.send_response(200)
            if state.tag:
                self.send_header("ETag", state.tag)
            rest = state.data[start:]
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            for at in range(0, len(rest), 65536):
                if state.cut_after is not None and at >= state.cut_after:
                    self.connection.close()
                    return
                time.sleep(state.pause_s)
                try:
                    self.wfile.write(rest[at : at + 65536])
                except OSError:  # the reader has left
                    return

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/file.pth"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "WAIT_S", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole_and_alone(site: Site, tmp_path: Path) -> None:
    download(site.url, tmp_path / "file.pth")
    assert (tmp_path / "file.pth").read_bytes() == DATA
    assert files_in(tmp_path) == ["file.pth"]
    assert site.asked == [None]


def test_a_broken_connection_is_taken_up_where_it_ended(site: Site, tmp_path: Path) -> None:
    site.cut_after = 1_000_000
    download(site.url, tmp_path / "file.pth")
    assert (tmp_path / "file.pth").read_bytes() == DATA
    starts = [int(asked.removeprefix("bytes=")[:-1]) for asked in site.asked if asked]
    assert site.asked[0] is None and len(starts) == 2
    assert starts == sorted(starts) and all(start >= 1_000_000 for start in starts)
    assert files_in(tmp_path) == ["file.pth"]


def test_a_server_that_gives_nothing_is_given_up_with_what_arrived(
    site: Site, tmp_path: Path
) -> None:
    site.cut_after = 0
    with pytest.raises(UserError, match=r"0 bytes are kept in file\.pth\.partial, run the same"):
        download(site.url, tmp_path / "file.pth")
    site.cut_after = None
    download(site.url, tmp_path / "file.pth")
    assert (tmp_path / "file.pth").read_bytes() == DATA


def test_another_version_on_the_server_is_fetched_from_the_start(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "NUM_ATTEMPTS", 1)
    site.cut_after = 500_000
    with pytest.raises(UserError, match="run the same command again"):
        download(site.url, tmp_path / "file.pth")
    assert (tmp_path / "file.pth.partial").stat().st_size >= 500_000
    site.cut_after, site.tag, site.data = None, '"two"', DATA[::-1]
    download(site.url, tmp_path / "file.pth")
    assert (tmp_path / "file.pth").read_bytes() == DATA[::-1]


@pytest.mark.parametrize("change", [{"tag": None}, {"tag": 'W/"weak"'}, {"ranges": False}])
def test_without_a_version_or_ranges_it_begins_anew(
    change: dict[str, Any], site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "NUM_ATTEMPTS", 1)
    for name, value in change.items():
        setattr(site, name, value)
    site.cut_after = 500_000
    with pytest.raises(UserError):
        download(site.url, tmp_path / "file.pth")
    site.cut_after = None
    download(site.url, tmp_path / "file.pth")
    assert (tmp_path / "file.pth").read_bytes() == DATA


def test_a_killed_download_goes_on(site: Site, tmp_path: Path) -> None:
    site.pause_s = 0.02
    code = (
        "import sys; from pathlib import Path; from tad_distill.extract.public.download import "
        f"download; download({site.url!r}, Path({str(tmp_path / 'file.pth')!r}))"
    )
    child = subprocess.Popen([sys.executable, "-P", "-c", code])
    partial = tmp_path / "file.pth.partial"
    deadline = time.monotonic() + 30
    while not (partial.exists() and partial.stat().st_size > 1 << 20):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    held = partial.stat().st_size
    assert 0 < held < len(DATA)
    site.pause_s = 0.0
    download(site.url, tmp_path / "file.pth")
    assert (tmp_path / "file.pth").read_bytes() == DATA
    assert site.asked[-1] == f"bytes={held}-"


def test_a_signal_keeps_what_has_arrived(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))

    def stop(what: str) -> None:
        if next(calls) == 2:
            raise Interrupted(what)

    monkeypatch.setattr(downloads, "check_stop", stop)
    with pytest.raises(Interrupted, match="what has arrived is kept"):
        download(site.url, tmp_path / "file.pth")
    assert (tmp_path / "file.pth.partial").stat().st_size == 2 * downloads.CHUNK_BYTES
    download(site.url, tmp_path / "file.pth")
    assert site.asked[-1] == f"bytes={2 * downloads.CHUNK_BYTES}-"


@pytest.mark.parametrize(
    "status,message", [(404, r"no such file \(HTTP 404\); it may have moved"), (503, "HTTP 503")]
)
def test_a_server_that_refuses_is_quoted(
    status: int, message: str, site: Site, tmp_path: Path
) -> None:
    site.status = status
    with pytest.raises(UserError, match=message):
        download(site.url, tmp_path / "file.pth")
    assert files_in(tmp_path) == []


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:1/file.pth", "http://no-such-host.invalid/file.pth"):
        with pytest.raises(UserError, match=r"cannot be reached \(.*weights check"):
            download(url, tmp_path / "file.pth")


def test_a_file_that_fails_its_check_leaves_nothing(site: Site, tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        assert path.read_bytes() == DATA
        raise UserError("another file")

    with pytest.raises(UserError, match="another file"):
        download(site.url, tmp_path / "file.pth", refuse)
    assert files_in(tmp_path) == []


def test_a_disk_without_room_is_refused_before_it_is_full(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads.durable, "free_bytes", lambda folder: 1_000_000)
    with pytest.raises(UserError, match="free"):
        download(site.url, tmp_path / "file.pth")


def test_the_catalog_names_backbones_and_layouts_that_exist() -> None:
    known = {layout.name: layout.architecture for layout in layouts()}
    files = public.public_files()
    assert len({file.url for file in files.values()}) == len(files) >= 20
    for file in files.values():
        backbone, _, modality = file.stream.partition(":")
        assert build_file(backbone) == known[file.layout], file.name
        assert modality in ("rgb", "flow")
        assert file.url.startswith("https://") and file.filename
        assert file.licence and file.repository.count("/") == 1
        assert re.fullmatch(r"[0-9a-f]{8}|", file.sha256)
        assert re.fullmatch(r"[0-9a-f]{40}|", file.git_blob)
        if file.sha256:  # the publisher states it in the file's name
            assert f"-{file.sha256}." in file.filename
        assert file.top1 is None or 50 < file.top1 < 80


def build_file(name: str) -> str:
    """The file of the backbones in which a name is."""
    return variants()[name].__module__.rpartition(".")[2]


def test_hashes_are_those_of_sha256sum_and_git(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    assert public.sha256(path) == hashlib.sha256(DATA).hexdigest()
    path.write_bytes(b"what is up, doc?")  # the example of Pro Git, section 10.2
    assert public.git_blob(path) == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"


Run = Callable[..., Any]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, site: Site) -> Run:
    """Runs a command with one public file, tsm18 in torchvision's layout, on the server."""
    file = public.PublicFile(
        name="one",
        stream="tsm18:rgb",
        layout="torchvision",
        url=site.url,
        repository="a/b",
        licence="MIT",
    )

    def invoke(command: str, *args: str | Path, **changes: Any) -> Any:
        file_now = replace(file, **changes)
        monkeypatch.setattr(public, "public_files", lambda: {"one": file_now})
        made = {"list": commands.list_, "fetch": commands.fetch, "check": commands.check}[command]
        return CliRunner().invoke(made, [str(arg) for arg in args])

    return invoke


def weights_of(name: str, folder: Path) -> bytes:
    state = {k: v.new_zeros(()).expand(v.shape) for k, v in build(name).state_dict().items()}
    torch.save(state, folder / "made.pth")
    return (folder / "made.pth").read_bytes()


def test_fetch_checks_the_hash_and_that_the_weights_fit(
    run: Run, site: Site, tmp_path: Path
) -> None:
    site.data = weights_of("tsm18", tmp_path)
    digest = hashlib.sha256(site.data).hexdigest()
    out = tmp_path / "weights"
    for _ in range(2):
        ended = run("fetch", "one", "--out", out, sha256=digest[:8])
        assert ended.exit_code == 0, ended.exception
        assert ended.stdout.splitlines() == [str(out / "file.pth")]
        assert f"sha256={digest}" in ended.stderr
    assert len(site.asked) == 1
    assert (out / "file.pth").read_bytes() == site.data


def test_fetch_refuses_what_is_another_file(run: Run, site: Site, tmp_path: Path) -> None:
    site.data = weights_of("tsm18", tmp_path)
    out = tmp_path / "weights"
    refused = {
        "its sha256 is .* published is 00000000; it is damaged": {"sha256": "00000000"},
        "its git blob is .* published is 1111": {"git_blob": "1" * 40},
        "is a torchvision file for tsm18, expected torchvision for tsm50": {"stream": "tsm50:rgb"},
    }
    for message, change in refused.items():
        ended = run("fetch", "one", "--out", out, **change)
        assert isinstance(ended.exception, UserError)
        assert re.search(message, str(ended.exception))
        assert files_in(out) == []
    ended = run("fetch", "two", "--out", out)
    assert isinstance(ended.exception, UsageError)
    assert "weights list" in str(ended.exception)


def test_check_says_what_a_file_holds(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "made.pth"
    digest = hashlib.sha256(weights_of("tsm18", tmp_path)).hexdigest()
    ended = run("check", path, sha256=digest[:8])
    facts = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in ended.stdout.splitlines())
    assert facts["fits"] == "tsm18" and facts["layout"] == "torchvision"
    assert facts["sha256"] == digest and facts["public as"] == "one"
    assert int(facts["bytes"]) == path.stat().st_size
    assert run("check", path, "--backbone", "tsm18").exit_code == 0
    wrong = run("check", path, "--backbone", "tsm50")
    assert "layer1.0.conv3.weight" in str(wrong.exception)
    assert "they fit tsm18" in str(wrong.exception)
    assert "wanted are weights of i3d" in str(run("check", path, "--backbone", "i3d").exception)
    assert "no such backbone" in str(run("check", path, "--backbone", "tsm19").exception)


def test_check_fails_on_weights_that_fit_nothing(run: Run, tmp_path: Path) -> None:
    torch.save({"layer1.0.conv1.weight": torch.zeros(1, 1, 1, 1)}, tmp_path / "made.pth")
    ended = CliRunner().invoke(commands.check, [str(tmp_path / "made.pth")], standalone_mode=False)
    assert ended.return_value == console.FAILED
    assert "no backbone" in ended.stdout


def test_list_shows_all_files_or_those_of_a_stream() -> None:
    shown = CliRunner().invoke(commands.list_, []).stdout
    for file in public.public_files().values():
        assert f"{file.name}  {file.url}" in shown
    only = CliRunner().invoke(commands.list_, ["i3d:flow"]).stdout
    assert "piergiaj-i3d-flow" in only and "i3d-rgb" not in only
    assert '"licence": "Apache-2.0"' in CliRunner().invoke(commands.list_, ["i3d", "--json"]).stdout
    none = CliRunner().invoke(commands.list_, ["tsm19"])
    assert isinstance(none.exception, UsageError)
