"""The data directory and the lock that gives it to one process at a time."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from core.errors import Conflict


class HomeInUse(Conflict):
    """Another process works in this data directory."""


class Home:
    """A data directory, held exclusively while inside the `with` block.

    The lock is the kernel's (`flock`): it ends with the process, however the process ends, so a stale file never
    locks anybody out. The pid inside the file is for people.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self._descriptor: int | None = None

    def lock(self) -> None:
        """Create the directory if needed and take it.

        Raises:
            HomeInUse: another process has it; names that process.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise HomeInUse(
                f"{self.path} is in use by process {holder}; stop that process or choose another directory "
                "with --home or REFLUX_HOME"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the directory back. Does nothing when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.lock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
