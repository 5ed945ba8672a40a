"""An experiment: every setting of one run, and which of them contradict each other."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tad_distill import config
from tad_distill.config import ConfigError
from tad_distill.data.dataset import DataConfig
from tad_distill.distill import recipes
from tad_distill.distill.fusions import FusionConfig, local
from tad_distill.distill.heads import HeadConfig, actionformer
from tad_distill.distill.model import ModelConfig
from tad_distill.distill.objective import ObjectiveConfig
from tad_distill.distill.transfers import TransferConfig
from tad_distill.evaluate.nms import NmsConfig

PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Who teaches.

    Attributes:
        run: Folder of the teacher's finished run.
    """

    run: Path | None = None


@dataclass(frozen=True, kw_only=True)
class NeedsConfig:
    """Where what a preset reads comes from; said when it is missing.

    Attributes:
        features: The store's streams.
        annotations: The annotation file and its subsets.
        scores: The label scores of whole videos. If this is set, a class-agnostic detector asks
            for them before it is trained and not only when it detects.
    """

    features: str = ""
    annotations: str = ""
    scores: str = ""


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """How a long video is cut; shorter ones are read in one piece.

    Attributes:
        window: Grid steps read at once.
        overlap: Grid steps that neighbouring windows share.
        merge: "centres": what a window says within half of the overlap from its inner ends is left
            to its neighbour, which sees more. "suppress": all is kept, but for those candidates in
            an overlap that a better one of their label lies over (TadTR for THUMOS'14). "all": all
            is kept.
        merge_iou: By how much more a better one lies over what "suppress" drops.
        external_scores: File of label scores of whole videos by another classifier, as
            ``evaluate.video_scores`` reads it: what a class-agnostic detector needs, and any other
            may use.
        external_top_k: So many of a video's best labels count.
        external_fusion: The root of the product of both scores (ActionFormer), or the product
            (G-TAD).
    """

    window: int = 16384
    overlap: int = 2048
    merge: Literal["centres", "suppress", "all"] = "centres"
    merge_iou: float = 0.4
    external_scores: Path | None = None
    external_top_k: int = 2
    external_fusion: Literal["sqrt", "product"] = "sqrt"

    def __post_init__(self) -> None:
        """Refuse windows that do not advance."""
        if not 0 <= self.overlap < self.window:
            raise ValueError(
                f"overlap must be in 0..window-1, got {self.overlap} and window={self.window}"
            )
        if self.external_top_k < 1:
            raise ValueError(f"external_top_k must be at least 1, got {self.external_top_k}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The recipe. The defaults are ActionFormer's for THUMOS'14 but for the batch size (2 there).

    Attributes:
        seed: Of the weights, the order, the windows and everything else that is random.
        device: Where to train; ``auto`` takes CUDA if there is one.
        epochs: Passes over the labelled videos, warm-up included.
        steps: If set, the run ends after so many steps, whatever the epochs.
        warmup: Share of all steps in which the learning rate rises (5 of 35 epochs there).
        batch_size: Labelled videos per step.
        unlabelled_batch_size: Unlabelled videos added to each step; by default as many again.
        optimizer: AdamW, or Adam, whose decay is part of the gradient (L2).
        lr: The highest learning rate.
        schedule: After the warm-up: a cosine down to 1e-8, or drops by steps.
        drop_at: Shares of all steps after which a stepped rate drops, as 0.875 for 14 of 16 epochs.
        drop_factor: What a drop multiplies it with.
        weight_decay: Of AdamW, for the weights of linear and convolution layers.
        clip_norm: Longest gradient; 0 clips nothing.
        ema: Share of the averaged weights that a step keeps; 0 keeps no average. The average
            starts from the initial weights: a run of N steps holds ``ema ** N`` of them.
        precision: Of forward and backward; the weights are float32.
        compile: Let torch compile the detector's forward. It takes minutes at each new length, so
            give all windows one (``data.pad = "max_len"``). On the CPU it gains nothing: 111 ms a
            step against 114 at the size of the built-in world; not measured on a GPU.
        workers: Processes that read features; 0 reads between the steps.
        log_every: Steps between two lines of the log.
        save_every_s: Seconds between two saved states.
        validate_every: Epochs between two looks at ``data.validation_subset``.
        select: Keep the last weights, or those with the best mAP on ``data.validation_subset``.
    """

    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    epochs: int = 35
    steps: int | None = None
    warmup: float = 5 / 35
    batch_size: int = 8
    unlabelled_batch_size: int | None = None
    optimizer: Literal["adamw", "adam"] = "adamw"
    lr: float = 1e-4
    schedule: Literal["cosine", "step"] = "cosine"
    drop_at: tuple[float, ...] = ()
    drop_factor: float = 0.1
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema: float = 0.999
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    workers: int = 0
    log_every: int = 20
    save_every_s: float = 60.0
    validate_every: int = 5
    select: Literal["last", "validation"] = "last"

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        at_least = {"epochs": 1, "batch_size": 1, "log_every": 1, "validate_every": 1}
        at_least |= {"workers": 0, "seed": 0}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if (self.schedule == "step") != bool(self.drop_at):
            raise ValueError("drop_at goes with schedule=step, and the other way round")
        if any(not 0 < share < 1 for share in self.drop_at):
            raise ValueError(f"drop_at must be shares in (0, 1), got {self.drop_at}")
        if not 0 < self.drop_factor <= 1:
            raise ValueError(f"drop_factor must be in (0, 1], got {self.drop_factor}")
        for name in ("warmup", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")

    def num_steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole run."""
        return self.epochs * steps_per_epoch if self.steps is None else self.steps

    def num_warmup(self, steps_per_epoch: int) -> int:
        """Steps of the warm-up."""
        return round(self.num_steps(steps_per_epoch) * self.warmup)

    @property
    def num_unlabelled(self) -> int:
        """Unlabelled videos per step, if there are any."""
        size = self.unlabelled_batch_size
        return self.batch_size if size is None else size


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Every setting of one run.

    Attributes:
        preset: Name of the preset that it began as; goes beside every number.
        data: What is read.
        model: Branches and their streams.
        head: Of all branches.
        fusion: Of a decomposed model.
        objective: The weights of the losses.
        transfers: What a student learns from its teacher.
        teacher: Who teaches.
        nms: Suppression of candidates.
        predict: Windows of long videos.
        train: The recipe.
        needs: Where what is read comes from.
    """

    preset: str = "custom"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig
    head: HeadConfig = field(default_factory=actionformer.Config)
    fusion: FusionConfig = field(default_factory=local.Config)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    transfers: tuple[TransferConfig, ...] = ()
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    nms: NmsConfig = field(default_factory=NmsConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    needs: NeedsConfig = field(default_factory=NeedsConfig)

    def __post_init__(self) -> None:
        """Refuse sections that contradict each other."""
        if self.transfers and self.teacher.run is None:
            raise ConfigError(
                "teacher.run: not set, but the experiment has transfers; "
                "name the teacher's run with --teacher RUN"
            )
        if self.teacher.run is not None and not self.transfers:
            raise ConfigError(
                f"teacher.run: {self.teacher.run}, but the experiment has no transfers, so that "
                "nothing would be learned from it; add a [[transfers]] table or leave it out"
            )
        if self.data.unlabelled and not self.transfers:
            raise ConfigError(
                "data.unlabelled: true, but only a teacher's lessons need no labels and the "
                "experiment has no transfers"
            )
        validated = self.data.validation_subset is not None
        if self.model.class_agnostic and validated and self.predict.external_scores is None:
            raise ConfigError(
                "predict.external_scores: not set, but a class-agnostic detector cannot be "
                "validated without; name the file of label scores, or no data.validation_subset"
            )
        if self.train.select == "validation" and self.data.validation_subset is None:
            raise ConfigError("train.select: 'validation' needs data.validation_subset")


def load(path: Path, overrides: Iterable[str] = ()) -> Experiment:
    """Read an experiment: a TOML file, or the ``config.json`` of a run.

    Args:
        path: The file.
        overrides: ``key.sub=value`` settings, applied on top.

    Raises:
        ConfigError: With the dotted path of the setting, what was found and what is allowed.
    """
    table = config.read(path)
    # A run's file holds more than settings: the version and what the inputs were.
    table = dict(table.get("experiment", table))
    table.setdefault("preset", path.stem)
    return config.load(Experiment, table, overrides)


def load_preset(
    name: str, overrides: Iterable[str] = (), backbone: str | None = None
) -> Experiment:
    """Read a shipped preset.

    Args:
        name: ``NAME``, or ``RECIPE/ROW``: see :mod:`tad_distill.distill.recipes`.
        overrides: ``key.sub=value`` settings, applied on top.
        backbone: Takes the place of the backbone in every stream of the model.

    Raises:
        ConfigError: No such preset, or a setting is wrong.
    """
    table = recipes.read(PRESETS, name)
    if backbone is not None:
        table = recipes.with_backbone(table, backbone)
    return config.load(Experiment, {"preset": name, **table}, overrides)


def dump(experiment: Experiment) -> dict[str, Any]:
    """The table from which :func:`load` makes an equal experiment; plain values only."""
    table: dict[str, Any] = json.loads(json.dumps(config.dump(experiment)))
    return table
