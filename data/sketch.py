"""Let HDF5 lay out a file in memory, and write it to the disk ourselves.

When the disk is full or a file-size limit is met, HDF5 leaves half-open objects behind and may
end the process with a segmentation fault (measured with HDF5 2.0 and ``RLIMIT_FSIZE``). Writing
with ``os.pwrite`` turns the same event into an ordinary error. What HDF5 never writes, the space
of a large array say, takes no memory here.
"""

import errno
import io
import os


class Sketch(io.RawIOBase):
    """A file in memory with holes: ``h5py.File(Sketch(), "w")`` fills it."""

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self.size = 0
        self._pieces: list[tuple[int, bytes]] = []
        self._at = 0

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, as in any file."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        """The position, as in any file."""
        return self._at

    def truncate(self, size: int | None = None) -> int:
        """Set the size, as in any file."""
        self.size = self._at if size is None else size
        return self.size

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        """Keep a piece."""
        self._pieces.append((self._at, bytes(data)))
        self._at += len(data)
        self.size = max(self.size, self._at)
        return len(data)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Give back what was written last at each place, zeros in the holes."""
        first, stop = self._at, min(self._at + len(buffer), self.size)
        buffer[:] = bytes(len(buffer))
        for at, data in self._pieces:
            low, high = max(at, first), min(at + len(data), stop)
            if low < high:
                buffer[low - first : high - first] = data[low - at : high - at]
        self._at = max(first, stop)
        return self._at - first

    def write_to(self, descriptor: int) -> None:
        """Write the file to an open, empty one; the holes stay holes."""
        os.ftruncate(descriptor, self.size)
        for at, data in self._pieces:
            pwrite(descriptor, memoryview(data), at)


def pwrite(descriptor: int, block: memoryview, at: int) -> None:
    """Write all of a block of bytes; ``os.pwrite`` may stop half-way.

    Raises:
        OSError: The disk is full, or any other error of writing.
    """
    done = 0
    while done < len(block):
        moved = os.pwrite(descriptor, block[done:], at + done)
        if not moved:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += moved
