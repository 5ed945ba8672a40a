"""The account of an extraction: what became of each video, and where the time went."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tad_distill.console import log, warn
from tad_distill.extract.prefetch import Feed


@dataclass(frozen=True)
class Failure:
    """A video without features in at least one stream, and why."""

    video: str
    path: Path
    reason: str


@dataclass
class Report:
    """How an extraction ended, or stands.

    Attributes:
        done: Videos that got features in this run.
        skipped: Videos that had them all before.
        failed: Videos that have none in some stream, those of earlier runs included.
        num_frames: Frames that were shown to the networks.
        seconds: Spent by kind of work: ``decode_s`` in the decoders and ``write_s`` in the threads
            that commit, beside everything else; ``wait_s`` for decoded frames, ``modality_s`` and
            ``network_s``, which on a GPU is most of it waiting as well, one after the other.
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    num_frames: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def account(
        self, feed: Feed, reason: str, *, skipped: bool, warnings: list[str], lines: IO[str] | None
    ) -> None:
        """Enter a video.

        Args:
            feed: The video.
            reason: Why it failed, or "".
            skipped: Whether all its features were there before.
            warnings: What is less than it should be about it.
            lines: Gets a line of JSON.
        """
        if reason:
            status = "failed"
            self.failed.append(Failure(feed.name, feed.path, reason))
            log("failed", video=feed.name, path=feed.path, reason=reason)
        elif skipped:
            status = "skipped"
            self.skipped.append(feed.name)
        else:
            status = "done"
            self.done.append(feed.name)
        if lines:
            line = {"video": feed.name, "path": str(feed.path), "status": status}
            line |= {"reason": reason} if reason else {}
            lines.write(json.dumps(line | {"warnings": warnings}) + "\n")

    def time(self, feed: Feed, num_steps: int, seconds: Mapping[str, float]) -> None:
        """Log what a finished video was and took."""
        found = feed.decoded
        assert found is not None
        for warning in found.warnings:
            warn(f"{feed.path}: {warning}")
        for name, value in seconds.items():
            self.seconds[name] += value
        log(
            "video",
            video=feed.name,
            frames=found.num_frames,
            steps=num_steps,
            duration_s=round(found.duration_s, 2),
            **{name: round(value, 2) for name, value in seconds.items()},
        )
