"""Damaged files end in scores or in one clear line, never in a traceback.

``FUZZ_SEED`` and ``FUZZ_CASES`` choose other cases; a failure names its seed and keeps the files.
"""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from mutations import damaged, mutated, written

from tad_distill.cli import main
from tad_distill.console import UserError
from tad_distill.data import annotations as annotation_files
from tad_distill.data.annotations import Policy
from tad_distill.evaluate import detections as detection_files
from tad_distill.evaluate.bootstrap import bootstrap
from tad_distill.evaluate.protocols import PROTOCOLS, score
from tad_distill.evaluate.recall import recalls

SEED = int(os.environ.get("FUZZ_SEED", "0"))
NUM_CASES = int(os.environ.get("FUZZ_CASES", "10000"))

# Lengths of an error: a name may be long, but it may not fill the terminal.
LONGEST = 1000

VIDEO = {"subset": "test", "duration": 60.5, "fps": 30}
ANNOTATED = [{"label": "Jump", "segment": [0, 10]}, {"label": "Run", "segment": [12.5, "30"]}]
DATABASE = {
    "version": "1.3",
    "database": {
        "a": {**VIDEO, "annotations": ANNOTATED},
        "b": {**VIDEO, "annotations": ANNOTATED[:1] * 2},
        "c": {**VIDEO, "subset": "train", "annotations": []},
    },
}
VIDEOS = {
    "a": {"duration_second": 60.5, "annotations": ANNOTATED},
    "b": {"duration_second": 60.5, "annotations": ANNOTATED[1:]},
}
EXTENTS = {
    "database": {
        "a": {"subset": "test", "label": "Jump", "numf": 250, "frames": [[0, 100], [120, 200]]},
        "b": {"subset": "test", "label": "Run", "numf": 250, "frames": [[0, 250]]},
    }
}
FOUND = {
    "version": "1.3",
    "results": {
        "a": [
            {"label": "Jump", "score": 0.9, "segment": [0, 9]},
            {"label": "Run", "score": 0.8, "segment": [13, 30]},
        ],
        "b": [{"label": "Jump", "score": 1, "segment": [1.5, 20]}],
        "z": [],
    },
}
RATES = {"a": 30, "b": 29.97, "c": 25}
ANNOTATED_CSV = (
    "video,label,start_s,end_s,subset,duration_s\na,Jump,0,10,test,60\nb,Run,5,6,test,60\n"
)
FOUND_CSV = "video,label,score,start_s,end_s\na,Jump,0.9,0,10\nb,Run,0.6,5,6\n"

ANNOTATION_FORMS = [*map(json.dumps, (DATABASE, VIDEOS, EXTENTS)), ANNOTATED_CSV]
# Without their lists of videos, of which the cases are none.
RULES = [
    replace(PROTOCOLS[name], subset=None, num_videos=None)
    for name in ("plain", "activitynet", "thumos-210")
]
POLICIES = (
    Policy(),
    PROTOCOLS["plain"].policy,
    PROTOCOLS["thumos-212"].policy,
    Policy(duplicates="keep", out_of_range="error", reversed="error"),
)


def altered(text: str, random: Random) -> bytes:
    """One to three changes of structure, or of bytes, or of both."""
    if text[0] == "{" and random.random() < 0.85:
        document = json.loads(text)
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            document = mutated(document, random)
        text = written(document, random)
        if random.random() < 0.9:
            return text.encode("utf-8", "surrogatepass")
    data = text.encode("utf-8", "surrogatepass")
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        data = damaged(data, random)
    return data


def make_case(number: int, folder: Path) -> tuple[Random, tuple[Path, Path, Path | None]]:
    """Annotations, detections and perhaps a table of rates, one or two of them damaged."""
    random = Random(f"{SEED}/{number}")
    texts = {
        "annotations": random.choice(ANNOTATION_FORMS),
        "detections": random.choice((*[json.dumps(FOUND)] * 3, FOUND_CSV)),
    }
    if random.random() < 0.2:
        texts["info"] = random.choice((json.dumps(RATES), "video,fps\na,25\nb,25\n"))
    paths = {name: folder / name for name in texts}
    victims = random.sample(list(texts), random.choice((1, 1, 1, 2)))
    for name, text in texts.items():
        paths[name].write_bytes(altered(text, random) if name in victims else text.encode())
    return random, (paths["annotations"], paths["detections"], paths.get("info"))


def survive(number: int, folder: Path) -> str:
    """Read and score one case; how it ended."""
    random, (annotations, detections, info) = make_case(number, folder)
    protocol, subset = random.choice(RULES), random.choice((None, None, "test"))
    try:
        truth = annotation_files.read(annotations, random.choice(POLICIES), info)
        found = detection_files.load(detections)
        result = score(truth, found.table, protocol, subset)
    except UserError as error:
        message = str(error)
        assert message and message.isprintable() and len(message) < LONGEST, message
        return "refused"
    top, average = recalls(result)
    figures = [*result.scores.mAP, *top.mean.flat, average.auc]
    assert min(figures) >= 0 and max(figures) <= 1
    if random.random() < 0.1:
        drawn = bootstrap(result.matching, result.videos, 20)
        assert np.isfinite(drawn.average_mAP.low)
    return "scored"


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_damaged_files_end_in_scores_or_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends: Counter[str] = Counter()
    for number in range(NUM_CASES):
        try:
            ends[survive(number, tmp_path)] += 1
        except Exception as error:
            files = {path.name: path.read_bytes()[:2000] for path in tmp_path.iterdir()}
            pytest.fail(f"seed {SEED}, case {number}: {type(error).__name__}: {error}; {files}")
        if number % 100 == 0:
            capsys.readouterr()  # what was said of each file would fill the memory
    # Neither end is rare, or the cases test less than they seem to.
    assert min(ends["refused"], ends["scored"]) > 0.1 * NUM_CASES, ends


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 300, 100))
def test_the_command_ends_with_its_exit_codes(
    tmp_path: Path, start: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(start, start + 100):
        _, (annotations, detections, info) = make_case(10**6 + number, tmp_path)
        arguments = ["eval", str(detections), "--annotations", str(annotations), "--per-class"]
        arguments += ["--info", str(info)] if info else []
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capsys.readouterr()
        assert ended.value.code in (0, 1), said.err
        errors = [line for line in said.err.splitlines() if line.startswith("Error: ")]
        assert len(errors) == ended.value.code and "Traceback" not in said.err
        assert bool(said.out) == (ended.value.code == 0)
