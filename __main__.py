"""``python -m tad_distill`` is the command ``tad-distill``."""

from tad_distill.cli import main

main()
