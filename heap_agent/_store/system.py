"""
What differs between Linux, macOS and Windows, with a portable fallback for each.

This module must not know what is stored: it deals in clocks, descriptors,
directories and bytes. Every choice of a platform is a small function or an
argument, so that the fallbacks run on any machine.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol, TypeAlias, cast

POSIX: Final = os.name == "posix"

#: Writes to a descriptor some bytes, of which there are so many; how many it took.
Write: TypeAlias = Callable[[int, bytes, int], int]

#: One block of most file systems: less may fit into an inode of a full disk.
PROBE_BYTES: Final = 4096


class UnsafeDirectory(OSError):
    """
    The state directory is not ours alone; nothing was written there.
    """


# -- clocks --------------------------------------------------------------------


class ClockLike(Protocol):
    """
    What the rest of the package asks of a clock.
    """

    def wall_ns(self) -> int:
        """Nanoseconds since 1970, right or wrong."""

    def boot_ns(self) -> int:
        """Nanoseconds that never step, and that count suspend where possible."""

    @property
    def boot_id(self) -> str:
        """`boot_ns` of two processes compare only under the same id."""


def boot_clock(source: object = time) -> Callable[[], int]:
    """
    Choose the clock that nobody sets and that goes on during suspend.

    Args:
        source: A module with the names of `time`.

    Returns:
        A function without arguments: nanoseconds.
    """
    # Linux counts suspend in CLOCK_BOOTTIME; macOS in CLOCK_MONOTONIC_RAW, while
    # its time.monotonic does not. A Linux without BOOTTIME must not get RAW,
    # which the kernel does not discipline there.
    names = ["CLOCK_BOOTTIME"]
    if sys.platform == "darwin":
        names.append("CLOCK_MONOTONIC_RAW")
    read = getattr(source, "clock_gettime_ns", None)
    for name in names:
        number = getattr(source, name, None)
        if read is None or number is None:
            continue
        with suppress(OSError):
            read(number)
            return functools.partial(read, number)
    monotonic: Callable[[], int] = getattr(source, "monotonic_ns")  # noqa: B009
    return monotonic


def first_answer(readers: Iterable[Callable[[], str]]) -> str:
    """
    Ask in order, and take the first text that is not blank.

    Returns:
        The text without surrounding white space; "" when nobody knows.
    """
    for reader in readers:
        with suppress(OSError, ValueError, AttributeError):
            answer = reader().strip()
            if answer:
                return answer
    return ""


def boot_id(readers: Iterable[Callable[[], str]] | None = None) -> str:
    """
    What names this boot of the machine.

    Returns:
        The system's own id, else a random one: then each process counts as a
        boot of its own, and no clock reading of another is compared with it.
    """
    known = first_answer(_BOOT_ID_READERS if readers is None else readers)
    return known or os.urandom(16).hex()


def machine_id(readers: Iterable[Callable[[], str]] | None = None) -> str:
    """
    What tells this machine from a clone of its disk.

    Returns:
        The operating system's id, or "" where there is none.
    """
    known = first_answer(_MACHINE_ID_READERS if readers is None else readers)
    # systemd writes this word into an image that has never been booted.
    return "" if known == "uninitialized" else known


class Clock:
    """
    The system's clocks.

    The readings are instance attributes bound to the builtins themselves, so
    that a hot path can hold ``clock.wall_ns`` and pay for no Python frame.

    Attributes:
        wall_ns: Nanoseconds since 1970, right or wrong.
        boot_ns: Nanoseconds that never step, and that count suspend where the
            system has such a clock.
        boot_id: `boot_ns` of two processes compare only under the same id.
    """

    __slots__ = ("boot_id", "boot_ns", "wall_ns")

    def __init__(self) -> None:
        self.wall_ns: Callable[[], int] = time.time_ns
        self.boot_ns: Callable[[], int] = boot_clock()
        self.boot_id = boot_id()


def _read(path: str) -> Callable[[], str]:
    return lambda: Path(path).read_text("ascii")


if sys.platform == "win32":
    import winreg

    def _registry(key: str, name: str) -> Callable[[], str]:
        def read() -> str:
            with winreg.OpenKey(
                winreg.HKEY_LOCAL_MACHINE, key, 0, winreg.KEY_READ | winreg.KEY_WOW64_64KEY
            ) as opened:
                return str(winreg.QueryValueEx(opened, name)[0])

        return read

    _BOOT_ID_READERS: tuple[Callable[[], str], ...] = (
        _registry(
            r"SYSTEM\CurrentControlSet\Control\Session Manager"
            r"\Memory Management\PrefetchParameters",
            "BootId",
        ),
    )
    _MACHINE_ID_READERS: tuple[Callable[[], str], ...] = (
        _registry(r"SOFTWARE\Microsoft\Cryptography", "MachineGuid"),
    )
elif sys.platform == "darwin":
    import ctypes

    def _boot_session() -> str:
        size = ctypes.c_size_t(64)
        text = ctypes.create_string_buffer(size.value)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.sysctlbyname(b"kern.bootsessionuuid", text, ctypes.byref(size), None, 0):
            raise OSError(ctypes.get_errno(), "sysctlbyname")
        return text.value.decode("ascii")

    def _host_uuid() -> str:
        uuid = ctypes.create_string_buffer(16)
        patience = (ctypes.c_long * 2)(1, 0)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.gethostuuid(uuid, ctypes.byref(patience)):
            raise OSError(ctypes.get_errno(), "gethostuuid")
        return uuid.raw.hex()

    _BOOT_ID_READERS = (_boot_session,)
    _MACHINE_ID_READERS = (_host_uuid,)
else:
    _BOOT_ID_READERS = (_read("/proc/sys/kernel/random/boot_id"),)
    _MACHINE_ID_READERS = (_read("/etc/machine-id"), _read("/var/lib/dbus/machine-id"))


# -- stable storage ------------------------------------------------------------


def _sync_through_the_drive(fd: int) -> None:
    """On macOS fsync stops at the drive's cache; F_FULLFSYNC empties that too."""
    import fcntl

    try:
        fcntl.fcntl(fd, getattr(fcntl, "F_FULLFSYNC"))  # noqa: B009
    except (OSError, AttributeError):
        os.fsync(fd)


def choose_sync(source: object = os, platform: str = sys.platform) -> Callable[[int], None]:
    """
    Choose the cheapest call that puts a file's data on stable storage.

    Args:
        source: A module with the names of `os`.
        platform: As `sys.platform`.
    """
    if platform == "darwin":
        return _sync_through_the_drive
    cheapest: Callable[[int], None] = getattr(source, "fdatasync", None) or os.fsync
    return cheapest


#: `data_sync(fd)`: returns when the file's data and size are on stable storage.
data_sync: Final[Callable[[int], None]] = choose_sync()


def file_sync(path: Path) -> None:
    """
    Put a closed file's data on stable storage.

    Raises:
        OSError: It is missing, or the disk refuses.
    """
    fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        data_sync(fd)
    finally:
        os.close(fd)


def directory_sync(path: Path, *, supported: bool = POSIX) -> None:
    """
    Put a directory's entries on stable storage: files made, renamed, removed.

    Args:
        path: The directory.
        supported: False where directories cannot be opened (Windows, which
            keeps the order of its metadata by itself): nothing is done.

    Raises:
        OSError: The directory is missing, or the disk refuses.
    """
    if not supported:
        return
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(fd)
    except OSError as error:
        # Some FUSE and flash file systems have no such call for directories.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(fd)


# -- private files -------------------------------------------------------------


def make_private_directory(path: Path, *, posix: bool = POSIX) -> Path:
    """
    Make, or check, a directory that only this user may enter.

    A new one gets mode 0700 whatever the umask; missing parents get 0755 less
    the umask, never more. An empty one of ours is tightened to 0700; one that
    holds files is left as it is, since it may be somebody's home, and our
    files are 0600 anyhow.

    Args:
        path: Where; symlinks are resolved.
        posix: Whether owners and modes mean anything here.

    Returns:
        The directory without symlinks.

    Raises:
        UnsafeDirectory: It is no directory, belongs to neither us nor root, or
            others may write to it.
        OSError: It cannot be made.
    """
    target = Path(os.path.realpath(path))
    _make_parents(target.parent)
    created = False
    with suppress(FileExistsError):
        os.mkdir(target, 0o700)
        created = True
    if not target.is_dir():
        raise UnsafeDirectory(f"{target} is in the way: a directory is needed there.")
    if posix:
        _check_owner(target)
        _tighten(target, created)
    return target


def _make_parents(path: Path) -> None:
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(folder, 0o755)


def _check_owner(target: Path) -> None:
    found = target.stat()
    us = os.geteuid()
    if found.st_uid not in (us, 0):
        raise UnsafeDirectory(
            f"{target} belongs to user {found.st_uid}; allowed are this user ({us}) and root. "
            "Give the directory to this user, or choose another one."
        )
    if found.st_mode & 0o022:
        raise UnsafeDirectory(
            f"{target} has mode {stat.S_IMODE(found.st_mode):04o}: others may write to it. "
            "Take that away (chmod go-w), or choose another directory."
        )


def _tighten(target: Path, created: bool) -> None:
    if stat.S_IMODE(target.stat().st_mode) == 0o700:
        return
    with suppress(OSError):  # root's directory, or a file system without modes
        if created or not any(target.iterdir()):
            target.chmod(0o700)


def open_private(path: Path | str, flags: int) -> int:
    """
    Open a file that only this user may read; a new one gets mode 0600 whatever the umask.

    Args:
        path: The file; a symlink in its place is refused where that is possible.
        flags: As for `os.open`; bytes are never translated.

    Returns:
        A descriptor that child programs do not inherit (as `os.open` sees to).
    """
    careful = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    fd = os.open(path, flags | careful, 0o600)
    if POSIX and flags & os.O_CREAT and os.fstat(fd).st_mode & 0o600 != 0o600:
        # The umask has taken from us what only we had: nobody could open it again.
        with suppress(OSError):  # a file system without modes
            os.fchmod(fd, 0o600)
    return fd


def holding_write() -> Write | None:
    """
    `write(2)` for a caller that would rather not let go of the interpreter. It gives -1
    where the system refuses; `os.write` says why. None where it cannot be had.
    """
    if not POSIX or sys.implementation.name != "cpython":
        return None
    try:
        from ctypes import PyDLL, c_ssize_t

        write = PyDLL(None).write
        # The types of the arguments are left to ctypes: to check them takes as long as the
        # call. It widens an int, and no record has 2^31 bytes.
        write.restype = c_ssize_t
    except Exception:  # an interpreter without ctypes, a C library without a name
        return None
    return cast(Write, write)


def write_at_start(fd: int, content: bytes, source: object = os) -> None:
    """
    Write over the beginning of a file, all of it or (where the system has a call
    for it) nothing.
    """
    write = getattr(source, "pwrite", None)
    if write is not None:
        write(fd, content, 0)
    else:
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, content)


def _write_new(path: Path, content: bytes) -> None:
    fd = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        data_sync(fd)
    finally:
        os.close(fd)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")


def publish(path: Path, content: bytes, *, link: Callable[[Path, Path], None] = os.link) -> bytes:
    """
    Create a file once, complete and on stable storage, whoever else tries.

    Args:
        path: The file.
        content: What it shall hold if nobody was first.
        link: As `os.link`; where the file system has no links, a lock file
            beside it decides.

    Returns:
        What it holds: our content, or that of whoever was first.

    Raises:
        OSError: The disk refuses.
    """
    temporary = _beside(path)
    try:
        _write_new(temporary, content)
        try:
            link(temporary, path)
        except FileExistsError:
            pass
        except OSError as error:
            if is_full(error):
                raise
            _publish_under_lock(temporary, path)
    finally:
        unlink_quietly(temporary)
    directory_sync(path.parent)
    # Whoever was first has written no more.
    return read_private(path, max(len(content), PROBE_BYTES))


@contextmanager
def replacing(path: Path, content: bytes) -> Iterator[None]:
    """
    Make a file hold something else when the block is done, wholly and on stable storage.
    The room for it is taken before: a full disk refuses while nothing has been done.

    Raises:
        OSError: The disk refuses; then it holds what it held.
    """
    temporary = _beside(path)
    try:
        _write_new(temporary, content)
        yield
        os.replace(temporary, path)
    finally:
        unlink_quietly(temporary)
    directory_sync(path.parent)


def read_private(path: Path, most: int) -> bytes:
    """
    Read the beginning of a small file, and wait for nothing.

    Args:
        path: The file.
        most: Bytes.

    Raises:
        OSError: It is missing, cannot be read, or is no file.
    """
    # A pipe would keep whoever opens it until somebody writes.
    fd = open_private(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no file", str(path))
        return os.read(fd, most)
    finally:
        os.close(fd)


def _publish_under_lock(temporary: Path, path: Path) -> None:
    # FAT and some FUSE file systems have no links, and nowhere does a portable
    # rename refuse to replace. The lock dies with its holder; the file stays.
    # Imported here because it costs more than the rest of the package together.
    from filelock import FileLock

    with FileLock(f"{path}.lock", mode=0o600):
        if not path.exists():
            os.replace(temporary, path)


def unlink_quietly(path: Path) -> bool:
    """
    Remove a file if that is possible.

    Returns:
        True when nothing is left there, also when nothing was there before.
        False where it stays: Windows keeps a file that somebody has open.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


# -- the disk ------------------------------------------------------------------

_FULL: Final = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}

#: ERROR_HANDLE_DISK_FULL, ERROR_DISK_FULL, ERROR_DISK_QUOTA_EXCEEDED.
_FULL_ON_WINDOWS: Final = {39, 112, 1295}


def is_full(error: OSError) -> bool:
    """
    Whether a write failed for want of room: disk, quota or file size limit.
    """
    return error.errno in _FULL or getattr(error, "winerror", None) in _FULL_ON_WINDOWS


def probe_error(directory: Path) -> OSError | None:
    """
    Write, sync and remove one block, and say what went wrong.

    SQLite reports a quota as an I/O error and a dying card as a damaged file;
    what a plain file meets in the same place is the truth.

    Returns:
        None when all is well, else the error (`is_full` tells the two apart).
    """
    path = _beside(directory / "probe")
    try:
        # Not zeros: some file systems store those for nothing.
        _write_new(path, os.urandom(PROBE_BYTES))
    except OSError as error:
        return error
    finally:
        unlink_quietly(path)
    return None


def refusal(directory: Path) -> OSError | None:
    """
    Why a disk takes nothing from whoever owns a directory, as its file system says: for
    those who must not write there.

    Returns:
        None where it does not say.
    """
    found = os.statvfs(directory)
    number = 0
    if found.f_flag & os.ST_RDONLY:
        number = errno.EROFS
    # Some file systems do not count blocks.
    elif found.f_blocks and found.f_bavail * found.f_frsize < PROBE_BYTES:
        number = errno.ENOSPC
    return OSError(number, os.strerror(number)) if number else None


def probe_write(directory: Path) -> bool:
    """
    Whether a small file can be written and synced here.
    """
    return probe_error(directory) is None


def free_bytes(directory: Path) -> int:
    """
    Bytes that this user may still write on the directory's file system.
    """
    if hasattr(os, "statvfs"):
        found = os.statvfs(directory)
        return found.f_bavail * found.f_frsize
    import shutil

    return shutil.disk_usage(directory).free


#: File systems whose locks or shared memory SQLite cannot rely on.
_NETWORK: Final = {
    *("9p", "afs", "ceph", "cifs", "coda", "davfs", "glusterfs", "gpfs", "lustre"),
    *("ncpfs", "nfs", "nfs4", "orangefs", "s3fs", "smb3", "smbfs", "sshfs", "rclone"),
}


def is_unpacked(directory: Path) -> bool:
    """
    Whether a directory lies where a frozen program has its own files: one that is a
    single file unpacks them to another place at each start, and removes them at its end.
    """
    place = getattr(sys, "_MEIPASS", None)
    if place is None:
        return False
    return Path(os.path.realpath(directory)).is_relative_to(os.path.realpath(place))


def network_filesystem(directory: Path, mounts: str | None = None) -> str | None:
    """
    The network file system that a directory lies on.

    Args:
        directory, mounts: As for `filesystem`.

    Returns:
        A name such as "nfs4" or "cifs"; None for a local file system, and where
        it cannot be told.
    """
    if sys.platform == "win32":
        return _windows_share(directory)
    kind = filesystem(directory, mounts)
    return kind if kind in _NETWORK else None


def filesystem(directory: Path, mounts: str | None = None) -> str:
    """
    The kind of file system that a directory lies on.

    Args:
        directory: It need not exist yet.
        mounts: Text as in Linux's ``/proc/self/mountinfo``; read from there
            by default.

    Returns:
        A name such as "ext4" or "tmpfs"; "" where it cannot be told.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
        except OSError:
            return ""
    return _mounted(Path(os.path.realpath(directory)), mounts).removeprefix("fuse.")


def _mounted(directory: Path, mounts: str) -> str:
    """Type of the file system that is mounted last and deepest above a path."""
    depth, kind = 0, ""
    for line in mounts.splitlines():
        left, separator, right = line.partition(" - ")
        fields = left.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4]))
        if len(point.parts) >= depth and directory.is_relative_to(point):
            depth, kind = len(point.parts), right.split(" ", 1)[0]
    return kind


if sys.platform == "win32":
    import ctypes

    def _windows_share(directory: Path) -> str | None:
        anchor = Path(os.path.realpath(directory)).anchor
        remote = 4
        return "smb" if ctypes.windll.kernel32.GetDriveTypeW(anchor) == remote else None
