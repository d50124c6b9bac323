"""
A photo booth: a window, and two printers that are processes of their own.

    HEAP_AGENT_APP_ID=11 python window.py

It needs `pip install PySide6-Essentials`.

Each of the three processes has an agent, and all of them one directory, because of the
same `app_name`. So who logs in here is the user of what the printers track, within two
seconds. One of them delivers for all; when it ends, another one does.

The event loop never waits: `track`, `identify` and `reset_identity` take microseconds. What
may take long runs in Qt's thread pool (`flush`), or after the loop (`shutdown`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QObject, QProcess, QThreadPool, QTimer, Signal
from PySide6.QtWidgets import QApplication, QLabel, QLineEdit, QPushButton, QVBoxLayout, QWidget

from heap_agent import Agent

WORKER = Path(__file__).with_name("printer.py")


class Printer(QObject):
    """A process that prints; where it dies another one takes over its work."""

    printed = Signal()

    def __init__(self, name: str, parent: QObject) -> None:
        super().__init__(parent)
        self._name = name
        self.waiting: list[str] = []
        self._process = QProcess(self)
        self._process.setProcessChannelMode(QProcess.ProcessChannelMode.ForwardedErrorChannel)
        self._process.readyReadStandardOutput.connect(self._hear)
        self._process.finished.connect(self._try_again)
        self._start()

    def print(self, photo: int) -> None:
        self.waiting.append(f"{photo}\n")
        self._process.write(self.waiting[-1].encode())

    def let_go(self) -> None:
        """Let the process end when it has done its work."""
        self._process.finished.disconnect(self._try_again)
        self._process.closeWriteChannel()

    def wait(self) -> None:
        self._process.waitForFinished(10_000)

    def _start(self) -> None:
        self._process.start(sys.executable, [str(WORKER), self._name])
        self._process.write("".join(self.waiting).encode())

    def _try_again(self) -> None:
        # Not at once: whatever is wrong may still be so.
        QTimer.singleShot(500, self._start)

    def _hear(self) -> None:
        while self._process.canReadLine():
            self.waiting.remove(self._process.readLine().toStdString())
            self.printed.emit()


class Window(QWidget):
    """What a visitor sees."""

    sent = Signal(bool)

    def __init__(self, agent: Agent) -> None:
        super().__init__(windowTitle="Photo booth")
        self._agent = agent
        self._photos = 0
        self._printers = [Printer(name, self) for name in ("left", "right")]
        self._booking = QLineEdit(placeholderText="Your booking")
        enter = _button("Log in", self._log_in)
        self._leave = _button("Log out", self._log_out)
        take = _button("Take a photo", self._take_photo)
        send = _button("Send now", self._send_now)
        self._message = QLabel("Welcome")
        layout = QVBoxLayout(self)
        for widget in (self._booking, enter, take, self._leave, send, self._message):
            layout.addWidget(widget)
        self.sent.connect(self._say_sent)
        for printer in self._printers:
            printer.printed.connect(self._show_printed)

    def end(self) -> None:
        """Wait for the printers, all of them at once; after the event loop only."""
        for printer in self._printers:
            printer.let_go()
        for printer in self._printers:
            printer.wait()

    def _log_in(self) -> None:
        if self._booking.text():
            self._agent.identify(self._booking.text())
            self._message.setText(f"Hello {self._booking.text()}")
            self._booking.clear()

    def _log_out(self) -> None:
        self._agent.reset_identity()
        self._message.setText("Welcome")

    def _take_photo(self) -> None:
        self._photos += 1
        self._agent.track("Photo Taken", {"photo": self._photos})
        min(self._printers, key=lambda printer: len(printer.waiting)).print(self._photos)
        self._message.setText("Printing")
        # A printer's events are those of whoever is logged in when it tracks them.
        self._leave.setEnabled(False)

    def _show_printed(self) -> None:
        if not any(printer.waiting for printer in self._printers):
            self._message.setText("All photos are printed")
            self._leave.setEnabled(True)

    def _send_now(self) -> None:
        self._message.setText("Sending")
        QThreadPool.globalInstance().start(lambda: self.sent.emit(self._agent.flush(timeout=5)))

    def _say_sent(self, everything: bool) -> None:
        self._message.setText("Sent" if everything else "Sent later")


def _button(text: str, clicked: Callable[[], None]) -> QPushButton:
    button = QPushButton(text)
    button.clicked.connect(clicked)
    return button


def main() -> None:
    app = QApplication.instance() or QApplication(sys.argv)
    with Agent(app_name="photo_booth") as agent:
        window = Window(agent)
        window.show()
        app.exec()
        window.end()
    QThreadPool.globalInstance().waitForDone()


if __name__ == "__main__":
    main()
