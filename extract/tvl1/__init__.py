"""TV-L1 optical flow (Zach, Pock and Bischof, DAGM 2007), as OpenCV computes it, in batches.

:class:`~tad_distill.extract.tvl1.flow.TVL1` is the way in. The energy is
``sum |grad u1| + |grad u2| + attachment * |I1(x + u) - I0(x)|``; at each scale of a pyramid, coarse
to fine, I1 is warped by the flow so far and the energy, made linear there, is lowered by turns of
thresholding and of a step of the dual variable (Wedel et al. 2009; Sanchez et al., IPOL 2013).
"""
