"""Settings of the adapter's training."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tad_distill import config
from tad_distill.data.dataset import DataConfig

PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True, kw_only=True)
class CopyConfig:
    """Which stage is copied, and what it learns.

    Attributes:
        maps: Stream of the stage before the last one, as ``tsm18:rgb@layer3``: what it reads.
        teacher: Stream whose features it learns to predict, as ``tsm18:tg``.
        target: ``teacher``; or one of the controls without a teacher: ``labels``, the same copy
            trained on the label of each step; ``self``, on the base's own rich stream
            (``tsm18:rgb.rich``), which needs no labels either and holds nothing but RGB features.
        name: The new stream is ``BACKBONE:MODALITY+NAME``; by default ``motion``, ``labels`` or
            ``self``.
        pool_frames: Frames per step of the new stream; by default as the maps' extraction says.
        export: Poolings to write: ``mean``, ``rich`` or both.
        weights: The base's weights, if they are no longer where the maps were made.
    """

    maps: str
    teacher: str
    target: Literal["teacher", "labels", "self"] = "teacher"
    name: str | None = None
    pool_frames: int | None = None
    export: tuple[Literal["mean", "rich"], ...] = ("mean",)
    weights: Path | None = None

    def __post_init__(self) -> None:
        """Refuse an export of nothing."""
        if not self.export or len(set(self.export)) < len(self.export):
            raise ValueError(f"export: expected mean, rich or both, got {list(self.export)}")

    @property
    def copy_name(self) -> str:
        """Name of the copy."""
        return self.name or ("motion" if self.target == "teacher" else self.target)

    @property
    def taught_by(self) -> str | None:
        """The stream that is predicted; None: the labels are."""
        own = f"{self.maps.partition('@')[0]}.rich"
        return {"teacher": self.teacher, "self": own, "labels": None}[self.target]


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """How the copy is trained.

    The defaults were measured on the built-in world. The explained variance alone is no guide to
    how long: on 60 videos it was 0.48 after 200 steps and 0.45 after 450, but a detector without
    lessons found 47.9 and 53.0 mAP with these copies (validation, means of 2 and 3 seeds).

    Attributes:
        seed: Of the linear map and the windows; the copy starts as the base's last stage.
        device: Where to train; ``auto`` takes CUDA if there is one.
        epochs: How many times as many frames are shown as all training videos have, those without
            labels included, whatever the target is.
        min_steps: Of few videos at least so many batches are shown all the same.
        steps: If set, exactly so many.
        batch_size: Windows per batch, at random places of random videos.
        window_frames: Their length.
        edge_frames: What is this near to a window's ends counts in no loss: it lacks neighbours.
        lr: The highest learning rate (AdamW).
        warmup: Share of the steps in which it rises; then it falls on a cosine.
        weight_decay: Of filters and matrices.
        batch_norm: ``trained``: statistics of the batch, scale and shift are learned; ``frozen``:
            as the base has them.
        log_every: Steps between two lines of the log.
        save_every_s: Seconds between two saved states.
    """

    seed: int = 0
    device: str = "auto"
    epochs: float = 5.0
    min_steps: int = 450
    steps: int | None = None
    batch_size: int = 16
    window_frames: int = 24
    edge_frames: int = 2
    lr: float = 3e-3
    warmup: float = 0.3
    weight_decay: float = 0.02
    batch_norm: Literal["trained", "frozen"] = "trained"
    log_every: int = 50
    save_every_s: float = 60.0

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        for name in ("batch_size", "min_steps", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.epochs <= 0 or (self.steps is not None and self.steps < 1):
            raise ValueError(
                f"epochs and steps must be positive, got epochs={self.epochs}, steps={self.steps}"
            )
        if not 0 <= 2 * self.edge_frames < self.window_frames:
            raise ValueError(
                f"a window of {self.window_frames} frames has nothing left without edge_frames="
                f"{self.edge_frames} at both ends"
            )
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must be in [0, 1), got {self.warmup}")

    def num_batches(self, num_frames: float) -> int:
        """Steps of the whole training, on videos that have so many frames together."""
        if self.steps is not None:
            return self.steps
        frames_per_step = self.batch_size * self.window_frames
        return max(self.min_steps, round(self.epochs * num_frames / frames_per_step))


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Every setting of one adapter.

    Attributes:
        preset: Name of the preset that it began as; goes beside every number.
        data: What is read; of its settings those about store, subsets, labels and missing videos.
        adapter: Which stage, and what it learns.
        train: The recipe.
    """

    preset: str = "custom"
    data: DataConfig = field(default_factory=DataConfig)
    adapter: CopyConfig
    train: RecipeConfig = field(default_factory=RecipeConfig)


def load(path: Path, overrides: Iterable[str] = (), preset: str | None = None) -> AdapterConfig:
    """Read settings: a TOML file, or the ``config.json`` of a run.

    Raises:
        ConfigError: With the dotted path of the setting, what was found and what is allowed.
    """
    table: dict[str, Any] = config.read(path)
    table = dict(table.get("experiment", table))
    table.setdefault("preset", preset or path.stem)
    return config.load(AdapterConfig, table, overrides)


def load_preset(name: str, overrides: Iterable[str] = ()) -> AdapterConfig:
    """Read a shipped preset.

    Raises:
        ConfigError: No such preset, or a setting is wrong.
    """
    return load(config.preset(PRESETS, name), overrides, name)
