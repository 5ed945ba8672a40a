"""PySlowFast at 287ec00: PyTorch files, and the pickles that its Caffe2 predecessor wrote.

Names of the Caffe2 blobs are those that its own converter reads; like it, leave out whatever the
training kept beside the parameters.
"""

from tad_distill.extract.weights.layouts import Layout, Renames

PATHWAYS = {"0": "slow", "1": "fast"}
PREFIXES = {"": "slow", "t_": "fast"}
LEAVES = {
    "w": "weight",
    "s": "weight",
    "b": "bias",
    "rm": "running_mean",
    "riv": "running_var",
}


def _torch() -> Renames:
    rules = []
    for number, pathway in PATHWAYS.items():
        rules.append((rf"^s1\.pathway{number}_stem\.", f"stem.{pathway}."))
        for stage in range(2, 6):
            at = rf"^s{stage}\.pathway{number}_res(\d+)\."
            layer = rf"layer{stage - 1}.{pathway}.\1."
            rules += [
                (rf"{at}branch1\.", f"{layer}downsample.0."),
                (rf"{at}branch1_bn\.", f"{layer}downsample.1."),
            ]
            for index, letter in enumerate("abc", start=1):
                rules += [
                    (rf"{at}branch2\.{letter}\.", f"{layer}conv{index}."),
                    (rf"{at}branch2\.{letter}_bn\.", f"{layer}bn{index}."),
                ]
    for stage in range(1, 5):
        part = "stem" if stage == 1 else f"layer{stage - 1}"
        rules += [
            (rf"^s{stage}_fuse\.conv_f2s\.", f"{part}.lateral.conv."),
            (rf"^s{stage}_fuse\.bn\.", f"{part}.lateral.bn."),
        ]
    return tuple(rules)


def _caffe2() -> Renames:
    rules = [
        (r"^t_pool1_subsample_bn_", "stem.lateral.bn."),
        (r"^t_pool1_subsample_", "stem.lateral.conv."),
    ]
    for stage in range(2, 6):
        last = rf"^t_res{stage}_\d+_branch2c_bn_subsample_"
        rules += [
            (rf"{last}bn_", f"layer{stage - 1}.lateral.bn."),
            (last, f"layer{stage - 1}.lateral.conv."),
        ]
    for prefix, pathway in PREFIXES.items():
        rules += [
            (rf"^{prefix}res_conv1_bn_", f"stem.{pathway}.bn."),
            (rf"^{prefix}conv1_", f"stem.{pathway}.conv."),
        ]
        for stage in range(2, 6):
            at, layer = rf"^{prefix}res{stage}_(\d+)_", rf"layer{stage - 1}.{pathway}.\1."
            rules += [
                (rf"{at}branch1_bn_", f"{layer}downsample.1."),
                (rf"{at}branch1_", f"{layer}downsample.0."),
            ]
            for index, letter in enumerate("abc", start=1):
                rules += [
                    (rf"{at}branch2{letter}_bn_", f"{layer}bn{index}."),
                    (rf"{at}branch2{letter}_", f"{layer}conv{index}."),
                ]
    rules += [(rf"\.{short}$", f".{leaf}") for short, leaf in LEAVES.items()]
    return tuple(rules)


LAYOUTS = (
    Layout(
        name="pyslowfast",
        architecture="slowfast",
        has=r"s2\.pathway1_res0\.branch2\.a\.weight$",
        renames=_torch(),
        ignored=r"head\.",
        pretraining="as the file's source says (PySlowFast layout)",
    ),
    Layout(
        name="pyslowfast-caffe2",
        architecture="slowfast",
        has=r"t_res2_0_branch2a_w$",
        renames=_caffe2(),
        ignored=r"pred_|.*momentum|.*model_iter|(.*_)?lr$",
        pretraining="as the file's source says (PySlowFast layout, Caffe2 pickle)",
    ),
)
