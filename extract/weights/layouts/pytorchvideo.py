"""PyTorchVideo at f3142bb: SlowFast as a list of blocks."""

from tad_distill.extract.weights.layouts import Layout, Renames

PATHWAYS = {"0": "slow", "1": "fast"}


def _renames() -> Renames:
    rules = []
    for number, pathway in PATHWAYS.items():
        at = rf"^blocks\.0\.multipathway_blocks\.{number}\."
        rules += [
            (rf"{at}conv\.", f"stem.{pathway}.conv."),
            (rf"{at}norm\.", f"stem.{pathway}.bn."),
            (
                rf"^blocks\.(\d)\.multipathway_blocks\.{number}\.res_blocks\.(\d+)\.",
                rf"layer\1.{pathway}.\2.",
            ),
        ]
    rules += [
        (r"^blocks\.0\.multipathway_fusion\.", "stem.lateral."),
        (r"^blocks\.(\d)\.multipathway_fusion\.", r"layer\1.lateral."),
        (r"\.lateral\.conv_fast_to_slow\.", ".lateral.conv."),
        (r"\.lateral\.norm\.", ".lateral.bn."),
        (r"\.branch1_conv\.", ".downsample.0."),
        (r"\.branch1_norm\.", ".downsample.1."),
    ]
    for index, letter in enumerate("abc", start=1):
        rules += [
            (rf"\.branch2\.conv_{letter}\.", f".conv{index}."),
            (rf"\.branch2\.norm_{letter}\.", f".bn{index}."),
        ]
    return tuple(rules)


LAYOUTS = (
    Layout(
        name="pytorchvideo",
        architecture="slowfast",
        has=r"blocks\.1\.multipathway_blocks\.1\.res_blocks\.0\.branch2\.conv_a\.weight$",
        renames=_renames(),
        ignored=r"blocks\.6\.",
        pretraining="as the file's source says (PyTorchVideo layout)",
    ),
)
