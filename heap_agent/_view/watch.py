"""
The thread that looks at a device for as long as somebody watches.

Nobody looks while nobody asks: the thread sleeps. This module must not know how what it
sees is shown.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from heap_agent._core.clock import Knowledge, Step
from heap_agent._core.hour import Minute
from heap_agent._store.lookout import Lookout, Sight, Standing
from heap_agent._view.device import Device
from heap_agent._view.feed import Feed

_log = logging.getLogger("heap_agent.visualizer")

#: Seconds between two looks at what is new, and between two at how things stand.
LOOK: Final = 0.25
_SCENE: Final = 1.0

#: Of one core no more than a tenth, but not so little that news come late.
_SHARE: Final = 0.1
_LONGEST: Final = 1.0

#: Seconds by which a clock may differ that is right: answers take their time.
_RIGHT: Final = 5.0

#: Seconds after which somebody who no longer asks has gone.
_PATIENCE: Final = 15.0


class Watch:
    """
    Looks at one device. Thread-safe.

    Args:
        device: Which.

    Attributes:
        feed: What was seen.
        scene: How things stand, for JSON; empty before the first look.
    """

    def __init__(self, device: Device) -> None:
        self.feed = Feed()
        self._device = device
        self._lookout = Lookout(device.directory)
        self._status: Mapping[str, Any] = {}
        self._erased: object = None
        self.scene: Mapping[str, Any] = {}
        self._scene_due = 0.0
        self._steps: list[dict[str, Any]] = []
        self._boots = 0
        self._wanted_until = float("-inf")
        self._stopping = False
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._last_error = ""

    def __repr__(self) -> str:
        return f"<Watch [{'awake' if self._is_wanted else 'asleep'}] {self.feed!r}>"

    def start(self) -> None:
        """
        Start the thread, and have the sender tell of its requests.
        """
        self._device.tap(self.feed.exchanged)
        self._thread = threading.Thread(target=self._main, name="heap-agent-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """
        End the thread; a look that is under way is not waited for.
        """
        self._device.untap(self.feed.exchanged)
        with self._wake:
            self._stopping = True
            self._wake.notify_all()

    def want(self) -> None:
        """
        Somebody asks: look for a while.
        """
        with self._wake:
            asleep = not self._is_wanted
            self._wanted_until = time.monotonic() + _PATIENCE
            if asleep:
                self._wake.notify_all()

    @property
    def _is_wanted(self) -> bool:
        return time.monotonic() < self._wanted_until

    # -- the loop: everything below runs on the thread --

    def _main(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._is_wanted)
                if self._stopping:
                    return
            began = time.thread_time()
            try:
                self.look()
                self._last_error = ""
            except Exception as error:  # whatever a disk does: the next look may see more
                text = f"{type(error).__name__}: {error}"
                if text != self._last_error:
                    self._last_error = text
                    _log.error("a look at the directory met %s", text, exc_info=error)
            with self._wake:
                pause = pause_after(time.thread_time() - began)
                self._wake.wait_for(lambda: self._stopping, pause)

    def look(self) -> None:
        """
        See what is new, once.
        """
        device = self._device
        sight = self._lookout.look()
        gone = any(sighting.standing is Standing.GONE for sighting in sight.sightings)
        wall, boot_clock = device.clocks()
        now = boot_clock / 1e6
        due = not self._status or now >= self._scene_due
        if due or gone:
            # After the look: what has gone is in the books by now.
            self._status = device.status()
        self.feed.take(
            sight,
            sending=device.sending(),
            queued=self._status["queued"],
            dropped=self._status["dropped"],
            now=now,
        )
        if due or gone:
            self._look_around(sight, wall, boot_clock)
            self._scene_due = now + _SCENE

    def _look_around(self, sight: Sight, wall: int, boot_clock: int) -> None:
        force = self._device.in_force()
        if self._erased is not None and force.erased != self._erased:
            self.feed.clear()
        self._erased = force.erased
        before = {name: self.scene.get(name) for name in _TOLD_AT_ONCE}
        self.scene = {
            "can_retry": self._device.can_retry,
            "delivers_here": self._status["delivers_here"],
            "status": self._with_trouble(sight.trouble),
            "hour": self._minutes(boot_clock / 1e6),
            "who": {
                "user_id": force.user_id,
                "identity": force.identity,
                "session": force.session_id,
            },
            "properties": {
                "event": dict(force.event_properties),
                "device": dict(force.device_properties),
            },
            "clock": {
                "steps": [_told(step) for step in sight.clocks.steps],
                "repaired": self._status["repaired_by"].get("clock", 0),
                "boots": len(sight.clocks.boots),
                "wrong_by": self._wrong_by(sight.clocks, wall - boot_clock),
            },
        }
        if any(self.scene[name] != value for name, value in before.items()):
            self.feed.touch()

    def _with_trouble(self, trouble: str | None) -> dict[str, Any]:
        problems = list(self._status["problems"])
        if trouble is not None:
            problems.append(f"the queue cannot be read: {trouble}")
        return {**self._status, "problems": problems}

    def _wrong_by(self, clocks: Knowledge, offset: int) -> float | None:
        """
        Seconds that the wall clock is ahead, as far as an answer of Heap's has told; None
        where none has in this boot, or the clock is right.
        """
        running = (
            boot.ordinal for boot in clocks.boots.values() if boot.boot_id == self._device.boot_id
        )
        true = clocks._replace(current=next(running, -1)).true_offset
        ahead = 0.0 if true is None else (offset - true) / 1e6
        return round(ahead, 1) if abs(ahead) > _RIGHT else None

    def _minutes(self, now: float) -> list[dict[str, Any]]:
        seen, known = self.feed.hour.back(now), self._device.hour().back(now)
        began = int(now // 60) - int((now if self.feed.began is None else self.feed.began) // 60)
        return [
            {
                "ago": ago,
                # Those of other processes are seen since somebody watches; what was before
                # is known of this one.
                "recorded": here.recorded if ago < began else max(here.recorded, there.recorded),
                "queued": there.queued if here.queued is None else here.queued,
                **_requests(there),
            }
            for ago, (here, there) in enumerate(zip(seen, known, strict=True))
        ]


def pause_after(seconds: float) -> float:
    """
    Seconds until the next look.

    Args:
        seconds: Of a core, that the last one took: much while much is recorded.
    """
    return min(max(LOOK, seconds / _SHARE - seconds), _LONGEST)


#: What somebody who watches is told of at once when it changes.
_TOLD_AT_ONCE: Final = ("status", "who", "properties", "clock")


def _requests(minute: Minute) -> dict[str, Any]:
    answered = minute.answered
    return {
        "delivered": minute.delivered,
        "requests": minute.requests,
        "failures": minute.failures,
        "latency": round(minute.seconds / answered, 4) if answered else None,
        "slowest": round(minute.slowest, 4) if answered else None,
    }


def _told(step: Step) -> dict[str, Any]:
    """When the wall clock was set (ms since 1970, as it showed then), and by how many seconds."""
    return {
        "at": (step.until + step.offset_after) // 1000,
        "by": (step.offset_after - step.offset_before) / 1e6,
    }
