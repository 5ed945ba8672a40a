"""tad-distill: temporal action detection from RGB alone, with motion learned from a teacher."""

__version__ = "0.1.0"
