"""Whom the embedded server runs as. PostgreSQL refuses root, so root lends it an unprivileged user."""

import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

_NAME = "pgserver"


@dataclass(frozen=True, slots=True)
class SystemUser:
    """The numeric identity of the server's processes."""

    uid: int
    gid: int

    @property
    def is_self(self) -> bool:
        """Whether that is who we are already."""
        return self.uid == os.geteuid()

    @property
    def switch_uid(self) -> int | None:
        """What `subprocess` takes as `user`; None keeps ours."""
        return None if self.is_self else self.uid

    @property
    def switch_gid(self) -> int | None:
        """What `subprocess` takes as `group`; None keeps ours."""
        return None if self.is_self else self.gid

    @property
    def switch_groups(self) -> list[str | int] | None:
        """What `subprocess` takes as `extra_groups`: none at all for another user."""
        return None if self.is_self else []

    def take(self, path: Path) -> None:
        """Give a file or directory to this user."""
        if not self.is_self:
            os.chown(path, self.uid, self.gid)


def server_user(data_directory: Path) -> SystemUser:
    """Ourselves; for root the owner of existing data, or else the user `pgserver`, created when it is missing.

    Without `useradd` on the machine, `nobody` serves.
    """
    if os.geteuid() != 0:
        return SystemUser(os.geteuid(), os.getegid())
    if data_directory.exists() and (owner := data_directory.stat()).st_uid != 0:
        return SystemUser(owner.st_uid, owner.st_gid)
    try:
        entry = pwd.getpwnam(_NAME)
    except KeyError:
        entry = _create_user()
    return SystemUser(entry.pw_uid, entry.pw_gid)


def _create_user() -> pwd.struct_passwd:
    useradd = shutil.which("useradd")
    if useradd is None:
        return pwd.getpwnam("nobody")
    arguments = [useradd, "--system", "--no-create-home", "--shell", "/bin/false", _NAME]
    subprocess.run(arguments, check=False, capture_output=True)  # noqa: S603  # another process may have been first
    try:
        return pwd.getpwnam(_NAME)
    except KeyError:
        return pwd.getpwnam("nobody")


def allow_passage(path: Path) -> None:
    """Let other users pass through, not list, the directories above `path`. Only directories that forbid it change."""
    for parent in path.parents:
        mode = stat.S_IMODE(parent.stat().st_mode)
        if not mode & stat.S_IXOTH:
            parent.chmod(mode | stat.S_IXOTH)


def allow_reading(tree: Path) -> None:
    """Let other users read and run what stands below `tree`, when an installation under a strict umask forbade it."""
    if stat.S_IMODE(tree.stat().st_mode) & stat.S_IROTH:
        return
    for directory, _, files in os.walk(tree, topdown=False):
        for name in files:
            file = Path(directory, name)
            if not file.is_symlink():
                mode = stat.S_IMODE(file.stat().st_mode)
                file.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
        Path(directory).chmod(stat.S_IMODE(Path(directory).stat().st_mode) | stat.S_IROTH | stat.S_IXOTH)
