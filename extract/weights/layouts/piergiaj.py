"""pytorch-i3d at 05783d1: the bare state dict of DeepMind's network, ported.

Not to be mixed with the port of hassony2 (``conv3d_1a_7x7``, ``branch_0``), which pads otherwise
and has another epsilon; that one is not read.
"""

from tad_distill.extract.weights.layouts import Layout

STAGES = {"3": "mixed_3c", "4": "mixed_4f", "5": "mixed_5c"}

LAYOUTS = (
    Layout(
        name="pytorch-i3d",
        architecture="i3d",
        has=r"Mixed_3b\.b0\.conv3d\.weight$",
        renames=(
            (r"^Conv3d_(\w\w)_\dx\d\.", r"conv_\1."),
            *((rf"^Mixed_({n}\w)\.", rf"{stage}.mixed_\1.") for n, stage in STAGES.items()),
            (r"\.conv3d\.", ".conv."),
        ),
        ignored=r"logits\.",
        pretraining="as the file's source says (pytorch-i3d layout)",
        normalisation="symmetric",
    ),
)
