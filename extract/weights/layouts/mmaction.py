"""mmaction2 at 4d6c934, and its 0.x versions: every convolution in a module with its BN.

Flow was shown to its networks as 8-bit values minus 128, over 128.
"""

from tad_distill.extract.weights.layouts import Layout

IGNORED = r"cls_head\.|data_preprocessor\."
RESNET = (
    (r"^backbone\.", ""),
    (r"downsample\.conv\.", "downsample.0."),
    (r"downsample\.bn\.", "downsample.1."),
    (r"(^|\.)conv(\d)\.conv\.(net\.)?", r"\1conv\2."),
    (r"(^|\.)conv(\d)\.bn\.", r"\1bn\2."),
)

LAYOUTS = (
    Layout(
        name="mmaction2-tsm",
        architecture="tsm",
        has=r"backbone\.layer1\.0\.conv1\.conv\.net\.weight$",
        renames=RESNET,
        ignored=IGNORED,
        pretraining="as the file's source says (mmaction2 TSM layout)",
        normalisation="imagenet",
        of_flow="mmaction",
    ),
    Layout(
        name="mmaction2-tsn",
        architecture="tsn",
        has=r"backbone\.layer1\.0\.conv1\.conv\.weight$",
        axes=4,
        renames=RESNET,
        ignored=IGNORED,
        pretraining="as the file's source says (mmaction2 TSN layout)",
        normalisation="imagenet",
        of_flow="mmaction",
    ),
    Layout(
        name="mmaction2-slowonly",
        architecture="slowonly",
        has=r"backbone\.layer1\.0\.conv1\.conv\.weight$",
        axes=5,
        renames=(
            (r"^backbone\.conv1\.(conv|bn)\.", r"stem.\1."),
            *RESNET,
        ),
        ignored=IGNORED,
        pretraining="as the file's source says (mmaction2 SlowOnly layout)",
        normalisation="imagenet",
        of_flow="mmaction",
    ),
    Layout(
        name="mmaction2-slowfast",
        architecture="slowfast",
        has=r"backbone\.slow_path\.layer1\.0\.conv1\.conv\.weight$",
        renames=(
            (r"^backbone\.(slow|fast)_path\.conv1\.(conv|bn)\.", r"stem.\1.\2."),
            (r"^backbone\.slow_path\.conv1_lateral\.", "stem.lateral."),
            (r"^backbone\.slow_path\.(layer\d)_lateral\.", r"\1.lateral."),
            (r"^backbone\.(slow|fast)_path\.(layer\d)\.", r"\2.\1."),
            (r"^(layer\d\.(?:slow|fast)\.\d+\.)downsample\.conv\.", r"\1downsample.0."),
            (r"^(layer\d\.(?:slow|fast)\.\d+\.)downsample\.bn\.", r"\1downsample.1."),
            (r"^(layer\d\.(?:slow|fast)\.\d+\.)conv(\d)\.conv\.", r"\1conv\2."),
            (r"^(layer\d\.(?:slow|fast)\.\d+\.)conv(\d)\.bn\.", r"\1bn\2."),
        ),
        ignored=IGNORED,
        pretraining="as the file's source says (mmaction2 SlowFast layout)",
    ),
)
