"""
Programs that start processes, and have them killed as they are told.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from power import environment

Live = Callable[..., int]


@contextmanager
def told(program: Path, shim: Path, directory: Path, *arguments: str) -> Iterator[Live]:
    """
    A program that is told a line of words, and answers with a number.

    Args:
        program: Takes a directory and the file of marks beside it as its first arguments.
        shim: The library that counts calls.
        directory: Where its processes live; it is made here.
        arguments: The program's others.
    """
    directory.mkdir(mode=0o700)
    marks = directory.with_suffix(".marks")
    process = subprocess.Popen(
        [sys.executable, str(program), str(directory), str(marks), *arguments],
        # What the calls wrote is of no interest here.
        env={**environment(program, shim, directory), "RECORD_LOG": os.devnull},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    words, answers = process.stdin, process.stdout

    def live(*line: object) -> int:
        words.write(" ".join(map(str, line)) + "\n")
        words.flush()
        return int(answers.readline())

    try:
        yield live
    finally:
        words.close()
        process.wait(90)
        answers.close()
