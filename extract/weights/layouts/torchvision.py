"""torchvision's ResNets, trained on pictures: better than nothing for TSM-18."""

from tad_distill.extract.weights.layouts import Layout

LAYOUTS = (
    Layout(
        name="torchvision",
        architecture="tsm",
        has=r"layer1\.0\.conv1\.weight$",
        ignored=r"fc\.",
        pretraining="imagenet, not Kinetics: pictures alone, the temporal shift was never trained",
        normalisation="imagenet",
        of_flow="imagenet",
    ),
)
