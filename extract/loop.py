"""The loop over videos: from decoded frames to committed features, in the order of the list."""

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from tad_distill.console import Interrupted, Step, UserError, check_stop, progress
from tad_distill.data.durable import WriteError
from tad_distill.extract.committing import KEPT, Committer, Target, broken
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.decoder import VideoBroken
from tad_distill.extract.decoding import Broken
from tad_distill.extract.device import (
    OutOfMemory,
    Uploads,
    allocator,
    choose_device,
    keep_memory,
)
from tad_distill.extract.encoder import Encoder
from tad_distill.extract.in_hand import InHand
from tad_distill.extract.prefetch import Feed, feeds
from tad_distill.extract.report import Report
from tad_distill.extract.trunk import Trunk, share

# Videos whose last runs may wait for a full batch, and finished ones that wait for the disk.
MOST_OPEN, MOST_UNWRITTEN = 32, 2
# Batches that may go by while they wait: what waits is lost if the process is killed.
MOST_BATCHES = 4


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
        self._device = choose_device(config)
        self._upload, self._committer = Uploads(self._device), Committer()
        # By the streams that a video lacks: nearly always all of them.
        self._trunks: dict[tuple[str, ...], list[Trunk]] = {}
        self._in_hand: deque[InHand] = deque()

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
        if self._device.type == "cpu":
            keep_memory()
        pinned = allocator(self._device)
        shown = framed_for(self._config, [target.encoder for target in self._targets])
        try:
            with (
                progress("extract", sum(left.values())) as step,
                feeds(files.items(), shown, self._is_wanted, num_decoders, pinned) as ahead,
                self._committer,
            ):
                for feed in ahead:
                    check_stop(KEPT)
                    before = self.report.num_frames
                    self._take(feed, step)
                    self._advance(MOST_UNWRITTEN)
                    if feed.name in left:
                        step(left[feed.name] - (self.report.num_frames - before))
                self._flush()
                self._advance(0)
        except Interrupted:
            self._account_for_the_written()
            raise

    def _take(self, feed: Feed, step: Step) -> None:
        states = self._states(feed.name, feed.wait_for_hash())
        video = InHand(
            feed=feed, pending=[target for target, state in states if state == "missing"]
        )
        self._in_hand.append(video)
        if video.pending:
            try:
                self._encode(video, step)
            except VideoBroken as error:
                self._fail(video, error.broken)
            except (WriteError, OutOfMemory):
                raise
            except UserError as error:  # its frames cannot be shown to the networks
                self._fail(video, broken(error))
        if earlier := [target for target, state in states if state == "failed"]:
            recorded = f"failed in an earlier run: {_recorded(earlier[0], feed.name)}"
            video.reason = video.reason or recorded

    def _encode(self, video: InHand, step: Step) -> None:
        trunks = self._shared(video.pending)
        video.encodings = [(trunk, trunk.begin()) for trunk in trunks]
        for chunk in self._timed(video):
            frames = self._upload(chunk)
            for _, encoding in video.encodings:
                encoding.push(frames)
            self.report.num_frames += len(chunk)
            step(len(chunk))
            check_stop(f"{KEPT}, those in flight were dropped")
            # A long video must not keep back the one whose last runs went with its first.
            self._advance(MOST_UNWRITTEN)
        for _, encoding in video.encodings:
            encoding.end()
        video.ended_at = self.report.num_frames

    def _timed(self, video: InHand) -> Iterator[NDArray[np.uint8]]:
        chunks = iter(video.feed.chunks())
        while True:
            start = time.perf_counter()
            chunk = next(chunks, None)
            video.wait_s += time.perf_counter() - start
            if chunk is None:
                return
            yield chunk

    def _shared(self, pending: list[Target]) -> list[Trunk]:
        """The networks to run for these streams, kept for the next video."""
        names = tuple(target.stream.name for target in pending)
        if names not in self._trunks:
            self._trunks[names] = share(target.encoder for target in pending)
        return self._trunks[names]

    def _flush(self) -> None:
        for trunk in chain.from_iterable(self._trunks.values()):
            trunk.flush()

    def _advance(self, most_unwritten: int) -> None:
        """Commit what is encoded and account for what is committed, in the order of the list."""
        if len(self._in_hand) > MOST_OPEN or self._has_waited_long():
            self._flush()
        for video in self._in_hand:
            if video.commits is None:
                if not video.is_encoded:
                    break
                self._commit(video)
        while self._in_hand and (commits := self._in_hand[0].commits) is not None:
            written = all(commit.done() for commit in commits)
            num_unwritten = sum(bool(video.commits) for video in self._in_hand)
            if not written and num_unwritten <= most_unwritten:
                break
            self._account(self._in_hand.popleft())
            if self._in_hand:
                check_stop(KEPT)

    def _has_waited_long(self) -> bool:
        oldest = next((video for video in self._in_hand if video.commits is None), None)
        if oldest is None or oldest.ended_at is None or oldest.is_encoded:
            return False
        waited_frames = self.report.num_frames - oldest.ended_at
        return waited_frames >= MOST_BATCHES * self._config.batch_frames

    def _account_for_the_written(self) -> None:
        """What was written before a stop is in the store, so it has to be in the log."""
        for video in self._in_hand:
            if video.is_written:
                self._account(video)

    def _commit(self, video: InHand) -> None:
        video.commits = []
        if not video.encodings:
            return
        feats: dict[str, NDArray[np.floating]] = {}
        try:
            for _, encoding in video.encodings:
                feats |= encoding.features()
        except UserError as error:  # its features cannot be stored
            self._fail(video, broken(error))
            return
        video.num_steps = len(feats[video.pending[0].stream.name])
        video.commits = [
            self._committer.commit(target, video.feed, feats[target.stream.name])
            for target in video.pending
        ]

    def _account(self, video: InHand) -> None:
        write_s, feed = 0.0, video.feed
        try:
            for commit in video.commits or ():
                write_s += commit.result()
        except WriteError:
            raise
        except UserError as error:  # its features cannot be stored
            self._fail(video, broken(error))
        if video.encodings:
            seconds = {
                "decode_s": feed.decode_s,
                "wait_s": video.wait_s,
                "modality_s": sum(encoding.modality_s for _, encoding in video.encodings),
                "network_s": sum(encoding.network_s for _, encoding in video.encodings),
                "write_s": write_s,
            }
            self.report.time(feed, video.num_steps, seconds)
        warnings = feed.decoded.warnings if feed.decoded and not video.reason else []
        skipped = not video.pending
        self.report.account(
            feed, video.reason, skipped=skipped, warnings=warnings, lines=self._lines
        )

    def _fail(self, video: InHand, why: Broken) -> None:
        for trunk, encoding in video.encodings:
            trunk.drop(encoding)
        video.encodings, video.reason = [], why.reason
        for target in video.pending:
            target.writer.fail(
                video.feed.name,
                reason=why.reason,
                source_hash=video.feed.source_hash,
                traceback=why.traceback,
            )

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


def framed_for(config: ExtractConfig, encoders: Sequence[Encoder]) -> ExtractConfig:
    """As the decoders are to frame: whole frames where a stream's view is not in their middle."""
    middle = all(encoder.view.crop == "centre" for encoder in encoders)
    return config if middle else replace(config, crop_px=0)


def default_decoders(config: ExtractConfig) -> int:
    """All cores but one beside a GPU; on the CPU most are left to the network."""
    num_cores = len(os.sched_getaffinity(0))
    on_gpu = choose_device(config).type == "cuda"
    return max(1, num_cores - 1 if on_gpu else num_cores // 4)


def _recorded(target: Target, video: str) -> str:
    reasons = [failure.reason for failure in target.stream.failed() if failure.video == video]
    return f"{reasons[0] if reasons else 'reason not recorded'}; try again with --retry-failed"
