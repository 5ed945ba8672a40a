"""When a pair is done with a warp: its flow has almost ceased to change."""

from collections.abc import Sequence

from torch import Tensor

from tad_distill.extract.tvl1.settings import Settings


class Stopping:
    """Decides for B pairs that are iterated together, each on its own.

    Attributes:
        num_iterations: Finished so far.
    """

    def __init__(self, num_pairs: int, num_px: int, settings: Settings) -> None:
        """Start a warp.

        Args:
            num_pairs: B.
            num_px: Pixels of a frame.
            settings: The variant.
        """
        self._settings = settings
        self._limit = settings.epsilon**2 * num_px
        self._expected = [0.0] * num_pairs  # change that OpenCV's CUDA version predicts
        self.num_iterations = 0

    def wants_change(self) -> bool:
        """Whether the coming iteration's change has to be measured."""
        if self._limit == 0:
            return False
        if self._settings.stop == "predicted":
            # As there, iterations count from 0.
            return self.num_iterations % 2 == 1 and min(self._expected) < self._limit
        return (self.num_iterations + 1) % self._settings.check_every == 0

    def finish(self, change: Sequence[float] | None) -> list[int]:
        """End an iteration.

        Args:
            change: ``(B,)`` sums of squares of what was added to the flow; None: not measured.

        Returns:
            Which pairs are done, as positions; they are forgotten here.
        """
        self.num_iterations += 1
        if self._settings.stop == "every":
            return [i for i, value in enumerate(change or ()) if value <= self._limit]
        done = []
        for i, expected in enumerate(self._expected):
            if change is None or not expected < self._limit:
                self._expected[i] = expected - self._limit
            elif change[i] <= self._limit:
                done.append(i)
            else:
                self._expected[i] = change[i]
        self._expected = [x for i, x in enumerate(self._expected) if i not in done]
        return done


def ends_within(
    stopping: Stopping, changes: Tensor | None, num_steps: int, num_pairs: int
) -> dict[int, int]:
    """End iterations that were done in one launch, each by the rules of ``stopping``.

    Args:
        stopping: Of the ``num_pairs`` pairs that are still iterated.
        changes: ``(num_steps, num_pairs, tiles)`` squared changes; None: never asked for. They are
            read back, for which a GPU has to be waited for, when ``stopping`` first wants one.
        num_steps: Iterations of the launch.
        num_pairs: B.

    Returns:
        Position of each pair that is done, and after how many of the iterations it was.
    """
    here, ends, read = list(range(num_pairs)), dict[int, int](), list[list[float]]()
    for step in range(num_steps):
        change = None
        if stopping.wants_change():
            assert changes is not None
            read = read or changes.double().sum(-1).tolist()
            change = [read[step][i] for i in here]
        if done := {here[i] for i in stopping.finish(change)}:
            ends |= dict.fromkeys(done, step + 1)
            here = [i for i in here if i not in done]
        if not here:
            break
    return ends
