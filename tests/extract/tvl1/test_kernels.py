"""Triton's kernels against torch: in Triton's interpreter, and compiled for cards not at hand."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tad_distill.extract.tvl1 import eager
from tad_distill.extract.tvl1.median import median_filter
from tad_distill.extract.tvl1.settings import VARIANTS, Settings
from tad_distill.extract.tvl1.stopping import Stopping
from tad_distill.extract.tvl1.warp import Warper

Case = dict[str, Any]
Texture = Callable[..., Tensor]
pytestmark = pytest.mark.slow
if importlib.util.find_spec("triton") is None:
    pytest.skip("needs triton", allow_module_level=True)

# Several tiles in both directions where the side is above 16, and rims of as many pixels as a
# launch has iterations.
SMALL = {"height": 16, "width": 16, "halo": 3, "num_warps": 1}
WHOLE = {"height": 64, "width": 64, "halo": 5, "num_warps": 16}
SIZE = (20, 25)
SIZES = ((1, 1), (1, 30), (19, 2), (16, 16), (27, 28))
# Rounding: torch's own flow of these cases is up to 1.2e-4 from what it is in float64, at pixels
# with next to no gradient; of the others far less.
MOST_PX, MEAN_PX = 2e-4, 3e-6


def few(variant: str, **others: Any) -> Settings:
    num_outer = min(2, VARIANTS[variant].num_outer)
    fewer = {"num_warps": 1, "num_outer": num_outer, "num_inner": 12 // num_outer}
    return replace(VARIANTS[variant], **(fewer | others))


def settings() -> dict[str, Settings]:
    """What the cases run; ``some`` and ``every fourth`` end pairs within launches and between."""
    both = ("opencv-cpu", "opencv-cuda")
    made = {f"{name}, all": few(name, epsilon=0.0) for name in both}
    made |= {f"{name}, some": few(name, epsilon=0.08, num_warps=2) for name in both}
    made["fast"] = few("fast")
    made["median 3"] = few("opencv-cpu", epsilon=0.0, median=3, tau=0.2, tightness=0.4)
    made["every fourth"] = few("opencv-cuda", epsilon=0.08, stop="every", check_every=4)
    return made


@pytest.fixture(scope="module")
def cases(texture: Texture) -> dict[str, Case]:
    # Fast, at rest, slow.
    frames = texture(SIZE, [(0, 0), (1.1, 0.4), (1.1, 0.4), (1.2, 0.45)])
    start = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0)) / 5
    start[:, 1] = 0
    given = {"first": frames[:-1], "second": frames[1:], "start": start}
    made = {name: given | {"settings": x, "tile": SMALL} for name, x in settings().items()}
    made["whole"] = made["opencv-cpu, some"] | {"tile": WHOLE}
    for i in (0, 2):
        one = {key: x.narrow(x.ndim - 3, i, 1) for key, x in given.items()}
        made[f"alone {i}"] = made["opencv-cpu, some"] | one
    for size in SIZES:
        frames = texture(size, [(0, 0), (0.7, -0.4)])
        small = {"first": frames[:1], "second": frames[1:], "start": torch.zeros(2, 1, *size)}
        made[f"size {size}"] = made["median 3"] | small
    return made


@pytest.fixture(scope="module")
def flow() -> Tensor:
    """Steps of 1/4, so that equal values occur, of four pairs."""
    random = torch.Generator().manual_seed(0)
    return torch.randint(-9, 9, (2, 4, 13, 17), generator=random) / 4


@pytest.fixture(scope="module")
def warped(texture: Texture) -> Case:
    """Two pairs and flow that leads out of them on all sides."""
    frames = texture((13, 17), [(0, 0), (1, 0), (2, 1)])
    random = torch.Generator().manual_seed(1)
    far = torch.randn(2, 2, 13, 17, generator=random) * 9
    return {"first": frames[:-1].clone(), "second": frames[1:].clone(), "flow": far}


@pytest.fixture(scope="module")
def found(
    cases: dict[str, Case], flow: Tensor, warped: Case, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """All of it in one go: the program takes seconds to start."""
    folder = tmp_path_factory.mktemp("interpreted")
    plain = {name: case | {"settings": asdict(case["settings"])} for name, case in cases.items()}
    torch.save({"solve": plain, "flow": flow, "warped": warped}, folder / "in.pt")
    program = Path(__file__).with_name("interpreted.py")
    ended = subprocess.run(
        [sys.executable, "-P", str(program), str(folder / "in.pt"), str(folder / "out.pt")],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    if "only 0-dimensional arrays can be converted" in ended.stderr:
        pytest.skip("the interpreter of this triton is too old for this numpy")
    assert ended.returncode == 0, ended.stderr[-3000:]
    return torch.load(folder / "out.pt", weights_only=True)


def expected(case: Case) -> Tensor:
    return eager.solve(case["first"], case["second"], case["start"], case["settings"])


@pytest.mark.parametrize("name", [*settings(), "whole", *(f"size {x}" for x in SIZES)])
def test_kernels_compute_what_torch_does(
    name: str, cases: dict[str, Case], found: dict[str, Any]
) -> None:
    theirs = expected(cases[name])
    assert theirs.abs().max() > 0.05 or name == "size (1, 1)"
    error = (found["solve"][name] - theirs).abs()
    assert error.max() < MOST_PX and error.mean() < MEAN_PX


def test_pairs_of_the_cases_stop_apart_and_within_launches(
    cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[int] = []

    class Recorded(Stopping):
        def finish(self, change: Any) -> list[int]:
            done = super().finish(change)
            ends.extend([self.num_iterations] * len(done))
            return done

    monkeypatch.setattr(eager, "Stopping", Recorded)
    for name in ("opencv-cpu, some", "opencv-cuda, some", "every fourth"):
        ends.clear()
        expected(cases[name])
        assert len(ends) >= 3 and len(set(ends)) >= 2, (name, ends)
        assert any(end % SMALL["halo"] for end in ends), (name, ends)


def test_a_pairs_flow_does_not_depend_on_those_beside_it(found: dict[str, Any]) -> None:
    for i in (0, 2):
        alone = found["solve"][f"alone {i}"][:, 0]
        assert torch.equal(alone, found["solve"]["opencv-cpu, some"][:, i])


def test_tiles_make_no_difference(found: dict[str, Any]) -> None:
    flows = [found["solve"][name] for name in ("opencv-cpu, some", "whole")]
    # Sums of the changes are rounded differently, but no pair is that near to its end.
    assert torch.equal(flows[0], flows[1])


@pytest.mark.parametrize("size", [3, 5])
def test_the_median_is_that_of_torch_for_the_active_pairs_alone(
    size: int, flow: Tensor, found: dict[str, Any]
) -> None:
    medians = found["median"][size]
    for pair in (1, 3):
        assert torch.equal(medians[:, pair], median_filter(flow[:, pair], size))
    assert (medians[:, ::2] == -1).all()


@pytest.mark.parametrize("variant", ["opencv-cpu", "opencv-cuda"])
def test_the_warp_is_that_of_torch_beyond_the_border_too(
    variant: str, warped: Case, found: dict[str, Any]
) -> None:
    settings, flow = VARIANTS[variant], warped["flow"]
    image, along_x, along_y = Warper(warped["second"], settings.cubic, settings.border)(flow)
    rho = image - along_x * flow[0] - along_y * flow[1] - warped["first"]
    # Of sums of 16 grey values and products of 9 pixels with 50 grey values.
    expected = torch.stack([rho, along_x, along_y])
    torch.testing.assert_close(found["warped"][variant], expected, atol=5e-4, rtol=0)
    torch.testing.assert_close(found["warped"][variant][1:], expected[1:], atol=2e-5, rtol=0)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    "name",
    ["iterate", "iterate, measured", "median 3", "median 5", "warp, zero border", "warp"],
)
def test_kernels_compile_for_cards_without_one(
    name: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from tad_distill.extract.tvl1 import fused, kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    tile = fused.Tile()
    if name.startswith("median"):
        kernel, constants = kernels.median(int(name[-1])), {"BLOCK": fused.BLOCK_PX}
    elif name.startswith("warp"):
        kernel, constants = kernels.warp, {"ZERO_BORDER": "zero" in name, "BLOCK": fused.BLOCK_PX}
    else:
        kernel, constants = kernels.iterate, {"MEASURE": "measured" in name, "HALO": tile.halo}
        constants |= {"TILE_H": tile.height, "TILE_W": tile.width}
    kinds = dict.fromkeys(("attachment", "tightness", "dual_step", "cubic"), "fp32")
    arrays = ("flow", "dual", "new_flow", "new_dual", "maps", "changes", "first", "frames")
    kinds |= dict.fromkeys(arrays, "*fp32")
    kinds |= {"active": "*i32"} | dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        fn=kernel,
        signature={name: kinds.get(name, "i32") for name in kernel.arg_names},
        constexprs=constants,
    )
    options = {"num_warps": tile.num_warps, "num_stages": 1, "enable_fp_fusion": True}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    # Some cards lend a program no more than this.
    assert made.metadata.shared <= 48 * 1024
