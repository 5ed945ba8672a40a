"""The parts of a stream's name."""

import re
from dataclasses import dataclass
from typing import Literal

from tad_distill.console import UsageError
from tad_distill.extract.views import View

Pooling = Literal["mean", "rich"]

_FORM = re.compile(
    r"(?P<backbone>\w+):(?P<modality>\w+)(-(?P<view>\w+))?(\+(?P<copy>\w+))?"
    r"(\.(?P<pooling>\w+))?(@(?P<stage>\w+))?",
    re.ASCII,
)


@dataclass(frozen=True)
class StreamName:
    """``BACKBONE:MODALITY``, and what is done otherwise than usual.

    Attributes:
        backbone: The network.
        modality: What it is shown.
        view: ``-VIEW``: another crop than the centre's, or mirrored, as in ``tsm18:rgb-flip``; see
            :mod:`tad_distill.extract.views`. "": the usual one.
        copy: ``+NAME``: its last stage is the copy that ``tad-distill adapt`` trained under this
            name, as in ``tsm18:rgb+motion``; None: its own.
        pooling: ``.rich``: more than the mean is kept, see :mod:`tad_distill.extract.pooling`.
        stage: ``@STAGE``: the maps of an inner stage, one per step of the backbone; None: pooled.
    """

    backbone: str
    modality: str
    copy: str | None = None
    pooling: Pooling = "mean"
    stage: str | None = None
    view: str = ""

    @classmethod
    def parse(cls, name: str) -> "StreamName":
        """Take a name apart.

        Raises:
            UsageError: It has not this form, or maps are asked for that would be none of a trunk.

        >>> StreamName.parse("tsm18:rgb+motion.rich").copy
        'motion'
        """
        found = _FORM.fullmatch(name)
        if not found:
            raise UsageError(
                f"stream {name!r}: expected BACKBONE:MODALITY, as in tsm18:rgb, with -VIEW, "
                "+COPY, .rich or @STAGE behind it"
            )
        parts = found.groupdict()
        view = f"-{parts['view']}" if parts["view"] else ""
        try:
            View.parse(parts["view"] or "")
        except UsageError as error:
            raise UsageError(f"stream {name!r}: {error}") from error
        if parts["pooling"] not in (None, "rich"):
            raise UsageError(f"stream {name!r}: expected .rich, got .{parts['pooling']}")
        if parts["stage"] and (parts["copy"] or parts["pooling"]):
            raise UsageError(
                f"stream {name!r}: maps of a stage are neither pooled nor those of a copy; "
                f"name {parts['backbone']}:{parts['modality']}{view}@{parts['stage']}"
            )
        pooling: Pooling = "rich" if parts["pooling"] else "mean"
        return cls(
            backbone=parts["backbone"],
            modality=parts["modality"],
            copy=parts["copy"],
            pooling=pooling,
            stage=parts["stage"],
            view=parts["view"] or "",
        )

    def __str__(self) -> str:
        """The name again."""
        copy = f"+{self.copy}" if self.copy else ""
        pooling = "" if self.pooling == "mean" else f".{self.pooling}"
        stage = f"@{self.stage}" if self.stage else ""
        view = f"-{self.view}" if self.view else ""
        return f"{self.backbone}:{self.modality}{view}{copy}{pooling}{stage}"
