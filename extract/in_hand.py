"""What the loop over videos remembers of one that it has begun."""

from concurrent.futures import Future
from dataclasses import dataclass, field

from tad_distill.extract.committing import Target
from tad_distill.extract.encoding import Encoding
from tad_distill.extract.prefetch import Feed
from tad_distill.extract.trunk import Trunk


@dataclass(kw_only=True)
class InHand:
    """A video between its first frame and its place in the account.

    Attributes:
        feed: Its frames.
        pending: The streams that lack it.
        reason: Why it failed, or "".
        encodings: Its features in the making.
        commits: Under way, since its features were complete; None before.
        num_steps: Of its first stream.
        ended_at: Frames of all videos that had been shown when its last had been; None before.
        wait_s: Seconds spent waiting for its frames.
    """

    feed: Feed
    pending: list[Target]
    reason: str = ""
    encodings: list[tuple[Trunk, Encoding]] = field(default_factory=list)
    commits: list[Future[float]] | None = None
    num_steps: int = 0
    ended_at: int | None = None
    wait_s: float = 0.0

    @property
    def is_encoded(self) -> bool:
        """Whether nothing is left to do for the network."""
        return all(encoding.is_complete for _, encoding in self.encodings)

    @property
    def is_written(self) -> bool:
        """Whether its features are on the disk, in all streams that lacked them."""
        commits = self.commits or []
        ended = all(it.done() and not it.cancelled() and not it.exception() for it in commits)
        return bool(commits) and ended
