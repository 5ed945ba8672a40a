"""The loop over videos: from decoded frames to committed features, and the account of it."""

import json
import os
import time
import traceback
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from tad_distill.console import Step, UserError, check_stop, log, progress, warn
from tad_distill.data.durable import WriteError
from tad_distill.data.store import Stream
from tad_distill.data.writer import Writer
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.decoder import VideoBroken
from tad_distill.extract.decoding import Broken
from tad_distill.extract.device import OutOfMemory, choose_device
from tad_distill.extract.encoder import Encoder
from tad_distill.extract.prefetch import Feed, feeds
from tad_distill.extract.trunk import Trunk, share
from tad_distill.extract.video import Decoded

KEPT = "finished videos are in the store"


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
        num_frames: Frames that were encoded.
        seconds: Spent by kind of work; decoding runs beside the rest.
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    num_frames: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))


@dataclass(frozen=True, kw_only=True)
class Target:
    """A stream being filled."""

    encoder: Encoder
    stream: Stream
    writer: Writer


class Loop:
    """Takes the videos in turn.

    Attributes:
        report: What has happened so far.
    """

    def __init__(
        self,
        targets: list[Target],
        config: ExtractConfig,
        *,
        retry_failed: bool,
        lines: IO[str] | None,
    ) -> None:
        """Prepare.

        Args:
            targets: The streams to fill.
            config: How to extract.
            retry_failed: Try again what failed in an earlier run.
            lines: Gets one line of JSON per video.
        """
        self.report = Report()
        self._targets, self._config, self._lines = targets, config, lines
        self._retry_failed = retry_failed
        # By the streams that a video lacks: nearly always all of them.
        self._trunks: dict[tuple[str, ...], list[Trunk]] = {}

    def run(self, files: dict[str, Path], expected_frames: Mapping[str, float]) -> None:
        """Extract every video, by name.

        Args:
            files: The videos.
            expected_frames: How many frames each will have, for the progress.

        Raises:
            Interrupted: A signal asked for a stop.
            WriteError: The store cannot be written.
            OutOfMemory: A run of frames does not fit the GPU.
        """
        num_decoders = self._config.num_decoders or default_decoders(self._config)
        left = {
            video: expected_frames[video]
            for video in files
            if not all(video in target.stream for target in self._targets)
        }
        with (
            progress("extract", sum(left.values())) as step,
            feeds(files.items(), self._config, self._is_wanted, num_decoders) as ahead,
        ):
            for feed in ahead:
                check_stop(KEPT)
                before = self.report.num_frames
                self._take(feed, step)
                if feed.name in left:
                    step(left[feed.name] - (self.report.num_frames - before))

    def _take(self, feed: Feed, step: Step) -> None:
        states = self._states(feed.name, feed.wait_for_hash())
        pending = [target for target, state in states if state == "missing"]
        reason, warnings = "", list[str]()
        try:
            if pending:
                warnings = self._encode(feed, pending, step)
        except VideoBroken as error:
            reason = self._fail(feed, pending, error.broken)
        except (WriteError, OutOfMemory):
            raise
        except UserError as error:  # its features cannot be stored
            reason = self._fail(feed, pending, Broken(str(error), traceback.format_exc()))
        if earlier := [target for target, state in states if state == "failed"]:
            reason = reason or f"failed in an earlier run: {_recorded(earlier[0], feed.name)}"
        self._account(feed, reason, skipped=not pending, warnings=warnings)

    def _encode(self, feed: Feed, pending: list[Target], step: Step) -> list[str]:
        encodings = [trunk.begin() for trunk in self._shared(pending)]
        for chunk in feed.chunks():
            for encoding in encodings:
                encoding.push(chunk)
            self.report.num_frames += len(chunk)
            step(len(chunk))
            check_stop(f"{KEPT}, the one in flight was dropped")
        feats: dict[str, NDArray[np.floating]] = {}
        for encoding in encodings:
            feats |= encoding.finish()
        found = feed.decoded
        assert found is not None
        start = time.perf_counter()
        for target in pending:
            target.writer.commit(
                feed.name,
                feats[target.stream.name],
                fps=found.video_fps,
                duration_s=found.duration_s,
                source_hash=feed.source_hash,
            )
        seconds = {
            "decode_s": feed.decode_s,
            "modality_s": sum(encoding.modality_s for encoding in encodings),
            "network_s": sum(encoding.network_s for encoding in encodings),
            "write_s": time.perf_counter() - start,
        }
        self._log_video(feed, found, len(feats[pending[0].stream.name]), seconds)
        return found.warnings

    def _shared(self, pending: list[Target]) -> list[Trunk]:
        """The networks to run for these streams, kept for the next video."""
        names = tuple(target.stream.name for target in pending)
        if names not in self._trunks:
            self._trunks[names] = share(target.encoder for target in pending)
        return self._trunks[names]

    def _log_video(
        self, feed: Feed, found: Decoded, num_steps: int, seconds: dict[str, float]
    ) -> None:
        for warning in found.warnings:
            warn(f"{feed.path}: {warning}")
        for name, value in seconds.items():
            self.report.seconds[name] += value
        log(
            "video",
            video=feed.name,
            frames=found.num_frames,
            steps=num_steps,
            duration_s=round(found.duration_s, 2),
            **{name: round(value, 2) for name, value in seconds.items()},
        )

    def _fail(self, feed: Feed, pending: list[Target], broken: Broken) -> str:
        for target in pending:
            target.writer.fail(
                feed.name,
                reason=broken.reason,
                source_hash=feed.source_hash,
                traceback=broken.traceback,
            )
        return broken.reason

    def _account(self, feed: Feed, reason: str, *, skipped: bool, warnings: list[str]) -> None:
        if reason:
            status = "failed"
            self.report.failed.append(Failure(feed.name, feed.path, reason))
            log("failed", video=feed.name, path=feed.path, reason=reason)
        elif skipped:
            status = "skipped"
            self.report.skipped.append(feed.name)
        else:
            status = "done"
            self.report.done.append(feed.name)
        if self._lines:
            line = {"video": feed.name, "path": str(feed.path), "status": status}
            line |= {"reason": reason} if reason else {}
            self._lines.write(json.dumps(line | {"warnings": warnings}) + "\n")

    def _states(self, video: str, source_hash: str) -> list[tuple[Target, str]]:
        states: list[tuple[Target, str]] = []
        for target in self._targets:
            state: str = target.writer.state(video, source_hash)
            if state == "failed" and self._retry_failed:
                state = "missing"
            states.append((target, state))
        return states

    def _is_wanted(self, video: str, source_hash: str) -> bool:
        return any(state == "missing" for _, state in self._states(video, source_hash))


def default_decoders(config: ExtractConfig) -> int:
    """All cores but one beside a GPU; on the CPU most are left to the network."""
    num_cores = len(os.sched_getaffinity(0))
    on_gpu = choose_device(config).type == "cuda"
    return max(1, num_cores - 1 if on_gpu else num_cores // 4)


def _recorded(target: Target, video: str) -> str:
    reasons = [failure.reason for failure in target.stream.failed() if failure.video == video]
    return f"{reasons[0] if reasons else 'reason not recorded'}; try again with --retry-failed"
