"""Compiling at first use, and doing without."""

import shutil
import stat
from pathlib import Path

import pytest
import torch

from tad_distill.console import UserError
from tad_distill.extract.tvl1 import native
from tad_distill.extract.tvl1.flow import flow
from tad_distill.extract.tvl1.settings import VARIANTS

pytestmark = pytest.mark.usefixtures("no_library")
FRAMES = torch.rand(2, 9, 8) * 255


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/tad_distill"


def needs_compiler() -> str:
    compiler = native._compiler()
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    return compiler


def pretend(monkeypatch: pytest.MonkeyPatch, path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(path))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code, compiled once for all tests."""
    path = tmp_path_factory.mktemp("built") / "code.so"
    native._compile(needs_compiler(), native._source(), path)
    return path


@pytest.fixture
def compiler_log(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a compiler in place that brings that code; the file gets a line at each call."""
    log = tmp_path / "log"
    script = f'echo run >> {log}; for last; do :; done; cp {built} "$last"'
    pretend(monkeypatch, tmp_path / "c++", script)
    return log


def test_code_is_compiled_once(cache: Path, compiler_log: Path) -> None:
    for _ in range(2):
        native._library.cache_clear()
        assert native.is_available()
    assert compiler_log.read_text() == "run\n"
    assert [path.suffix for path in cache.iterdir()] == [".so"]


def test_another_processor_gets_code_of_its_own(
    cache: Path, compiler_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for processor in ("one", "another"):
        monkeypatch.setattr(native, "_processor", lambda processor=processor: processor)
        native._library.cache_clear()
        assert native.is_available()
    assert len(list(cache.iterdir())) == 2


def test_damaged_code_in_the_cache_is_compiled_anew(
    cache: Path, compiler_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert native.is_available()
    (made,) = cache.iterdir()
    # In another place: the dynamic loader knows the first by its name.
    other = tmp_path / "other/tad_distill"
    other.mkdir(parents=True)
    (other / made.name).write_bytes(b"damaged")
    monkeypatch.setenv("XDG_CACHE_HOME", str(other.parent))
    native._library.cache_clear()
    assert native.is_available()
    assert (other / made.name).read_bytes() == made.read_bytes()


def test_without_a_compiler_torch_does_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    plain = flow(FRAMES, VARIANTS["fast"], "never")
    assert torch.equal(flow(FRAMES, VARIANTS["fast"], "auto"), plain)
    assert 'code=torch reason="no C++ compiler found"' in capsys.readouterr().err
    with pytest.raises(UserError, match=r"compile=always: no working C\+\+ compiler"):
        flow(FRAMES, VARIANTS["fast"], "always")


@pytest.mark.parametrize("script", ["echo it is broken >&2; exit 1", "exit 0"])
def test_with_a_broken_compiler_torch_does_it_and_says_why(
    script: str,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretend(monkeypatch, tmp_path / "c++", script)
    assert not native.is_available()
    assert "code=torch" in (said := capsys.readouterr().err)
    assert "it is broken" in said or "exit 0" in script
    assert not list(cache.iterdir())


def test_without_a_place_for_it_code_is_compiled_all_the_same(
    compiler_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert native.is_available()
    assert flow(FRAMES, VARIANTS["fast"], "always").isfinite().all()


def test_code_for_any_processor_gives_the_same(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_compiler()
    # The first way of tuning is refused, as compilers do that do not know it.
    monkeypatch.setattr(native, "TUNING", (("--no-such-option",), ()))
    for variant in VARIANTS.values():
        found, plain = flow(FRAMES, variant, "always"), flow(FRAMES, variant, "never")
        assert (found - plain).norm(dim=1).mean() < 0.02
