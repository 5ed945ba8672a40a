"""Which code a GPU is given. No GPU is needed: what is tried is put in place."""

import builtins
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tad_distill import console
from tad_distill.console import UserError
from tad_distill.extract.modalities.flow import Config
from tad_distill.extract.tvl1 import eager, gpu
from tad_distill.extract.tvl1 import flow as way_in
from tad_distill.extract.tvl1.flow import uses_compiled

CARD, OTHER = torch.device("cuda", 0), torch.device("cuda", 1)
Kernels = Callable[[Any], list[str]]


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    gpu._tried.cache_clear()
    yield
    gpu._tried.cache_clear()


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    """Let this be the kernels' ``solve``, and a card compute where the test does."""
    frames = gpu._frames(torch.device("cpu"))

    def put(solve: Any) -> list[str]:
        tried: list[str] = []

        def at(device: torch.device) -> Tensor:
            tried.append(str(device))
            return frames

        monkeypatch.setattr(gpu, "_frames", at)
        monkeypatch.setattr(gpu, "_kernels", lambda: solve)
        return tried

    return put


def wrong(by: float) -> Any:
    def solve(*given: Any) -> Tensor:
        flow = eager.solve(*given)
        flow[1, 0, 70, 54] += by
        return flow

    return solve


def refuse(*given: Any) -> Tensor:
    raise RuntimeError("ptxas fatal :\n  no kernel image")


def test_kernels_are_used_where_they_agree_with_torch(
    kernels: Kernels, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = kernels(wrong(1e-5))
    for compile in ("auto", "always"):
        assert uses_compiled(CARD, compile)
    assert way_in._solver(CARD, "auto").args == (gpu.solve,)  # type: ignore[attr-defined]
    assert tried == ["cuda:0"]
    assert "code=compiled by=triton device=cuda:0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("solve", "reason"),
    [
        (wrong(0.02), "the kernels' flow differs from torch's by 0.02 pixels"),
        (wrong(float("nan")), "the kernels' flow differs from torch's by nan pixels"),
        (refuse, "RuntimeError: ptxas fatal : no kernel image"),
    ],
)
def test_torch_is_used_where_kernels_fail_and_the_reason_is_told_once(
    solve: Any, reason: str, kernels: Kernels, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = kernels(solve)
    for _ in range(3):
        assert not uses_compiled(CARD, "auto")
    assert way_in._solver(CARD, "auto").args == (eager.solve,)  # type: ignore[attr-defined]
    assert capsys.readouterr().err.splitlines() == [
        f'event=tvl1 code=torch device=cuda:0 reason="{reason}"'
    ]
    with pytest.raises(UserError, match="compile=always: ") as raised:
        uses_compiled(CARD, "always")
    assert str(raised.value).endswith(reason)
    assert tried == ["cuda:0"]


def test_each_device_is_tried_for_itself(kernels: Kernels) -> None:
    tried = kernels(refuse)
    assert not uses_compiled(CARD, "auto")
    kernels(eager.solve)
    assert uses_compiled(OTHER, "auto") and not uses_compiled(CARD, "auto")
    assert tried == ["cuda:0"]


def test_without_triton_torch_is_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, plain = gpu._frames(torch.device("cpu")), builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("triton") or "fused" in (rest[2] if len(rest) > 2 else None or ()):
            raise ModuleNotFoundError("No module named 'triton'")
        return plain(name, *rest)

    monkeypatch.setattr(gpu, "_frames", lambda device: frames)
    monkeypatch.setattr(builtins, "__import__", without)
    assert not uses_compiled(CARD, "auto")
    said = capsys.readouterr().err
    assert 'code=torch device=cuda:0 reason="Triton cannot be imported: No module named' in said
    with pytest.raises(UserError, match="compile=always: Triton cannot be imported"):
        Config(compile="always").build("symmetric").to(CARD)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_triton_without_a_card_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = gpu._frames(torch.device("cpu"))
    monkeypatch.setattr(gpu, "_frames", lambda device: frames)
    assert not uses_compiled(CARD, "auto")
    assert gpu.missing(CARD)


def test_never_tries_nothing(kernels: Kernels) -> None:
    tried = kernels(refuse)
    assert not uses_compiled(CARD, "never")
    assert way_in._solver(CARD, "never").args == (eager.solve,)  # type: ignore[attr-defined]
    assert not tried


def test_other_devices_have_torch_alone() -> None:
    device = torch.device("mps")
    assert not uses_compiled(device, "auto")
    with pytest.raises(UserError, match="compile=always: there is no compiled code for mps"):
        uses_compiled(device, "always")


def test_a_stop_amid_the_trial_is_no_failure_of_the_kernels(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*given: Any) -> Tensor:
        raise console.Interrupted("stopped")

    kernels(stop)
    with pytest.raises(console.Interrupted):
        uses_compiled(CARD, "auto")
    kernels(eager.solve)
    assert uses_compiled(CARD, "auto")


def test_the_trial_would_notice_pixels_an_iteration_late() -> None:
    # In a row or column next to where two tiles meet.
    frames = gpu._frames(torch.device("cpu"))
    start = frames.new_zeros(2, 2, *gpu.CHECK_SIZE)
    for settings in gpu.CHECKS:
        whole, fewer = (
            eager.solve(frames[:-1], frames[1:], start, replace(settings, num_inner=num))
            for num in (settings.num_inner, settings.num_inner - 1)
        )
        late = (whole - fewer)[:, 0].norm(dim=0)
        assert late[60].max() > 10 * gpu.TOLERANCE_PX
        assert late[:, 60].max() > 10 * gpu.TOLERANCE_PX
        assert not whole[:, 1].any()
