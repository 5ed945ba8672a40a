"""Names of streams are taken apart strictly and put together again."""

import pytest

from tad_distill.console import UsageError
from tad_distill.data.spec import StreamSpec
from tad_distill.extract.stream_name import StreamName

NAMES = {
    "tsm18:rgb": StreamName("tsm18", "rgb"),
    "tsm_mini:tg_luma@layer2": StreamName("tsm_mini", "tg_luma", stage="layer2"),
    "tsm18:rgb+motion": StreamName("tsm18", "rgb", copy="motion"),
    "tsm18:rgb.rich": StreamName("tsm18", "rgb", pooling="rich"),
    "tsm18:rgb-flip": StreamName("tsm18", "rgb", view="flip"),
    "i3d:flow-left_flip@mixed_4f": StreamName("i3d", "flow", stage="mixed_4f", view="left_flip"),
    "tsm18:rgb-top_left+motion.rich": StreamName(
        "tsm18", "rgb", copy="motion", pooling="rich", view="top_left"
    ),
    "tsm18:rgb+motion.rich": StreamName("tsm18", "rgb", copy="motion", pooling="rich"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_has_parts_that_make_the_name(name: str) -> None:
    assert StreamName.parse(name) == NAMES[name]
    assert str(NAMES[name]) == name
    facts = {"backbone": "b", "modality": "m", "shape": (1,)}
    times = {"clip_frames": 1, "stride_frames": 1, "offset_frames": 0.5}
    assert StreamSpec(stream=name, **facts, **times).stream == name  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tsm18", "expected BACKBONE:MODALITY"),
        ("tsm18:", "expected BACKBONE:MODALITY"),
        (":rgb", "expected BACKBONE:MODALITY"),
        ("tsm18:rgb@", "expected BACKBONE:MODALITY"),
        ("tsm18:rgb+", "expected BACKBONE:MODALITY"),
        ("tsm18+motion:rgb", "expected BACKBONE:MODALITY"),
        ("tsm18:rgb.poor", "expected .rich, got .poor"),
        ("tsm18:rgb.mean", "expected .rich, got .mean"),
        ("tsm18:rgb+motion@layer4", "name tsm18:rgb@layer4"),
        ("tsm18:rgb-flip.rich@layer4", "name tsm18:rgb-flip@layer4"),
        ("tsm18:rgb-", "expected BACKBONE:MODALITY"),
        ("tsm18:rgb-upside_down", "no view 'upside_down'; there are left, right, top_left"),
        ("tsm18:rgb-centre", "no view 'centre'"),
        ("tsm18:rgb.rich@layer4", "name tsm18:rgb@layer4"),
    ],
)
def test_other_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        StreamName.parse(name)
