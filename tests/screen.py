"""
A virtual screen (Xvfb), and somebody who moves the mouse and types (xdotool).
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest
from commands import PATIENCE

WIDTH, HEIGHT = 960, 540

MISSING = [
    *(name for name in ("Xvfb", "xdotool") if shutil.which(name) is None),
    *(name for name in ("_tkinter",) if find_spec(name) is None),
]

needs_a_screen = pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}")


class Screen:
    """One display, without a window manager: a kiosk has none."""

    def __init__(self, display: str) -> None:
        self._display = display

    @property
    def environment(self) -> dict[str, str]:
        """For programs that are to be seen there."""
        return {"DISPLAY": self._display}

    def use(self, *words: object) -> str:
        """What xdotool is told, in one go: nobody waits between two strokes."""
        command = ["xdotool", *map(str, words)]
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def wait_for_window(self, title: str) -> int:
        """The id of a window, once it can be seen."""
        return int(self.use("search", "--sync", "--onlyvisible", "--name", f"^{title}$"))

    def close_window(self, window: int) -> None:
        """Ask for its end as a window manager does, which xdotool does not know how to."""
        x11 = ctypes.CDLL("libX11.so.6")
        x11.XOpenDisplay.restype = ctypes.c_void_p
        x11.XInternAtom.restype = ctypes.c_ulong
        display = ctypes.c_void_p(x11.XOpenDisplay(self._display.encode()))
        assert display, f"no display at {self._display}"
        protocols, end = (
            x11.XInternAtom(display, name, False) for name in (b"WM_PROTOCOLS", b"WM_DELETE_WINDOW")
        )
        message = _ClientMessage(
            type=33, window=window, message_type=protocols, format=32, data=(end,)
        )
        assert x11.XSendEvent(
            display, ctypes.c_ulong(window), False, ctypes.c_long(0), ctypes.byref(message)
        )
        x11.XCloseDisplay(display)


class _ClientMessage(ctypes.Structure):
    """XClientMessageEvent (Xlib.h), and what an XEvent is longer."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("serial", ctypes.c_ulong),
        ("send_event", ctypes.c_int),
        ("display", ctypes.c_void_p),
        ("window", ctypes.c_ulong),
        ("message_type", ctypes.c_ulong),
        ("format", ctypes.c_int),
        ("data", ctypes.c_long * 5),
        ("rest", ctypes.c_long * 12),
    )


@contextmanager
def virtual_screen() -> Iterator[Screen]:
    """A display of its own, for as long as it takes."""
    ours, theirs = os.pipe()
    size = f"{WIDTH}x{HEIGHT}x24"
    with subprocess.Popen(
        ["Xvfb", "-displayfd", str(theirs), "-screen", "0", size, "-nolisten", "tcp", "-noreset"],
        pass_fds=[theirs],
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            os.close(theirs)
            assert select.select([ours], [], [], PATIENCE)[0], "Xvfb does not start"
            yield Screen(f":{os.read(ours, 16).decode().strip()}")
        finally:
            os.close(ours)
            server.terminate()
