"""
A Qt program that is used as by a person: lines on standard input say what to do, and each is
answered with a line of JSON.

    clicks.py PROGRAM

PROGRAM has a `main`. A line is one of: click BUTTON, type TEXT (into the only field), enabled
BUTTON, message (the only label), processes (their ids), close.

All of it happens in the program's own event loop: while that waits there is no answer.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Callable
from typing import TypeVar

from PySide6.QtCore import QProcess, QSocketNotifier, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QLabel, QLineEdit, QPushButton, QWidget

_Widget = TypeVar("_Widget", bound=QWidget)

LEFT = Qt.MouseButton.LeftButton


def window() -> QWidget:
    (found,) = (widget for widget in QApplication.topLevelWidgets() if widget.isVisible())
    return found


def button(text: str) -> QPushButton:
    (found,) = (one for one in window().findChildren(QPushButton) if one.text() == text)
    return found


def only(kind: type[_Widget]) -> _Widget:
    (found,) = window().findChildren(kind)
    return found


def type_text(text: str) -> None:
    field = only(QLineEdit)
    QTest.mouseClick(field, LEFT)
    QTest.keyClicks(field, text)


VERBS: dict[str, Callable[[str], object]] = {
    "click": lambda text: QTest.mouseClick(button(text), LEFT),
    "type": type_text,
    "enabled": lambda text: button(text).isEnabled(),
    "message": lambda _: only(QLabel).text(),
    "processes": lambda _: [one.processId() for one in window().findChildren(QProcess)],
    "close": lambda _: window().close(),
}


def obey() -> None:
    for line in os.read(0, 4096).decode().splitlines():
        verb, _, rest = line.partition(" ")
        print(json.dumps(VERBS[verb](rest)), flush=True)


app = QApplication(sys.argv[:1])
commands = QSocketNotifier(0, QSocketNotifier.Type.Read)
commands.activated.connect(obey)
runpy.run_path(sys.argv[1], run_name="__main__")
