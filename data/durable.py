"""Files that are wholly there or not at all, whatever kills the process that writes them.

A file is written under a hidden temporary name, synced, renamed, and its folder is synced. What
fails on the way leaves nothing under the final name and no temporary file either.
"""

import errno
import itertools
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tad_distill.console import UserError, describe_os_error

# A temporary file is trash when its process has ended; of another machine's, when it is this old.
STALE_AFTER_S = 24 * 3600.0
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_counter = itertools.count()
_started_at = time.time()


class WriteError(UserError):
    """A file could not be written: the process should end, its finished files are safe."""


def temporary(path: Path) -> Path:
    """A hidden sibling name for ``path`` that names machine, process and job."""
    job = re.sub(r"\W", "_", os.environ.get("SLURM_JOB_ID", "0"))[:20]
    owner = f"{_host()}.{os.getpid()}.{job}.{next(_counter)}"
    return path.with_name(f".{path.stem[:80]}.{owner}.tmp")


@contextmanager
def replacing(
    path: Path, num_bytes: int, redone: Callable[[], bool] = lambda: False
) -> Iterator[Path]:
    """Yield a temporary name to write to; afterwards ``path`` is that file, durably.

    Args:
        path: The final name.
        num_bytes: How large the file will be, for the error line.
        redone: Asked when the rename says that the temporary file is gone: whether ``path`` is
            good nevertheless. A retried rename on NFS may report this after it has succeeded.

    Raises:
        WriteError: The disk is full, or any other error of writing, in one line.
        FileNotFoundError: The folder, or the temporary file, was taken away meanwhile.
    """
    temp = temporary(path)
    try:
        yield temp
        sync(temp)
        try:
            os.replace(temp, path)
        except FileNotFoundError:
            if not redone():
                raise
        sync(path.parent)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise explain(error, path, num_bytes) from error
    finally:
        temp.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file durably, replacing one that exists."""
    with replacing(path, len(data)) as temp:
        temp.write_bytes(data)


def write_once(path: Path, data: bytes) -> bool:
    """Write a small file durably unless it exists already.

    Returns:
        Whether this call made it. Of several at once, exactly one does.
    """
    if path.exists():
        return False
    temp = temporary(path)
    try:
        temp.write_bytes(data)
        sync(temp)
        try:
            os.link(temp, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            os.replace(temp, path)  # a file system without hard links
        sync(path.parent)
    except OSError as error:
        raise explain(error, path, len(data)) from error
    finally:
        temp.unlink(missing_ok=True)
    return True


def sync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some network folders cannot
            raise
    finally:
        os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """What this user may still write on the file system of ``folder``."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


def require_space(path: Path, num_bytes: int) -> None:
    """Refuse to begin ``path`` when its file system cannot hold it.

    Raises:
        WriteError: With what is needed and what is free.
    """
    free = free_bytes(path.parent)
    if free < num_bytes:
        raise WriteError(_disk_full(path, num_bytes, free))


def explain(error: OSError, path: Path, num_bytes: int) -> WriteError:
    """One line for an error of writing ``path``."""
    if error.errno in _DISK_FULL:
        return WriteError(_disk_full(path, num_bytes, free_bytes(path.parent)))
    plain = OSError(error.errno, error.strerror)  # the file it names is the temporary one
    return WriteError(f"cannot write {path}: {describe_os_error(plain)}")


def sweep(folder: Path) -> int:
    """Unlink the temporary files that dead writers left in ``folder``.

    Returns:
        How many there were.
    """
    num_swept = 0
    for temp in folder.glob(".*.tmp"):
        try:
            host, pid = temp.name.split(".")[-5:-3]
            written_at = temp.stat().st_mtime
            stale = time.time() - written_at > STALE_AFTER_S
            if host == _host():
                # In a container every process may have the number of the one before it.
                stale |= not _alive(int(pid))
                stale |= int(pid) == os.getpid() and written_at < _started_at
            if stale:
                temp.unlink()
                num_swept += 1
        except (ValueError, FileNotFoundError):  # not of our making; or its writer was faster
            continue
    return num_swept


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "_", socket.gethostname())[:40]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _disk_full(path: Path, num_bytes: int, free: int) -> str:
    return (
        f"disk full writing {path} (need {num_bytes:,} bytes, free {free:,}); "
        "free space and run the same command again, finished work is kept"
    )
