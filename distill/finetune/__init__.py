"""End-to-end fine-tuning: detector and backbone learn together, from frames.

The paper's own setting, and the upper reference of what precomputed features can do. It starts
from a finished run on features and from the checkpoint that made them: windows of frames are
decoded at the extraction's own rate and size, the streams of that backbone are computed in the
loop exactly as the extraction computes them, all others (a teacher's) are read from the store. It
ends in an ordinary run and an ordinary backbone checkpoint. One device.
"""
