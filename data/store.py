"""The feature store: one folder per stream, files that never change once they have their name.

::

    STORE/
      store.json                     schema, made once
      tsm18.rgb/                     a stream; its name with ":" written "."
        spec.json                    what made the features, and the hash over it
        parts/UNIT/VIDEO-HASH.h5     a committed video that is not packed yet
        shards/STREAM-KEY.h5         a sealed unit of videos; KEY follows from the contents
        failed/UNIT/VIDEO-HASH.json  a video that could not be extracted, and why
        index.h5                     cache over the shards, may be deleted at any time
        quarantine/                  what ``data repair`` has put aside

The files are described in :mod:`tad_distill.data.shards`; h5py alone reads them. Rules:

1. A name that ends in ``.h5`` and has no leading dot is complete and is never written again.
2. A video is committed if and only if a sealed shard lists it, or its part exists, with the hash
   of its source file. No log and no database counts.
3. The rows of one video are contiguous, and a CRC-32 of them is stored.
4. A part is unlinked only after the shard that holds it is durable. While both exist the shard
   counts.
5. ``index.h5`` is derived. A shard that it lists and that is gone is an error by name.
6. A feature that float16 cannot hold is an error naming the video.

A video's name is any file stem of up to 255 bytes of UTF-8, kept byte for byte. In the files it
stands as UTF-8; the name of a part is its readable letters and a hash.
"""

import json
from pathlib import Path

from tad_distill.console import UserError
from tad_distill.data import durable
from tad_distill.data.repair import repair, verify
from tad_distill.data.spec import StreamSpec
from tad_distill.data.stream import Entry, Stream, rebuild_index
from tad_distill.data.writer import Failure, Writer

__all__ = [
    "Entry",
    "Failure",
    "Store",
    "Stream",
    "StreamSpec",
    "Writer",
    "rebuild_index",
    "repair",
    "verify",
]

MARKER, SPEC = "store.json", "spec.json"
SCHEMA = 1

_RESTORE = "its settings also stand in every shard, as the attribute 'spec'"


class Store:
    """A folder of streams; make one with :meth:`create` or :meth:`open`."""

    def __init__(self, path: Path) -> None:
        """Use :meth:`create` or :meth:`open`."""
        self.path = path

    @classmethod
    def create(cls, path: Path) -> "Store":
        """Make a store, or open the one that is there.

        Raises:
            UserError: The folder holds something else.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise UserError(f"{path}: not a folder, a feature store is one")
        path.mkdir(parents=True, exist_ok=True)
        occupied = any(not p.name.startswith(".") for p in path.iterdir())
        # Looked for after the rest, as another process may be making the store now.
        if occupied and not (path / MARKER).exists():
            raise UserError(f"{path}: not empty and not a feature store; name a new folder")
        text = json.dumps({"format": "tad-distill feature store", "schema": SCHEMA})
        durable.write_once(path / MARKER, text.encode())
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open a store.

        Raises:
            UserError: There is none, or a newer version wrote it.
        """
        path = Path(path)
        try:
            facts = json.loads((path / MARKER).read_bytes())
        except FileNotFoundError as error:
            raise UserError(
                f"{path}: no feature store ({MARKER} is missing); make one with tad-distill "
                "extract or tad-distill data import"
            ) from error
        except (ValueError, NotADirectoryError) as error:
            raise UserError(f"{path / MARKER}: cannot be read: {error}") from error
        schema = facts.get("schema") if isinstance(facts, dict) else None
        if schema != SCHEMA:
            raise UserError(f"{path / MARKER}: schema {schema}, this version reads {SCHEMA}")
        return cls(path)

    def streams(self) -> list[str]:
        """The names of the streams, sorted."""
        return sorted(_read_spec(path.parent).stream for path in self.path.glob(f"*/{SPEC}"))

    def stream(self, name: str) -> "Stream":
        """Open a stream for reading.

        Raises:
            UserError: There is none of that name; the message lists those there are.
        """
        there = self.streams()
        if name not in there:
            names = ", ".join(there) or "none"
            raise UserError(f"{self.path}: no stream {name!r} (there are: {names})")
        folder = self.path / name.replace(":", ".")
        return Stream(folder, _read_spec(folder))

    def create_stream(self, spec: StreamSpec) -> "Stream":
        """Make a stream, or open the one that was made with the same settings.

        Raises:
            UserError: The stream was made with other settings; the message names those that
                differ.
        """
        folder = self.path / spec.folder
        folder.mkdir(exist_ok=True)
        text = json.dumps({"schema": SCHEMA, "spec_hash": spec.hash, **json.loads(spec.json())})
        durable.write_once(folder / SPEC, (text + "\n").encode())
        there = _read_spec(folder)
        if there.hash != spec.hash:
            raise UserError(
                f"{folder}: stream {there.stream} was made with other settings: "
                f"{'; '.join(spec.differences(there))}; use another store, or delete the folder"
            )
        return Stream(folder, there)


def _read_spec(folder: Path) -> StreamSpec:
    path = folder / SPEC
    try:
        table = json.loads(path.read_bytes())
        table.pop("schema", None)
        recorded = table.pop("spec_hash", None)
        spec = StreamSpec.from_table(table)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read: {error}; {_RESTORE}") from error
    if spec.hash != recorded:
        raise UserError(
            f"{path}: altered since it was written (its hash is {spec.hash[:12]}, recorded "
            f"{str(recorded)[:12]}); {_RESTORE}"
        )
    return spec
