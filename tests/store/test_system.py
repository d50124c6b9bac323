"""
The operating system's differences: what is asked of each, and what happens without it.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from heap_agent._store import system
from heap_agent._store.system import Clock, ClockLike, UnsafeDirectory

posix_only = pytest.mark.skipif(not system.POSIX, reason="owners and modes are POSIX")
root_only = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away"
)


@pytest.fixture(name="umask", params=[0o000, 0o077, 0o777], ids=oct)
def _umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- clocks --------------------------------------------------------------------


def test_clock_readings_are_the_builtins() -> None:
    """The wall clock is time.time_ns itself, so a hot path pays for no frame."""
    clock: ClockLike = Clock()

    assert time.time_ns is clock.wall_ns
    assert clock.boot_ns() <= clock.boot_ns()


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="Linux has this clock")
def test_boot_clock_counts_suspend_on_linux() -> None:
    """On Linux the boot clock is CLOCK_BOOTTIME."""
    read = system.boot_clock()

    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert before <= read() <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_boot_clock_without_boottime_is_monotonic() -> None:
    """A system without the named clocks gets time.monotonic_ns."""
    bare = SimpleNamespace(monotonic_ns=time.monotonic_ns)

    assert time.monotonic_ns is system.boot_clock(bare)


def test_boot_clock_that_the_kernel_refuses_is_passed_over() -> None:
    """A clock that exists by name only is not chosen."""

    def refuse(number: int) -> int:
        raise OSError(errno.EINVAL, "no such clock")

    odd = SimpleNamespace(CLOCK_BOOTTIME=7, clock_gettime_ns=refuse, monotonic_ns=time.monotonic_ns)

    assert time.monotonic_ns is system.boot_clock(odd)


def test_boot_id_is_the_same_for_every_clock_of_a_boot() -> None:
    """Two clocks of one machine share the boot id where the system has one."""
    if not system.first_answer(system._BOOT_ID_READERS):
        pytest.skip("this system names no boot")

    assert Clock().boot_id == Clock().boot_id == system.boot_id()


def test_boot_id_falls_back_to_a_random_one() -> None:
    """Without a source every process counts as a boot of its own."""
    first, second = system.boot_id([]), system.boot_id([])

    assert first != second
    assert len(first) == 32


def test_first_answer_passes_over_errors_and_blanks() -> None:
    """A missing, unreadable or blank source leaves the word to the next."""

    def missing() -> str:
        raise FileNotFoundError

    def garbled() -> str:
        return b"\xff".decode("ascii")

    assert "right" == system.first_answer([missing, garbled, lambda: " \n", lambda: "right\n"])
    assert "" == system.first_answer([missing])


def test_machine_id_of_a_fresh_image_is_no_id() -> None:
    """The word that systemd puts into an unbooted image names no machine."""
    assert "" == system.machine_id([lambda: "uninitialized\n"])
    assert "c0ffee" == system.machine_id([lambda: "c0ffee\n"])
    assert system.machine_id() == system.machine_id()


# -- stable storage ------------------------------------------------------------


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32", "freebsd14"])
def test_every_platform_has_a_sync(platform: str, tmp_path: Path) -> None:
    """Whatever call a platform gets, it takes a descriptor and returns."""
    fd = system.open_private(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    try:
        os.write(fd, b"data")
        system.choose_sync(platform=platform)(fd)
        system.data_sync(fd)
    finally:
        os.close(fd)


def test_sync_without_fdatasync_is_fsync() -> None:
    """A platform without fdatasync gets fsync."""
    assert os.fsync is system.choose_sync(SimpleNamespace(), "win32")


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_sync_reports_a_closed_descriptor(platform: str, tmp_path: Path) -> None:
    """A sync that did not happen is never taken for one."""
    fd = system.open_private(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    os.close(fd)

    with pytest.raises(OSError, match="Bad file descriptor"):
        system.choose_sync(platform=platform)(fd)


def test_directory_sync_wants_a_directory(tmp_path: Path) -> None:
    """A directory can be synced; a missing one is an error, unless nothing is supported."""
    system.directory_sync(tmp_path)
    system.directory_sync(tmp_path / "missing", supported=False)

    if system.POSIX:
        with pytest.raises(FileNotFoundError):
            system.directory_sync(tmp_path / "missing")


# -- private files -------------------------------------------------------------


@posix_only
def test_new_directory_is_private_whatever_the_umask(umask: int, tmp_path: Path) -> None:
    """A new directory has mode 0700 under any umask."""
    made = system.make_private_directory(tmp_path / "state")

    assert made == tmp_path / "state"
    assert 0o700 == mode(made)


@posix_only
def test_parents_are_never_writable_by_others(tmp_path: Path) -> None:
    """Missing parents are readable as usual, but a umask of 0 does not open them."""
    before = os.umask(0)
    try:
        made = system.make_private_directory(tmp_path / "a" / "b" / "state")
    finally:
        os.umask(before)

    assert [0o755, 0o755, 0o700] == [mode(made.parent.parent), mode(made.parent), mode(made)]


def test_making_twice_is_making_once(tmp_path: Path) -> None:
    """A directory that is there already, files and all, is taken as it is."""
    made = system.make_private_directory(tmp_path / "state")
    (made / "file").write_text("kept")

    assert made == system.make_private_directory(tmp_path / "state")
    assert "kept" == (made / "file").read_text()


@posix_only
def test_empty_directory_of_ours_is_tightened(tmp_path: Path) -> None:
    """An empty directory that others could read is closed to them."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o755)

    assert 0o700 == mode(system.make_private_directory(tmp_path / "state"))


@posix_only
def test_directory_with_files_keeps_its_mode(tmp_path: Path) -> None:
    """A directory in use, a home for instance, is not closed to its readers."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web").chmod(0o755)
    (tmp_path / "web" / "index.html").touch()

    assert 0o755 == mode(system.make_private_directory(tmp_path / "web"))


@posix_only
@pytest.mark.parametrize("writable", [0o770, 0o702, 0o777, 0o1777], ids=oct)
def test_directory_that_others_may_write_is_refused(writable: int, tmp_path: Path) -> None:
    """Group or others with write permission: refused, and the sentence says what to do."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(writable)

    with pytest.raises(UnsafeDirectory, match="others may write to it.*chmod go-w"):
        system.make_private_directory(tmp_path / "state")


@root_only
def test_directory_of_a_stranger_is_refused(tmp_path: Path) -> None:
    """A directory that belongs to neither us nor root is refused, behind a symlink too."""
    (tmp_path / "state").mkdir(mode=0o700)
    os.chown(tmp_path / "state", 12345, 12345)
    (tmp_path / "link").symlink_to(tmp_path / "state")

    for path in (tmp_path / "state", tmp_path / "link"):
        with pytest.raises(UnsafeDirectory, match="belongs to user 12345"):
            system.make_private_directory(path)


@posix_only
def test_symlinks_are_resolved_and_a_dangling_one_is_filled(tmp_path: Path) -> None:
    """A symlink leads to its target, which is made where it is missing."""
    (tmp_path / "link").symlink_to(tmp_path / "private" / "state")

    made = system.make_private_directory(tmp_path / "link")

    assert made == tmp_path / "private" / "state"
    assert 0o700 == mode(made)


def test_file_in_the_way_is_refused(tmp_path: Path) -> None:
    """A file where the directory should be is an error with its path."""
    (tmp_path / "state").write_text("a file")

    with pytest.raises(UnsafeDirectory, match="is in the way"):
        system.make_private_directory(tmp_path / "state")


def test_without_owners_and_modes_nothing_is_checked(tmp_path: Path) -> None:
    """On a system without modes a directory is made and taken as it is."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)

    assert (tmp_path / "state") == system.make_private_directory(tmp_path / "state", posix=False)


@posix_only
def test_private_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    """A new file has mode 0600 and is not inherited by child programs."""
    for umask in (0o000, 0o077, 0o277, 0o777):
        before = os.umask(umask)
        try:
            fd = system.open_private(tmp_path / oct(umask), os.O_WRONLY | os.O_CREAT)
        finally:
            os.umask(before)
        assert not os.get_inheritable(fd)
        os.close(fd)
        assert 0o600 == mode(tmp_path / oct(umask))


@posix_only
def test_private_file_does_not_follow_a_symlink(tmp_path: Path) -> None:
    """A symlink planted in a file's place is refused."""
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError) as caught:
        system.open_private(tmp_path / "link", os.O_WRONLY | os.O_CREAT)

    assert errno.ELOOP == caught.value.errno
    assert not (tmp_path / "elsewhere").exists()


# -- publish -------------------------------------------------------------------


def no_links(source: Path, target: Path) -> None:
    """What a FAT file system answers."""
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("link", [os.link, no_links])
def test_first_to_publish_wins(link: Callable[[Path, Path], None], tmp_path: Path) -> None:
    """The second to publish is given what the first wrote, and no scrap is left."""
    path = tmp_path / "user_id"

    assert b"first" == system.publish(path, b"first", link=link)
    assert b"first" == system.publish(path, b"second", link=link)
    assert {"user_id"} == {found.name for found in tmp_path.iterdir()} - {"user_id.lock"}


@posix_only
@pytest.mark.parametrize("link", [os.link, no_links])
def test_published_file_is_private(link: Callable[[Path, Path], None], tmp_path: Path) -> None:
    """Published files, and a lock beside them, are for this user only."""
    system.publish(tmp_path / "user_id", b"1", link=link)

    assert {0o600} == {mode(found) for found in tmp_path.iterdir()}


def test_publish_on_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """Without room the error comes through, and neither file stays."""

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        system.publish(tmp_path / "user_id", b"1", link=full)
    assert [] == list(tmp_path.iterdir())


def _publish_own_pid(path: Path, links: bool) -> bytes:
    own = str(os.getpid()).encode()
    return system.publish(path, own, link=os.link if links else no_links)


@pytest.mark.parametrize("links", [True, False])
def test_processes_that_publish_at_once_agree(links: bool, tmp_path: Path) -> None:
    """Of several processes that start together, all get the same content."""
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        for round_ in range(5):
            calls = [
                pool.apply_async(_publish_own_pid, (tmp_path / str(round_), links))
                for _ in range(6)
            ]
            assert 1 == len({call.get(30) for call in calls})


# -- the disk ------------------------------------------------------------------


def test_unlink_quietly_tells_whether_it_is_gone(tmp_path: Path) -> None:
    """True for a removed and for an absent file, False for what cannot be removed."""
    (tmp_path / "file").touch()

    assert system.unlink_quietly(tmp_path / "file")
    assert system.unlink_quietly(tmp_path / "file")
    assert not system.unlink_quietly(tmp_path)
    assert tmp_path.is_dir()


def test_full_is_disk_quota_or_file_size() -> None:
    """No space, no quota and a file too large are "full"; a dying disk is not."""
    quota_on_windows = OSError("quota")
    quota_on_windows.winerror = 1295  # type: ignore[attr-defined,unused-ignore]

    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        assert system.is_full(OSError(number, "full"))
    assert system.is_full(quota_on_windows)
    for number in (errno.EIO, errno.EROFS, errno.EACCES):
        assert not system.is_full(OSError(number, "broken"))


def test_probe_succeeds_and_cleans_up(tmp_path: Path) -> None:
    """A good directory passes and stays empty."""
    assert system.probe_write(tmp_path)
    assert [] == list(tmp_path.iterdir())


def test_probe_of_a_missing_directory_fails(tmp_path: Path) -> None:
    """Where no file can be made, the probe says so with the system's error."""
    error = system.probe_error(tmp_path / "missing")

    assert isinstance(error, FileNotFoundError)
    assert not system.probe_write(tmp_path / "missing")


def _probe_with_small_files_only(directory: str) -> tuple[bool, int, bool]:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
    error = system.probe_error(Path(directory))
    return error is not None and system.is_full(error), len(os.listdir(directory)), error is None


@posix_only
def test_probe_meets_a_file_size_limit_and_cleans_up(tmp_path: Path) -> None:
    """A limit that cuts the write short is told as "full", and the fragment is removed."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert (True, 0, False) == pool.apply(_probe_with_small_files_only, (str(tmp_path),))


def test_free_bytes_is_what_we_may_write(tmp_path: Path) -> None:
    """Some bytes are free here, and fewer than an exabyte."""
    assert 0 < system.free_bytes(tmp_path) < 2**60


MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:40 / /srv/share rw shared:2 master:1 - nfs4 server:/export rw,vers=4.2
24 23 8:2 / /srv/share/local rw - xfs /dev/sdb1 rw
25 22 0:41 / /mnt/two\040words rw - cifs //server/share rw
26 22 0:42 / /home/kiosk/remote rw - fuse.sshfs kiosk@server: rw
27 22 0:43 / /data rw - nfs server:/data rw
28 27 8:3 / /data rw - ext4 /dev/sdc1 rw
a line that makes no sense
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no mountinfo")
@pytest.mark.parametrize(
    ("directory", "expected"),
    [
        ("/var/lib/heap", None),
        ("/srv/share", "nfs4"),
        ("/srv/share/state/deep", "nfs4"),
        ("/srv/share/local/state", None),
        ("/srv/shared", None),
        ("/mnt/two words/state", "cifs"),
        ("/home/kiosk/remote/x", "sshfs"),
        ("/data/state", None),
    ],
)
def test_network_filesystem_is_that_of_the_deepest_last_mount(
    directory: str, expected: str | None
) -> None:
    """The mount that lies deepest, and of two in one place the later, decides."""
    assert expected == system.network_filesystem(Path(directory), MOUNTS)


def test_network_filesystem_of_nonsense_is_unknown() -> None:
    """Where nothing can be told the answer is None."""
    assert system.network_filesystem(Path("/x"), "") is None
