"""What a study is: rows, groups of rows, and how a rendered world comes to the streams they read.

A study is a TOML file; the shipped ones stand beside this module. Its rows name presets of
``train``; words such as ``$rgb`` in presets and settings are looked up in ``[words]``, so that the
same rows serve another backbone or the streams of one's own store.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Template
from typing import Literal

from tad_distill.config import ConfigError

ALL = "all"  # the only group of a study that declares none
STRONGEST = "strongest"

Role = Literal["teacher", "baseline", "control", "student", "upper"]
WITHOUT_TEACHER = ("baseline", "control")


@dataclass(frozen=True, kw_only=True)
class WorldOptions:
    """The built-in benchmark that each draw renders anew.

    Attributes:
        size: As of ``data world``.
        settings: Its ``--set`` options.
        preset: Of ``extract``.
        extract: ``--set`` options of ``extract``.
    """

    size: Literal["tiny", "demo", "full"] = "demo"
    settings: tuple[str, ...] = ()
    preset: str = "world"
    extract: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """How the backbone of ``BACKBONE:MODALITY`` is trained on the clips of a world.

    Attributes:
        preset: Of ``pretrain``.
        settings: Its ``--set`` options.
        extract: ``--set`` options of ``extract`` for its streams, after the world's.
    """

    preset: str
    settings: tuple[str, ...] = ()
    extract: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """How a copy of the last stage, ``BACKBONE:MODALITY+COPY``, is trained.

    Attributes:
        preset: Of ``adapt``.
        settings: ``--set`` options of ``adapt``.
    """

    preset: str
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that are compared with each other, under settings of their own.

    Attributes:
        title: Above them in the table.
        words: Win over the study's.
        settings: ``--set`` options of ``train``, before those of a row.
    """

    title: str
    words: dict[str, str] = field(default_factory=dict)
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a detector, trained anew for each draw and seed.

    Attributes:
        title: In the table.
        role: What it is to the others: ``teacher`` (reads the teacher's stream), ``baseline``
            (RGB alone; the gap begins here), ``control`` (no motion teacher), ``student``,
            ``upper`` (reads both; the gap ends here).
        preset: Of ``train``.
        settings: Its ``--set`` options.
        teacher: The row that teaches; trained with the same draw and seed.
        upper: The row that ends the gap, where a group has several.
        groups: The groups that have this row; empty: all.
        about_s: Seconds on one core to train it and to detect with it, for the plan's estimate.
    """

    title: str
    role: Role
    preset: str
    settings: tuple[str, ...] = ()
    teacher: str | None = None
    upper: str | None = None
    groups: tuple[str, ...] = ()
    about_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """A grid and its table.

    Attributes:
        title: Above the table.
        about: What it is to show; below the title. It may hold words.
        seeds: Detectors trained per row and draw.
        worlds: Worlds rendered.
        control: The row that others are compared with, or ``strongest``: of all rows without a
            motion teacher the one with the highest mAP on the validation subset.
        compare: Pairs of rows whose differences are shown beside those to the control.
        validation: Subset that choices are made on.
        test: Subset that is reported.
        tiou: Thresholds that the mAP is averaged over, as ``eval --tiou`` reads them.
        words: What ``$word`` stands for in presets, settings and streams.
        world: What is rendered.
        pretrain: ``BACKBONE:MODALITY`` -> how it is trained.
        adapt: ``BACKBONE:MODALITY+COPY`` -> how the copy is trained.
        settings: ``--set`` options of ``train`` for every row, before the group's.
        overrides: ``--set`` options of ``train`` that win over all others.
        groups: In the table's order; none: all rows are compared with each other.
        rows: In the table's order.
        about_world_s: Seconds on one core for all that a world's cells share.
        about_world_mb: Disk space of a world and its features.
        about_run_mb: Disk space of one cell.
    """

    title: str
    about: str = ""
    seeds: int = 3
    worlds: int = 3
    control: str = STRONGEST
    compare: tuple[tuple[str, str], ...] = ()
    validation: str = "validation"
    test: str = "test"
    tiou: str = "0.3:0.7:0.1"
    words: dict[str, str] = field(default_factory=dict)
    world: WorldOptions = field(default_factory=WorldOptions)
    pretrain: dict[str, Pretraining] = field(default_factory=dict)
    adapt: dict[str, Adaptation] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    groups: dict[str, Group] = field(default_factory=dict)
    rows: dict[str, Row]
    about_world_s: float | None = None
    about_world_mb: float | None = None
    about_run_mb: float | None = None

    def __post_init__(self) -> None:
        """Refuse a grid that hangs together badly."""
        if not self.rows:
            raise ConfigError("rows: none; a study needs at least one [rows.NAME] table")
        for name in ("seeds", "worlds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be at least 1, got {getattr(self, name)}")
        for kind, names in (("rows", self.rows), ("groups", self.groups)):
            for name in names:
                if not name.replace("_", "").isalnum() or name in (ALL, STRONGEST):
                    raise ConfigError(f"{kind}.{name}: a name is made of letters, digits and _")
        for name, row in self.rows.items():
            self._check_row(name, row)
        if self.control not in (STRONGEST, *self.rows):
            raise ConfigError(
                f"control: expected {STRONGEST} or a row, got {self.control!r} "
                f"(there are {', '.join(self.rows)})"
            )
        for pair in self.compare:
            for name in pair:
                if name not in self.rows:
                    raise ConfigError(
                        f"compare: no row {name!r} (there are {', '.join(self.rows)})"
                    )
        for group in self.group_names:
            self._check_group(group)

    def _check_row(self, name: str, row: Row) -> None:
        for key in ("teacher", "upper"):
            other = getattr(row, key)
            if other is None:
                continue
            if other not in self.rows:
                raise ConfigError(
                    f"rows.{name}.{key}: no row {other!r} (there are {', '.join(self.rows)})"
                )
            if not set(self.groups_of(name)) <= set(self.groups_of(other)):
                raise ConfigError(f"rows.{name}.{key}: row {other!r} is not in all of its groups")
        if row.upper is not None and self.rows[row.upper].role != "upper":
            raise ConfigError(f"rows.{name}.upper: row {row.upper!r} is not of the role upper")
        for group in row.groups:
            if group not in self.groups:
                raise ConfigError(
                    f"rows.{name}.groups: no group {group!r} "
                    f"(there are {', '.join(self.groups) or 'none'})"
                )
        seen, at = [name], row.teacher
        while at is not None:
            if at in seen:
                raise ConfigError(f"rows.{name}.teacher: {' <- '.join([*seen, at])} is a circle")
            seen.append(at)
            at = self.rows[at].teacher

    def _check_group(self, group: str) -> None:
        where = "rows" if group == ALL else f"groups.{group}"
        baselines = [name for name in self.names(group) if self.rows[name].role == "baseline"]
        if len(baselines) > 1:
            raise ConfigError(
                f"{where}: more than one row of the role baseline ({', '.join(baselines)}); the "
                "gap begins at one, make the others controls"
            )

    @property
    def group_names(self) -> list[str]:
        """The groups; :data:`ALL` if none are declared."""
        return list(self.groups) or [ALL]

    def groups_of(self, row: str) -> list[str]:
        """The groups that have a row."""
        return list(self.rows[row].groups) or self.group_names

    def names(self, group: str) -> list[str]:
        """The rows of a group."""
        return [name for name in self.rows if group in self.groups_of(name)]

    def upper(self, row: str, group: str) -> str | None:
        """The row that ends the gap for ``row``; None if there is none, or several and no word."""
        chosen = self.rows[row].upper
        uppers = [name for name in self.names(group) if self.rows[name].role == "upper"]
        return chosen or (uppers[0] if len(uppers) == 1 else None)

    def baseline(self, group: str) -> str | None:
        """The row at which the gap begins."""
        names = self.names(group)
        return next((name for name in names if self.rows[name].role == "baseline"), None)

    def words_of(self, group: str) -> dict[str, str]:
        """The words that hold in a group."""
        return self.words | (self.groups[group].words if group in self.groups else {})

    def settings_of(self, row: str, group: str) -> list[str]:
        """All ``--set`` options of a row of a group, words replaced; later ones win."""
        own = self.groups[group].settings if group in self.groups else ()
        words = self.words_of(group)
        return [
            expand(text, words, f"rows.{row}.settings")
            for text in (*self.settings, *own, *self.rows[row].settings, *self.overrides)
        ]

    def preset_of(self, row: str, group: str) -> str:
        """The preset of a row of a group, words replaced."""
        return expand(self.rows[row].preset, self.words_of(group), f"rows.{row}.preset")


def expand(text: str, words: Mapping[str, str], at: str) -> str:
    """Replace ``$word`` by what it stands for; ``$$`` is a dollar.

    Raises:
        ConfigError: The word is not known; ``at`` says where it stands.
    """
    try:
        return Template(text).substitute(words)
    except KeyError as error:
        known = ", ".join(words) or "none"
        raise ConfigError(f"{at}: ${error.args[0]} in {text!r} is no word ({known})") from error
    except ValueError as error:
        raise ConfigError(f"{at}: {text!r}: {error}; $$ stands for a dollar") from error
