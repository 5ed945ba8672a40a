"""The paper's figures beside ours: only where the protocol is one of those the paper scored by."""

from collections.abc import Sequence

from tad_distill.evaluate import paper

# The tables whose rows are shown, by the benchmark that a protocol's name begins with.
SHOWN = {"thumos": ("2", "6a"), "activitynet": ("6b",)}

PaperRow = tuple[str, tuple[float | None, ...]]


def published(protocol: str, tiou: Sequence[float]) -> list[PaperRow]:
    """Rows of the paper with a value per threshold and the average last, in percent.

    Args:
        protocol: Its name.
        tiou: The thresholds that are scored; with others than the paper's there is no row.
    """
    numbers = SHOWN.get(protocol.partition("-")[0], ())
    rows: list[PaperRow] = []
    for table in paper.TABLES:
        if table.number not in numbers or not _equal(table.tiou, tiou):
            continue
        for title, values in table.rows.items():
            by_threshold = dict(zip(table.shown, values, strict=False))
            columns = (by_threshold.get(t) for t in table.tiou)
            rows.append((f"{title} ({table.setting})", (*columns, values[-1])))
    return rows


def _equal(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        abs(a - b) < 1e-6 for a, b in zip(one, other, strict=True)
    )
