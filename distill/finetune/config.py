"""Settings of end-to-end fine-tuning: those of a run, and of the backbone in its loop."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tad_distill import config
from tad_distill.config import ConfigError
from tad_distill.distill.config import Experiment, dump
from tad_distill.distill.predict import Run

PRESETS = Path(__file__).parent / "presets"

# Taken over from the run to start from, and fixed: its weights are for these.
FIXED = ("model", "head", "fusion", "data.grid", "data.target_len", "data.step_s")


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """What is trained of the backbone, and where its frames come from.

    Attributes:
        run: Folder of the finished run to start from.
        videos: Video files, or folders of them; those that the store's features were made of.
        weights: For streams whose checkpoint has moved, where it is now.
        frames: Folder that keeps decoded frames for other runs as well; by default a folder of
            this run, deleted when it has finished.
        lr_scale: The backbone's share of ``train.lr`` (E2E-TAD: 5e-6 of 1e-4).
        from_stage: The first stage that is trained, as ``layer3``; stem and stages before it stay
            frozen. By default everything is trained. Batch norms stay frozen in any case,
            statistics and affine, as in E2E-TAD.
        checkpointing: Keep only what enters each stage for the backward pass and compute the stage
            again: the same numbers from less memory, for about a third more time.
    """

    run: Path | None = None
    videos: tuple[Path, ...] = ()
    weights: dict[str, Path] = field(default_factory=dict)
    frames: Path | None = None
    lr_scale: float = 0.05
    from_stage: str | None = None
    checkpointing: bool = False

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        if not 0 < self.lr_scale <= 1:
            raise ValueError(f"lr_scale must be in (0, 1], got {self.lr_scale}")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Experiment):
    """Every setting of one fine-tuning.

    Attributes:
        backbone: What is trained beside the detector, and from where.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)

    def experiment(self) -> Experiment:
        """The settings of the detector alone, as any other run has them."""
        return Experiment(**{f.name: getattr(self, f.name) for f in fields(Experiment)})


def load(
    path: Path,
    run: Path | None,
    overrides: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
) -> FinetuneConfig:
    """Settings of a run to start from, with what a file, overrides and options say otherwise.

    The recipe (``train``) is the file's alone; of the other sections it lists what differs.

    Args:
        path: A TOML file, or the ``config.json`` of a fine-tuned run.
        run: Folder of the run to start from; None: as the file says.
        overrides: ``key.sub=value`` settings, applied on top.
        options: Values by dotted key, applied last.
        preset: Name to note, if the file notes none; by default the file's own.

    Raises:
        ConfigError: A setting is wrong, or would need other weights than the run has.
        UserError: There is no finished run to start from.
    """
    table: dict[str, Any] = config.read(path)
    table = dict(table.get("experiment", table))
    named = run or table.get("backbone", {}).get("run")
    if named is None:
        raise ConfigError("backbone.run: not set; name the run to start from with --run RUN")
    base = Run.load(Path(named), "cpu").experiment
    merged = {key: value for key, value in dump(base).items() if key not in ("preset", "train")}
    for key, value in table.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merged[key] | value if both else value
    merged.setdefault("preset", preset or path.stem)
    for override in overrides:
        config.assign(merged, override)
    for key, value in {**(options or {}), "backbone.run": named}.items():
        section, _, name = key.partition(".")
        merged.setdefault(section, {})[name] = json.loads(json.dumps(value, default=str))
    settings = config.build(FinetuneConfig, merged)
    _refuse_changes(settings, base, Path(named))
    return settings


def load_preset(
    name: str,
    run: Path | None,
    overrides: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
) -> FinetuneConfig:
    """Settings of a run to start from, with a shipped preset; see :func:`load`.

    Raises:
        ConfigError: No such preset, or a setting is wrong.
        UserError: There is no finished run to start from.
    """
    return load(config.preset(PRESETS, name), run, overrides, options, name)


def _refuse_changes(settings: FinetuneConfig, base: Experiment, run: Path) -> None:
    for key in FIXED:
        section, _, name = key.partition(".")
        ours, theirs = getattr(settings, section), getattr(base, section)
        if name:
            ours, theirs = getattr(ours, name), getattr(theirs, name)
        if ours != theirs:
            raise ConfigError(
                f"{key}: differs from {run}, whose weights are for what stands there; leave it "
                "out, or train a run with it first"
            )
