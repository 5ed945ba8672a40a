"""TSN: a ResNet on every frame alone (Wang et al.: Temporal Segment Networks, ECCV 2016).

TSM's network without the shift, for the checkpoints that were trained so: appearance without time,
and the flow of a few frames.
"""

from tad_distill.extract.backbones.tsm import TSM, Bottleneck


class TSN(TSM):
    """ResNet; one feature per frame, which depends on that frame alone."""

    shifted = False


def tsn50() -> TSN:
    """TSN-ResNet-50, D = 2048."""
    return TSN(Bottleneck, (3, 4, 6, 3))


VARIANTS = {"tsn50": tsn50}
