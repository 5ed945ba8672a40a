"""Settings of pretraining; the checkpoint keeps them, so every store made with it tells them."""

from dataclasses import dataclass, field

from tad_distill.extract.modalities import ModalityConfig


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How a backbone is taught to recognise trimmed clips.

    Attributes:
        tasks: Label column -> weight of its loss, as in ``{object = 0.5, motion = 1.0}``: how much
            of each the features will hold. Empty: every label column, weight 1.
        clip_frames: Frames shown per clip, at a random moment of it; shorter clips repeat their
            last frame.
        fps: Frames per second; None: each video's own. Use the rate of the later extraction.
        size: The shorter side is resized to this and the middle square kept; None: frames as they
            are, all of one size.
        crop: Side of the square shown, at a random place (validation: the middle); None: all.
        scale: Range of the share of the side that a crop covers before it is resized to ``crop``.
        flip: Probability of a mirrored clip.
        flip_swaps: Classes that mirroring turns into each other, as in ``{left = "right"}``.
        steps: Batches to train for.
        batch_size: Clips per batch.
        lr: Highest rate of the one-cycle schedule (AdamW).
        weight_decay: On filters and matrices only.
        dropout: On the pooled feature, before the classifiers.
        seed: Of the weights, the order and the augmentation; equal seeds give equal weights on
            the same machine and number of threads.
        amp: Half-precision arithmetic (bfloat16) on a GPU.
        modality: Settings of the modality, as in ``modality.gain=2``; None: its defaults.
        memory_gb: Decoded clips larger than this are kept in a file beside the output instead.
        save_every_s: Seconds between resume points.
    """

    tasks: dict[str, float] = field(default_factory=dict)
    clip_frames: int = 8
    fps: float | None = None
    size: int | None = None
    crop: int | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.5
    flip_swaps: dict[str, str] = field(default_factory=dict)
    steps: int = 1000
    batch_size: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.05
    dropout: float = 0.0
    seed: int = 0
    amp: bool = False
    modality: ModalityConfig | None = None
    memory_gb: float = 4.0
    save_every_s: float = 120.0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("clip_frames", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale: expected 0 < low <= high <= 1, got {list(self.scale)}")
        if any(weight < 0 for weight in self.tasks.values()) or (
            self.tasks and not any(self.tasks.values())
        ):
            raise ValueError(f"tasks: weights must be positive, got {self.tasks}")
        if self.size is not None and self.crop is not None and self.crop > self.size:
            raise ValueError(f"crop: {self.crop} is larger than size {self.size}")
