"""The iterations of TV-L1 as machine code: ``kernel.cpp``, compiled at its first use.

A C++ compiler is not needed to use this package; without one :mod:`.eager` does the same in torch.
What was compiled is kept in the user's cache folder, for this source, compiler and processor.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tad_distill.console import check_stop, log
from tad_distill.extract.tvl1.eager import KEPT
from tad_distill.extract.tvl1.median import SORTS, network
from tad_distill.extract.tvl1.settings import Settings

SOURCE = Path(__file__).with_name("kernel.cpp")
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd")
LINK = ("-shared", "-fPIC")
# Compilers differ in how they are told to use all that this processor has.
TUNING = (("-march=native",), ("-mcpu=native",), ())
TIMEOUT_S = 120

_lock = threading.Lock()


class _Settings(ctypes.Structure):
    """As in ``kernel.cpp``."""

    _fields_ = [
        *((name, ctypes.c_float) for name in ("attachment", "tightness", "dual_step", "cubic")),
        ("limit", ctypes.c_double),
        *(
            (name, ctypes.c_int)
            for name in (
                *("num_warps", "num_outer", "num_inner", "check_every"),
                *("predicted", "median", "zero_border"),
            )
        ),
    ]


def is_available() -> bool:
    """Whether the code is compiled, or could be; the first call may compile it."""
    with _lock:
        return _library() is not None


def solve(first: Tensor, second: Tensor, flow: Tensor, settings: Settings) -> Tensor:
    """As :func:`tad_distill.extract.tvl1.eager.solve`, on the processor's cores.

    Threads as many as torch has; a pair's flow does not depend on their number.
    """
    library = _library()
    assert library is not None
    num, height, width = first.shape
    first, second = first.contiguous(), second.contiguous()
    out = flow.transpose(0, 1).contiguous()
    given = _Settings(
        attachment=settings.attachment,
        tightness=settings.tightness,
        dual_step=settings.dual_step,
        cubic=settings.cubic,
        limit=settings.epsilon**2 * height * width,
        num_warps=settings.num_warps,
        num_outer=settings.num_outer,
        num_inner=settings.num_inner,
        check_every=settings.check_every,
        predicted=settings.stop == "predicted",
        median=settings.median,
        zero_border=settings.border == "zero",
    )

    def one(pair: int) -> None:
        check_stop(KEPT)
        library.solve(
            first[pair].data_ptr(),
            second[pair].data_ptr(),
            out[pair].data_ptr(),
            height,
            width,
            ctypes.byref(given),
        )

    num_threads = min(num, torch.get_num_threads())
    if num_threads > 1:
        with ThreadPoolExecutor(num_threads) as executor:
            list(executor.map(one, range(num)))
    else:
        for pair in range(num):
            one(pair)
    return out.transpose(0, 1)


@cache
def _library() -> ctypes.CDLL | None:
    compiler = _compiler()
    if compiler is None:
        log("tvl1", code="torch", reason="no C++ compiler found")
        return None
    source = _source()
    key = "\0".join([source, *FLAGS, *LINK, compiler, _processor()])
    name = f"tvl1-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    try:
        with tempfile.TemporaryDirectory() as scratch:
            path = (_cache_folder() or Path(scratch)) / name
            library = _load(path)
            if library is None:
                start = time.perf_counter()
                _compile(compiler, source, path)
                log("tvl1", code="compiled", by=compiler, seconds=time.perf_counter() - start)
                library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or str(error)
        reason = " ".join(output.split())[:300]
        log("tvl1", code="torch", reason=f"{compiler} failed: {reason}")
        return None
    library.solve.argtypes = [*[ctypes.c_void_p] * 3, *[ctypes.c_int] * 2, ctypes.c_void_p]
    library.solve.restype = ctypes.c_int
    return library


def _load(path: Path) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # not there yet, or damaged
        return None


def _compiler() -> str | None:
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _cache_folder() -> Path | None:
    """Where compiled code is kept; None where nothing can be."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "tad_distill"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home folder, or none that can be written
        return None
    return folder if os.access(folder, os.W_OK) else None


def _processor() -> str:
    """What compiled code may rely on: home folders are shared by machines of several kinds."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    able = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return "\n".join([platform.system(), platform.machine(), platform.processor(), *sorted(able)])


def _compile(compiler: str, source: str, path: Path) -> None:
    """Compile to ``path``, which comes into being complete or not at all.

    Raises:
        SubprocessError: The compiler refused, or took too long.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tvl1-") as scratch:
        text, made = Path(scratch) / "kernel.cpp", Path(scratch) / path.name
        text.write_text(source)
        for tuning in TUNING:
            command = [compiler, *FLAGS, *tuning, *LINK, str(text), "-o", str(made)]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
            if ended.returncode == 0:
                made.replace(path)
                return
    raise subprocess.CalledProcessError(ended.returncode, command, ended.stdout, ended.stderr)


def _source() -> str:
    """The kernel with the median networks written out."""
    parts = []
    for size in (3, 5):
        sort = [f"both(v[{a}], v[{b}]);" for a, b in SORTS[size]]
        finish = []
        for a, b, low, high in network(size):
            name = "both" if low and high else "low" if low else "high"
            finish.append(f"{name}(v[{a}], v[{b}]);")
        parts.append(
            f"template <> struct Network<{size}> {{\n"
            f"static inline void sort(Lanes* v) {{\n{chr(10).join(sort)}\n}}\n"
            f"static inline void finish(Lanes* v) {{\n{chr(10).join(finish)}\n}}\n}};\n"
        )
    return SOURCE.read_text().replace("// NETWORKS\n", "".join(parts))
