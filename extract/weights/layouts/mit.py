"""temporal-shift-module of MIT's HAN lab, at 1f6a834: TSM and TSN on torchvision's ResNet.

Only the shifted convolution of a block is wrapped, so only its name has ``.net.``. The network for
flow reads five neighbouring (x, y) pairs, as 8-bit values of 0.5 on average and a standard
deviation of 0.226 (the mean of ImageNet's three).
"""

from tad_distill.extract.weights.layouts import Layout

LAYOUTS = (
    Layout(
        name="mit-tsm",
        architecture="tsm",
        has=r"base_model\.layer1\.0\.conv1\.net\.weight$",
        renames=((r"^base_model\.", ""), (r"\.conv1\.net\.", ".conv1.")),
        ignored=r"new_fc\.",
        pretraining="as the file's source says (temporal-shift-module layout)",
        normalisation="imagenet",
        of_flow="imagenet",
    ),
    Layout(
        name="mit-tsn",
        architecture="tsn",
        has=r"base_model\.layer1\.0\.conv1\.weight$",
        renames=((r"^base_model\.", ""),),
        ignored=r"new_fc\.",
        pretraining="as the file's source says (temporal-shift-module layout, no shift)",
        normalisation="imagenet",
        of_flow="imagenet",
    ),
)
