"""What the videos of an extraction claim to be, asked once and kept in the store's list."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from queue import SimpleQueue
from statistics import median

from tad_distill import units
from tad_distill.console import check_stop, progress
from tad_distill.data import manifest
from tad_distill.data.manifest import Listed
from tad_distill.data.store import Store
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.decoder import DecoderProcess, VideoBroken

# Containers opened at the same time: they wait for the disk more than they compute.
NUM_OPENERS = 4


def survey(files: Mapping[str, Path], store: Path, config: ExtractConfig) -> dict[str, Listed]:
    """Open every file that the store's list does not know, or that has changed since.

    Args:
        files: By name.
        store: Made if it does not exist; its list is extended.
        config: For ``decode_timeout_s``.

    Returns:
        What the files claim, by name. A file that cannot be opened claims nothing; it is reported
        when its turn comes.

    Raises:
        Interrupted: A signal asked for a stop; nothing was written.
    """
    made = Store.create(store)
    known = manifest.read(made.path)
    found, new = {}, {}
    for video, path in files.items():
        facts = _as_it_stands(path)
        old = known.get(video)
        if old and (old.num_bytes, old.modified_ns) == (facts.num_bytes, facts.modified_ns):
            found[video] = old
        else:
            new[video] = facts
    if new:
        found |= dict(_opened(new, config.decode_timeout_s))
        manifest.write(made.path, known | found)
    return {video: found[video] for video in files}


def expected_frames(videos: Mapping[str, Listed], fps: float | None) -> dict[str, float]:
    """How many frames each video will have at a rate, or at its own; 0 where it does not say."""
    return {
        video: facts.duration_s * fps if fps and facts.duration_s else float(facts.num_frames or 0)
        for video, facts in videos.items()
    }


def share(videos: Mapping[str, Listed], unit: units.Unit) -> list[str]:
    """The names in one share of the work, shared out by duration.

    A video that does not say how long it is counts by its size, at the median bytes per second.
    """
    rates = [facts.num_bytes / facts.duration_s for facts in videos.values() if facts.duration_s]
    bytes_per_s = median(rates) if rates else 1.0
    durations = {
        video: facts.duration_s or facts.num_bytes / bytes_per_s for video, facts in videos.items()
    }
    return units.balanced(durations, unit.count)[unit.number]


def _as_it_stands(path: Path) -> Listed:
    try:
        facts = path.stat()
    except OSError:  # reported when its turn comes
        return Listed(path=str(path), num_bytes=0, modified_ns=0, duration_s=None, num_frames=None)
    return Listed(
        path=str(path),
        num_bytes=facts.st_size,
        modified_ns=facts.st_mtime_ns,
        duration_s=None,
        num_frames=None,
    )


def _opened(videos: Mapping[str, Listed], timeout_s: float) -> Iterator[tuple[str, Listed]]:
    num_openers = min(NUM_OPENERS, len(videos))
    with ExitStack() as stack, ThreadPoolExecutor(num_openers) as threads:
        idle: SimpleQueue[DecoderProcess] = SimpleQueue()
        for _ in range(num_openers):
            idle.put(stack.enter_context(closing(DecoderProcess(timeout_s))))

        def claimed(item: tuple[str, Listed]) -> tuple[str, Listed]:
            video, facts = item
            decoder = idle.get()
            try:
                claims = decoder.claims(Path(facts.path))
            except VideoBroken:
                return video, facts
            finally:
                idle.put(decoder)
            return video, Listed(
                path=facts.path,
                num_bytes=facts.num_bytes,
                modified_ns=facts.modified_ns,
                duration_s=claims.duration_s,
                num_frames=claims.num_frames,
            )

        with progress("open videos", len(videos)) as step:
            try:
                for answer in threads.map(claimed, videos.items()):
                    check_stop("the videos were not all opened yet, nothing was extracted")
                    step(1)
                    yield answer
            finally:
                threads.shutdown(cancel_futures=True)
