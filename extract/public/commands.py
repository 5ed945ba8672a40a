"""The commands ``weights list``, ``weights fetch`` and ``weights check``."""

import functools
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tad_distill import console
from tad_distill.console import FAILED, UsageError, UserError
from tad_distill.extract import public

if TYPE_CHECKING:
    from tad_distill.extract.weights import Contents


@click.command("list")
@click.argument("stream", default="")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def list_(stream: str, as_json: bool) -> None:
    """Public checkpoints; with STREAM only those for it, as tsm50 or i3d:flow."""
    files = [file for file in public.public_files().values() if stream in ("", *_names(file))]
    if not files:
        raise UsageError(f"{stream}: no public checkpoint is known for it")
    if as_json:
        console.result(json.dumps([asdict(file) for file in files], indent=2))
        return
    rows = [
        (
            file.name,
            file.stream,
            file.layout,
            file.licence,
            file.published,
            "" if file.top1 is None else f"{file.top1:.2f}",
        )
        for file in files
    ]
    columns = ("file", "stream", "layout", "licence", "published check", "top-1 %")
    console.table(columns, rows, align_left=5)
    for file in files:
        console.result(f"{file.name}  {file.url}" + (f"  ({file.note})" if file.note else ""))


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("weights"),
    show_default=True,
    help="Folder to put the files in.",
)
def fetch(names: tuple[str, ...], out: Path) -> None:
    """Download public checkpoints by NAME, check them and give them their names.

    An interrupted download goes on where it stopped. A file is held against the hash that its
    publisher states, if any, and read: it must be of its layout and fit its backbone to the last
    key.
    """
    from tad_distill.extract.public.download import download

    files = [public.public_file(name) for name in names]
    out.mkdir(parents=True, exist_ok=True)
    for file in files:
        path = out / file.filename
        held = path.exists()
        if held:
            _verify(file, path)
        else:
            download(file.url, path, functools.partial(_verify, file))
        event = "fetched_before" if held else "fetched"
        digest = public.sha256(path)
        console.log(event, name=file.name, stream=file.stream, sha256=digest, file=path)
        console.result(str(path))


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--backbone", help="Fail if the file does not fit this backbone, as i3d.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def check(path: Path, backbone: str | None, as_json: bool) -> int:
    """Say what a checkpoint FILE holds and which backbones its weights fit to the last key."""
    from tad_distill.extract import weights

    contents = weights.read(path)
    fitting = weights.fits(contents)
    facts = _facts(path, contents, fitting)
    if as_json:
        console.result(json.dumps(facts, indent=2, default=console.jsonable))
    else:
        for key, value in facts.items():
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            console.result(f"{key:16}{console.one_line(str(text))}")
    if backbone and backbone not in fitting:
        weights.load(weights.build(backbone), path)  # says which keys do not fit
        raise UserError(f"{path}: holds a {contents.provenance['backbone']}, not a {backbone}")
    return 0 if fitting else FAILED


def _names(file: public.PublicFile) -> tuple[str, str]:
    return file.stream, file.stream.partition(":")[0]


def _verify(file: public.PublicFile, path: Path) -> None:
    """Hold a file against its published hash, and against what it should be able to load into."""
    from tad_distill.extract import weights

    file.check(path)
    contents = weights.read(path)
    backbone = file.stream.partition(":")[0]
    layout = contents.layout.name if contents.layout else weights.OWN_LAYOUT
    if layout != file.layout or backbone not in weights.fits(contents):
        raise UserError(
            f"{path}: is a {layout} file for {', '.join(weights.fits(contents)) or 'nothing'}, "
            f"expected {file.layout} for {backbone}: the publisher has changed it"
        )


def _facts(path: Path, contents: "Contents", fitting: list[str]) -> dict[str, Any]:
    known = public.recognised(path)
    provenance = contents.provenance
    facts: dict[str, Any] = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": public.sha256(path),
        "public as": known.name if known else "none whose hash is published",
        "layout": provenance["layout"],
        "fits": fitting or ["no backbone"],
        "input channels": contents.channels,
        "tensors": len(contents.tensors),
        "ignored": contents.ignored or ["nothing"],
        "pretraining": provenance["pretraining"],
    }
    for key in ("modality", "copy"):
        if key in provenance:
            facts[key] = provenance[key]
    return facts
