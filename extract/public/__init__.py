"""The public checkpoints that the backbones can load; see ``files.toml``."""

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tad_distill.console import UsageError, UserError

CATALOG = Path(__file__).with_name("files.toml")


@dataclass(frozen=True, kw_only=True)
class PublicFile:
    """A checkpoint that its authors have published.

    Attributes:
        name: As ``weights fetch`` takes it.
        stream: Backbone and modality that it was trained for.
        layout: As its tensors are named, see :mod:`tad_distill.extract.weights.layouts`.
        url: Of the file itself.
        repository: On GitHub, of its authors.
        licence: Of that repository.
        sha256: The beginning of its SHA-256, if published.
        git_blob: Its object name in Git, if published.
        top1: Kinetics-400 accuracy in percent, as published.
        note: What else to know.
    """

    name: str
    stream: str
    layout: str
    url: str
    repository: str
    licence: str
    sha256: str = ""
    git_blob: str = ""
    top1: float | None = None
    note: str = ""

    @property
    def filename(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def published(self) -> str:
        """What is published to check the file by, in words."""
        if self.sha256:
            return f"sha256 {self.sha256}..."
        return f"git blob {self.git_blob[:8]}..." if self.git_blob else "nothing"

    def check(self, path: Path) -> str:
        """Hold a file at hand against what is published.

        Returns:
            What it was held against, in words.

        Raises:
            UserError: It is another file, or a damaged one.
        """
        for kind, expected in (("sha256", self.sha256), ("git blob", self.git_blob)):
            if not expected:
                continue
            found = sha256(path) if kind == "sha256" else git_blob(path)
            if not found.startswith(expected):
                raise UserError(
                    f"{path}: its {kind} is {found}, published is {expected}; it is damaged or "
                    f"another file: remove it and fetch {self.name} again"
                )
        return self.published


def public_files(path: Path = CATALOG) -> dict[str, PublicFile]:
    """All files by name, in the order of the catalog."""
    table: dict[str, Any] = tomllib.loads(path.read_text())
    files = {}
    for name, entry in table["files"].items():
        publisher = table["publishers"][name.partition("-")[0]]
        facts = {key: value for key, value in entry.items() if key != "path"}
        files[name] = PublicFile(
            name=name,
            url=publisher["base"] + entry["path"],
            repository=publisher["repository"],
            licence=publisher["licence"],
            **facts,
        )
    return files


def public_file(name: str) -> PublicFile:
    """The file of a name.

    Raises:
        UsageError: Unknown name.
    """
    files = public_files()
    if name not in files:
        raise UsageError(
            f"{name}: no public file of this name; `tad-distill weights list` shows all of them"
        )
    return files[name]


def recognised(path: Path) -> PublicFile | None:
    """The public file that a file at hand is, by its published hash."""
    of_file = sha256(path)
    blob = git_blob(path)
    for file in public_files().values():
        if file.sha256 and of_file.startswith(file.sha256):
            return file
        if file.git_blob and blob == file.git_blob:
            return file
    return None


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as ``sha256sum`` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob(path: Path) -> str:
    """Git's name of a file's bytes: SHA-1 over its kind and size and them."""
    header = f"blob {path.stat().st_size}\0".encode()

    def begun() -> Any:
        return hashlib.sha1(header, usedforsecurity=False)

    with path.open("rb") as file:
        return hashlib.file_digest(file, begun).hexdigest()
