"""TV-L1's iterations and its median as Triton kernels: several iterations per pass over memory.

One program works on a tile of one pair. It reads 9 numbers a pixel (flow, dual variable, gradient,
offset), goes on for some iterations with its neighbours' numbers out of shared memory, and writes
6. Without what is around it a tile goes wrong from its rim inwards, one pixel an iteration, so it
is wider by ``HALO`` than what it writes, on every side that is no border of the image.

What follows is arithmetic, not measured. With the rims out of a cache, 36 bytes are read and 24
written per pixel and launch: 12 per pixel and iteration where a launch does five. A card of 4.8
TB/s (H200) so allows 4e11 pixel-iterations/s; it would allow 8e10 to one launch per iteration, and
to the 18 passes of :mod:`.eager`, 424 bytes, 1.1e10. A pair of 224x224 has 1.86e8 of them when all
7500 iterations run: 2150, 430 and 60 pairs/s at most. Memory then is no longer the limit:

- Shared memory carries 64 bytes per pixel and iteration, eight numbers written and read, at 128 a
  cycle: 4.5e11/s on 132 multiprocessors at 1.7 GHz.
- Compiled for sm_90 an iteration has 90 instructions a pixel, of which 128 start in a cycle:
  3.2e11/s. Of the pixels of tiles of 64x64, 62 % count at the five scales of 224x224, so at most
  1070 pairs/s, less what the 18 barriers of an iteration cost.

Batches whose 60 bytes a pixel fit a second-level cache (50 MB: 16 pairs) would therefore gain
little, and lose it to launches of some 30 microseconds that take Python as long to start.

The median reads each number once (25 times, but 24 of them from a cache) and writes it: 16 bytes a
pixel for both parts of the flow per 30 iterations. Each of the exchanges that torch would make of
it passes 24 bytes through memory. The warp has 36 bytes a pixel (its 16 taps from a cache) where
torch's table of taps, weights and indices come to some 1100; a warp of 40 iterations, of which most
pairs need no more, is 480.
"""

import linecache
from collections.abc import Callable
from functools import cache
from typing import Any

import triton
import triton.language as tl

from tad_distill.extract.tvl1.median import SORTS, network


@triton.jit
def _pair(array, at, num_all_px, mask):
    """Two maps that lie behind each other."""
    one = tl.load(array + at, mask=mask, other=0.0)
    return one, tl.load(array + num_all_px + at, mask=mask, other=0.0)


@triton.jit
def _put_pair(array, at, num_all_px, mask, one, other):
    tl.store(array + at, one, mask=mask)
    tl.store(array + num_all_px + at, other, mask=mask)


@triton.jit
def _share(place, start, size, TILE: tl.constexpr, HALO: tl.constexpr):
    """Which places along one side a tile writes: all but the rims that its neighbours write."""
    first = tl.where(start == 0, 0, start + HALO)
    end = tl.where(start + TILE >= size, size, start + TILE - HALO)
    return (place >= first) & (place < end)


@triton.jit
def _divergence(along_x, along_y, x, y, pixel, TILE_W: tl.constexpr):
    left, above = tl.maximum(pixel - 1, 0), tl.maximum(pixel - TILE_W, 0)
    before_x = tl.where(x > 0, tl.gather(along_x, left, 0), 0.0)
    before_y = tl.where(y > 0, tl.gather(along_y, above, 0), 0.0)
    return along_x - before_x + along_y - before_y


@triton.jit
def _dual_step(part, along_x, along_y, step_x, step_y, pixel, TILE_W: tl.constexpr):
    """As :meth:`.piece.Piece.dual_step`, for one part of the flow."""
    last: tl.constexpr = part.shape[0] - 1
    rise_x = (tl.gather(part, tl.minimum(pixel + 1, last), 0) - part) * step_x
    rise_y = (tl.gather(part, tl.minimum(pixel + TILE_W, last), 0) - part) * step_y
    shrink = 1 / (1 + tl.sqrt(rise_x * rise_x + rise_y * rise_y))
    return (along_x + rise_x) * shrink, (along_y + rise_y) * shrink


# Triton would compile anew for numbers that are 1 or divide by 16: a second each, for nothing here.
@triton.jit(
    do_not_specialize=("num_all_px", "height", "width", "num_tiles", "num_tiles_x", "num_steps")
)
def iterate(
    flow,
    dual,
    new_flow,
    new_dual,
    maps,
    active,
    changes,
    num_all_px,
    height,
    width,
    num_tiles,
    num_tiles_x,
    num_steps,
    attachment,
    tightness,
    dual_step,
    MEASURE: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    HALO: tl.constexpr,
):
    """``num_steps`` iterations, in arithmetic and order those of :class:`.piece.Piece`.

    Program ``n`` does tile ``n % num_tiles`` of the pair ``active[n // num_tiles]``. All arrays are
    contiguous: ``flow`` ``(2, B, H, W)``, ``dual`` ``(2, 2, B, H, W)``, first along x, then along
    y; ``maps`` ``(3, B, H, W)``: rho where the flow is zero, then the gradient of the warped I1;
    ``changes`` ``(num_steps, num_active, num_tiles)``: sums of squares over theta squared.
    """
    nth, tile = tl.program_id(0) // num_tiles, tl.program_id(0) % num_tiles
    pixel = tl.arange(0, TILE_H * TILE_W)
    top = tile // num_tiles_x * (TILE_H - 2 * HALO)
    start = tile % num_tiles_x * (TILE_W - 2 * HALO)
    y, x = top + pixel // TILE_W, start + pixel % TILE_W
    inside = (y < height) & (x < width)
    own = _share(y, top, height, TILE_H, HALO) & _share(x, start, width, TILE_W, HALO)
    at = tl.load(active + nth) * height * width + y * width + x
    u, v = _pair(flow, at, num_all_px, inside)
    ux, vx = _pair(dual, at, num_all_px, inside)
    uy, vy = _pair(dual + 2 * num_all_px, at, num_all_px, inside)
    offset = tl.load(maps + at, mask=inside, other=0.0)
    slope_x, slope_y = _pair(maps + num_all_px, at, num_all_px, inside)
    # 1.1920929e-07 is eager.SMALLEST.
    square = tl.maximum(slope_x * slope_x + slope_y * slope_y, 1.1920929e-07)
    inverse = (1 / tightness) / square
    step_x = tl.where(x < width - 1, dual_step, 0.0)
    step_y = tl.where(y < height - 1, dual_step, 0.0)
    for step in range(num_steps):
        drift = (offset + slope_x * u + slope_y * v) * inverse
        drift = tl.minimum(tl.maximum(drift, -attachment), attachment)
        du = _divergence(ux, uy, x, y, pixel, TILE_W) - slope_x * drift
        dv = _divergence(vx, vy, x, y, pixel, TILE_W) - slope_y * drift
        u += tightness * du
        v += tightness * dv
        if MEASURE:
            change = tl.sum(tl.where(own, du * du + dv * dv, 0.0))
            tl.store(changes + step * tl.num_programs(0) + tl.program_id(0), change)
        ux, uy = _dual_step(u, ux, uy, step_x, step_y, pixel, TILE_W)
        vx, vy = _dual_step(v, vx, vy, step_x, step_y, pixel, TILE_W)
    _put_pair(new_flow, at, num_all_px, own, u, v)
    _put_pair(new_dual, at, num_all_px, own, ux, vx)
    _put_pair(new_dual + 2 * num_all_px, at, num_all_px, own, uy, vy)


@triton.jit
def _cubic_weight(tap: tl.constexpr, offset, a):
    """One of :func:`.warp.cubic_weights`."""
    near = 1 - offset
    if tap == 0:
        return a * offset * near * near
    if tap == 1:
        return ((a + 2) * offset - (a + 3)) * offset * offset + 1
    if tap == 2:
        return ((a + 2) * near - (a + 3)) * near * near + 1
    return a * near * offset * offset


@triton.jit(do_not_specialize=("num_all_px", "height", "width"))
def warp(
    first,
    frames,
    flow,
    maps,
    num_all_px,
    height,
    width,
    cubic,
    ZERO_BORDER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What :func:`iterate` reads, from the flow so far; as :class:`.warp.Warper`.

    ``first`` ``(B, H, W)`` is I0, ``frames`` ``(3, B, H, W)`` I1 and its gradient; ``flow`` and
    ``maps`` are as there. Program ``n`` does the ``n``-th ``BLOCK`` of all pixels.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < num_all_px
    u = tl.load(flow + at, mask=inside, other=0.0)
    v = tl.load(flow + num_all_px + at, mask=inside, other=0.0)
    pixel = at % (height * width)
    pair = at - pixel
    along_x = tl.minimum(tl.maximum(pixel % width + u, -2.0), width + 1.0)
    along_y = tl.minimum(tl.maximum(pixel // width + v, -2.0), height + 1.0)
    first_x, first_y = tl.floor(along_x), tl.floor(along_y)
    offset_x, offset_y = along_x - first_x, along_y - first_y
    first_x, first_y = first_x.to(tl.int32) - 1, first_y.to(tl.int32) - 1
    image = tl.zeros((BLOCK,), tl.float32)
    slope_x = tl.zeros((BLOCK,), tl.float32)
    slope_y = tl.zeros((BLOCK,), tl.float32)
    for i in tl.static_range(4):
        x = tl.minimum(tl.maximum(first_x + i, 0), width - 1)
        weight_x = _cubic_weight(i, offset_x, cubic)
        for j in tl.static_range(4):
            y = tl.minimum(tl.maximum(first_y + j, 0), height - 1)
            there = inside
            if ZERO_BORDER:
                there = inside & (x == first_x + i) & (y == first_y + j)
            weight = weight_x * _cubic_weight(j, offset_y, cubic)
            tap = frames + pair + y * width + x
            along_x, along_y = _pair(tap + num_all_px, 0, num_all_px, there)
            image += weight * tl.load(tap, mask=there, other=0.0)
            slope_x += weight * along_x
            slope_y += weight * along_y
    rho = image - slope_x * u - slope_y * v - tl.load(first + at, mask=inside, other=0.0)
    tl.store(maps + at, rho, mask=inside)
    tl.store(maps + num_all_px + at, slope_x, mask=inside)
    tl.store(maps + 2 * num_all_px + at, slope_y, mask=inside)


@cache
def median(size: int) -> Any:
    """The kernel that puts the median of ``size`` x ``size`` pixels in the place of each.

    Its text is written here, for the language has no lists to run the network of :mod:`.median` on.
    It takes pointers to flow and new flow ``(2, B, H, W)`` and to the active pairs, then the
    numbers of all pixels of a part and of blocks in an image, height and width, and the size of a
    block; program ``n`` does block ``n % num_blocks`` of image ``n // num_blocks``, of which there
    are two for each active pair.
    """
    names = [f"v{n}" for n in range(size * size)]
    lines = [
        f"def median_{size}(flow, new_flow, active, num_all_px, num_blocks, height, width, "
        "BLOCK: tl.constexpr):",
        "image, block = tl.program_id(0) // num_blocks, tl.program_id(0) % num_blocks",
        "pixel = block * BLOCK + tl.arange(0, BLOCK)",
        "inside = pixel < height * width",
        "y, x = pixel // width, pixel % width",
        "at = (image % 2) * num_all_px + tl.load(active + image // 2) * height * width",
    ]
    for step in range(-(size // 2), size // 2 + 1):
        row, column = f"y{step + size // 2}", f"x{step + size // 2}"
        lines.append(f"{row} = at + tl.minimum(tl.maximum(y + {step}, 0), height - 1) * width")
        lines.append(f"{column} = tl.minimum(tl.maximum(x + {step}, 0), width - 1)")
    for n, name in enumerate(names):
        place = f"flow + y{n // size} + x{n % size}"
        lines.append(f"{name} = tl.load({place}, mask=inside, other=0.0)")
    sorts = [(a * size + c, b * size + c, True, True) for c in range(size) for a, b in SORTS[size]]
    for low, high, low_needed, high_needed in [*sorts, *network(size)]:
        a, b = names[low], names[high]
        smaller, larger = f"tl.minimum({a}, {b})", f"tl.maximum({a}, {b})"
        if low_needed and high_needed:
            lines.append(f"{a}, {b} = {smaller}, {larger}")
        else:
            lines.append(f"{a} = {smaller}" if low_needed else f"{b} = {larger}")
    lines.append(f"tl.store(new_flow + at + pixel, {names[size * size // 2]}, mask=inside)")
    make = triton.jit(do_not_specialize=("num_all_px", "num_blocks", "height", "width"))
    return make(_function(f"median_{size}", "\n    ".join(lines) + "\n"))


def _function(name: str, source: str) -> Callable[..., None]:
    """What ``source`` defines, where Triton finds the text again."""
    place = f"<{__name__} {name}>"
    linecache.cache[place] = (len(source), None, source.splitlines(keepends=True), place)
    defined: dict[str, Any] = {"__name__": __name__, "tl": tl}
    exec(compile(source, place, "exec"), defined)
    return defined[name]
