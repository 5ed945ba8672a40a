"""Damage to files, by structure and by byte: what a reader of foreign files has to survive."""

import copy
import gzip
import json
from collections.abc import Callable
from random import Random
from typing import Any

Path = tuple[str | int, ...]

# Stand-ins for what ``json.dumps`` cannot write.
HUGE, DEEP, DEEPER = "@huge@", "@deep@", "@deeper@"
WRITTEN = {
    HUGE: "9" * 5000,
    DEEP: "[" * 300 + "]" * 300,
    DEEPER: '{"a":' * 100_000 + "1" + "}" * 100_000,
}

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 10**20, -(10**400), 0.1, -0.0, 1e-320, 1e308, -1e308,
    float("nan"), float("inf"), float("-inf"), "", " ", "0", "1e999", "nan", "-inf", "1_0", "٣",
    "a\nb", "a\x1b[31mb", "\x00", "\ud800", "\u2028", "é" * 300, "x" * 5000, "v.mp4", "Ambiguous",
    "database", [], {}, [[]], [0, 1], [1, 0], [5, 5], [0, 1, 2], [None, None], ["0", "9"],
    {"label": "x"}, {"segment": [0, 1]}, HUGE, DEEP, DEEPER,
)  # fmt: skip


def places(value: Any, at: Path = ()) -> list[Path]:
    """Every place in a document, the document itself left out."""
    found: list[Path] = [at] if at else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*at, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            found += places(item, (*at, i))
    return found


def mutated(document: Any, random: Random) -> Any:
    """A copy of a JSON document with one change of its structure."""
    document = copy.deepcopy(document)
    paths = places(document)
    if not paths:
        return random.choice(HOSTILE)
    path = random.choice(paths)
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    last = path[-1]
    change = random.choice((*[_replace] * 6, _delete, _repeat, _wrap, _swap, _rename))
    change(parent, last, random)
    return document


def _replace(parent: Any, last: Any, random: Random) -> None:
    numbers = (random.randrange(-3, 70), random.uniform(-3, 70), 0, 1e-9, 1e9)
    alike = numbers if isinstance(parent[last], int | float) else ("Jump", "Run", "test", "b", "d")
    parent[last] = random.choice(random.choice((HOSTILE, alike, alike)))


def _delete(parent: Any, last: Any, random: Random) -> None:
    del parent[last]


def _repeat(parent: Any, last: Any, random: Random) -> None:
    if isinstance(parent, list):
        parent += [parent[last]] * random.choice((1, 2, 30))
    else:
        parent[f"{last} again"] = parent[last]


def _wrap(parent: Any, last: Any, random: Random) -> None:
    parent[last] = random.choice(([parent[last]], {"a": parent[last]}, str(parent[last])))


def _swap(parent: Any, last: Any, random: Random) -> None:
    other = random.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    parent[last], parent[other] = parent[other], parent[last]


def _rename(parent: Any, last: Any, random: Random) -> None:
    if isinstance(parent, dict):
        key = random.choice([k for k in HOSTILE if isinstance(k, str)] + [*parent, "fps", "frames"])
        parent[key] = parent.pop(last)


def written(document: Any, random: Random) -> str:
    """A document as JSON text; now and then with a key that stands twice."""
    text = json.dumps(document)
    for name, instead in WRITTEN.items():
        text = text.replace(f'"{name}"', instead)
    if random.random() < 0.05:
        keys = sorted({part.split('"')[-1] for part in text.split('":')[:-1]})
        if len(keys) > 1:
            text = text.replace(f'"{random.choice(keys)}":', f'"{random.choice(keys)}":', 1)
    return text


def damaged(data: bytes, random: Random) -> bytes:
    """A copy of a file with one change of its bytes."""
    at, to = sorted(random.randrange(len(data) + 1) for _ in range(2))
    some = bytes(random.randrange(256) for _ in range(random.randrange(1, 5)))
    small: tuple[Callable[[], bytes], ...] = (
        lambda: data[:at] + data[at + 1 :],
        lambda: data[:at] + some + data[at:],
        lambda: data[:at] + some + data[at + len(some) :],
        lambda: data[:at] + random.choice((b"0", b"9", b".", b"e", b"-", b" ")) + data[at + 1 :],
        lambda: (
            data[:at] + random.choice((b'"', b",", b"{", b"]", b"\n", b"\r", b"\0")) + data[at:]
        ),
    )
    large: tuple[Callable[[], bytes], ...] = (
        lambda: data[:at],
        lambda: data[:at] + data[to:],
        lambda: data[:to] + data[at:],
        lambda: data.decode("utf-8", "replace").encode("utf-16"),
        lambda: b"\xef\xbb\xbf" + data,
        lambda: gzip.compress(data)[: random.choice((None, None, 5, 30))],
        lambda: random.choice((b"", b" \n", "\u3000".encode(), b"\xef\xbb\xbf")),
    )
    return random.choice(random.choice((small, small, small, large)))()
