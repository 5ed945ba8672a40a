"""What a stream holds, in numbers."""

import json
from collections.abc import Collection
from typing import Any

from tad_distill.data import catalog
from tad_distill.data.stream import Stream

COLUMNS = tuple("stream videos failed left steps bytes parts shape dtype timing".split())


def summarise(stream: Stream, listed: Collection[str] = ()) -> dict[str, Any]:
    """The facts about a stream: counts, what made it, and what failed.

    Args:
        stream: Any.
        listed: The videos that it is to hold, see ``manifest``; what is left counts from them.
    """
    spec, found = stream.spec, stream.catalog
    failures = stream.failed()
    ended = {*found.names(), *(failure.video for failure in failures)}
    rate = f"{spec.fps:g} fps" if spec.fps else "own fps"
    return {
        "stream": spec.stream,
        "videos": len(found),
        "steps": int(found.columns["len"].sum()),
        "bytes": sum(found.sizes),
        "failed": len(failures),
        "left": sum(video not in ended for video in listed),
        "parts": sum(name.startswith(catalog.PARTS) for name in found.files),
        "shards": sum(name.startswith(catalog.SHARDS) for name in found.files),
        "superseded": found.num_superseded,
        "shape": "x".join(map(str, spec.shape)),
        "dtype": spec.dtype,
        "timing": f"{spec.clip_frames:g}/{spec.stride_frames:g} frames at {rate}",
        "spec_hash": spec.hash,
        "spec": json.loads(spec.json()),
        "failures": [
            {"video": failure.video, "reason": failure.reason, "unit": failure.unit}
            for failure in failures
        ],
    }


def list_videos(stream: Stream) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """The videos of a stream: column names, and a row per video."""
    columns = ("video", "steps", "fps", "duration_s", "source_hash", "file")
    found = stream.catalog
    rows: list[tuple[object, ...]] = []
    for row, video in enumerate(found.names()):
        entry = stream.entry(video)
        name = found.files[int(found.columns["file"][row])]
        facts = (entry.num_steps, entry.fps, entry.duration_s, entry.source_hash, name)
        rows.append((video, *facts))
    return columns, rows
