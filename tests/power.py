"""
What a disk may hold after the power went.

A library that is loaded before all others records what a program does to the files of a
directory (shims/recorder.c). `Disk` goes through that record; between any two of its
calls the power may go, and what is on the disk then is everything that was synced, and of
what was not any part in any mixture: of each file some of the writes, and of one of them
some of its sectors.

Why so: it sees SQLite and the journal alike, in the interpreter as it is, and tries hundreds
of states a second without special rights. What it does not model: blocks that a
file system hands from one file to another (of which the journal's salts take care), a drive
that lies about a sync, and names that a program makes in other directories.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from enum import Enum
from pathlib import Path
from random import Random
from struct import Struct
from typing import Any, Final, NamedTuple

SECTOR: Final = 512

_head: Final = Struct("=cQQIII")


class Call(NamedTuple):
    """
    One call, as recorded.

    Attributes:
        what: C made a file, W wrote, T cut, S synced it; D synced the directory; U removed,
            R renamed, L linked a name; M is a word of the program.
    """

    what: str
    inode: int
    offset: int
    name: str
    other: str
    data: bytes


class Names(Enum):
    """How a file system keeps the order of names."""

    ORDERED = "as ext4: in their order, and a sync of any file takes them along"
    STRICT = "as POSIX: each for itself, until the directory is synced"


def record(program: Path, shim: Path, directory: Path, *arguments: str) -> list[Call]:
    """
    Run a program on a directory, which is its first argument, and return its calls.
    """
    log, marks = directory.with_suffix(".log"), directory.with_suffix(".marks")
    done = subprocess.run(
        [sys.executable, str(program), str(directory), str(marks), *arguments],
        env=environment(program, shim, directory),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return list(_calls(log.read_bytes()))


def environment(program: Path, shim: Path, directory: Path) -> dict[str, str]:
    """
    What a program's environment must be for its calls to be recorded.
    """
    return {
        **os.environ,
        "LD_PRELOAD": str(shim),
        "RECORD_DIRECTORY": str(directory),
        "RECORD_LOG": str(directory.with_suffix(".log")),
        "RECORD_MARKS": str(directory.with_suffix(".marks")),
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(program.parents[1]), os.environ.get("PYTHONPATH")])
        ),
    }


def _calls(log: bytes) -> Iterator[Call]:
    place = 0
    while place < len(log):
        what, inode, offset, *sizes = _head.unpack_from(log, place)
        place += _head.size
        parts = []
        for size in sizes:
            parts.append(log[place : place + size])
            place += size
        name, other = (os.path.basename(part.decode()) for part in parts[:2])
        yield Call(what.decode(), inode, offset, name, other, parts[2])


class File:
    """
    A file: what is on stable storage, and what was done since.
    """

    def __init__(self) -> None:
        self.stable = b""
        self.pending: list[Call] = []

    def sync(self) -> None:
        """Everything is on stable storage."""
        self.stable, self.pending = self.content(self.pending), []

    def content(self, calls: list[Call]) -> bytes:
        """What the file holds where only these calls have come through."""
        content = bytearray(self.stable)
        for call in calls:
            if call.what == "T":
                content[:] = content[: call.offset].ljust(call.offset, b"\0")
            else:
                end = call.offset + len(call.data)
                content.extend(bytes(max(0, end - len(content))))
                content[call.offset : end] = call.data
        return bytes(content)

    def after_a_cut(self, chance: Random | None) -> bytes:
        """
        What it may hold: nothing since the sync, everything, or some of it.
        """
        how = 0.0 if chance is None else chance.random()
        if how < 0.2 or not self.pending:
            return self.stable
        if how < 0.4:
            return self.content(self.pending)
        assert chance is not None
        share = chance.random()
        calls = [call for call in self.pending if chance.random() < share]
        if how > 0.7 and calls:
            torn = chance.randrange(len(calls))
            calls[torn] = _torn(calls[torn], chance)
        return self.content(calls)


def _torn(call: Call, chance: Random) -> Call:
    """A write of which only the beginning has come through, up to a sector's border."""
    borders = range(SECTOR - call.offset % SECTOR, len(call.data), SECTOR)
    if call.what != "W" or not borders:
        return call
    return call._replace(data=call.data[: chance.choice(borders)])


class Disk:
    """
    A directory as its calls go by.
    """

    def __init__(self, names: Names) -> None:
        self._model = names
        self._files: dict[int, File] = {}
        self._stable: dict[str, File] = {}
        self._names: dict[str, File] = {}
        self._pending: list[tuple[str, File | None]] = []
        #: What the program has said so far.
        self.marks: list[dict[str, Any]] = []

    def do(self, call: Call) -> bool:
        """
        Take a call in. Returns whether a cut after it differs from one before it.
        """
        if call.what == "M":
            self.marks += map(json.loads, call.data.decode().splitlines())
            return False
        if call.what == "C":
            self._files[call.inode] = File()
            self._name(call.name, self._files[call.inode])
        elif call.what in "WT":
            self._files[call.inode].pending.append(call)
        elif call.what == "S":
            self._files[call.inode].sync()
            if self._model is Names.ORDERED:
                self._settle()
        elif call.what == "D":
            self._settle()
        elif call.what in "RL":
            self._name(call.other, self._names[call.name])
            if call.what == "R":
                self._name(call.name, None)
        elif call.what == "U":
            self._name(call.name, None)
        return True

    def _name(self, name: str, file: File | None) -> None:
        self._pending.append((name, file))
        _set(self._names, name, file)

    def _settle(self) -> None:
        for name, file in self._pending:
            _set(self._stable, name, file)
        self._pending = []

    def as_seen(self) -> dict[str, bytes]:
        """Names and contents as the program sees them, with the power on."""
        return {name: file.content(file.pending) for name, file in self._names.items()}

    def after_a_cut(self, chance: Random | None) -> dict[str, bytes]:
        """
        Names and contents as they may be found; without dice, what was synced alone.
        """
        names = dict(self._stable)
        for name, file in self._survivors(chance):
            _set(names, name, file)
        contents = {id(file): file.after_a_cut(chance) for file in names.values()}
        return {name: contents[id(file)] for name, file in names.items()}

    def _survivors(self, chance: Random | None) -> list[tuple[str, File | None]]:
        if chance is None:
            return []
        if self._model is Names.ORDERED:
            return self._pending[: chance.randint(0, len(self._pending))]
        share = chance.random()
        return [one for one in self._pending if chance.random() < share]


class State(NamedTuple):
    """
    What may be found after a cut.

    Attributes:
        where: After which call that was, and which of the states it is.
        files: Names and contents.
        marks: What the program has said until then.
    """

    where: str
    files: dict[str, bytes]
    marks: list[dict[str, Any]]


def states(
    calls: Sequence[Call],
    names: Names,
    each: int,
    dice: Callable[[int, int], Random],
    after: Container[int],
) -> Iterator[State]:
    """
    What may be found if the power goes after any of some calls, each state once.

    Args:
        calls: As recorded.
        names: How the file system keeps them.
        each: How many states are tried after each; the first is what was synced alone.
        dice: For one call and state.
        after: Numbers of the calls.
    """
    disk, seen = Disk(names), set[int]()
    for number, call in enumerate(calls):
        if not disk.do(call) or number not in after:
            continue
        for state in range(each):
            found = disk.after_a_cut(dice(number, state) if state else None)
            # What was only tracked may be there or not.
            said = sum("tracked" not in mark for mark in disk.marks)
            fingerprint = hash((frozenset(found.items()), said))
            if fingerprint not in seen:
                seen.add(fingerprint)
                where = f"cut after call {number}, state {state}: {call}"
                yield State(where, found, list(disk.marks))


def _set(names: dict[str, File], name: str, file: File | None) -> None:
    if file is None:
        names.pop(name, None)
    else:
        names[name] = file


def lay_out(directory: Path, found: dict[str, bytes]) -> None:
    """
    Make a directory of names and contents.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True)
    for name, content in found.items():
        with open(directory / name, "xb", opener=lambda p, f: os.open(p, f, 0o600)) as file:
            file.write(content)
