"""
Agent: every public verb, calling the rooms in order.

What guards what: `_state_lock`, re-entrant, guards who is logged in, the
session, and what is derived from them. `track` takes it only where a session
begins. The two threads are started last and are daemons; nothing here waits for
the network but `flush`, `shutdown` and, for at most a few seconds, `opt_out`.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from heap_agent import _config
from heap_agent._aside import aside
from heap_agent._core import limits, repair, session, wire
from heap_agent._core.encoder import dumps
from heap_agent._core.events import Actor, Fault, Kind, Scalar
from heap_agent._core.records import GIVEN, MENDED
from heap_agent._core.session import Call, User
from heap_agent._core.state import (
    BY_IDENTITY,
    BY_USER_ID,
    CONSENT,
    GESTURE,
    PAUSED,
    Moment,
    State,
    Value,
    cleared_facet,
    forgotten_facet,
    identity_facet,
    property_facet,
)
from heap_agent._faults import Faults, duration, shown
from heap_agent._late import late
from heap_agent._outbox import Outbox
from heap_agent._store import system
from heap_agent._store.database import DatabaseTrouble
from heap_agent._store.journal import is_held_here
from heap_agent._store.keeper import Duties, Keeper
from heap_agent._store.room import Measured
from heap_agent._store.signs import (
    consent_was_withdrawn,
    copied_from_elsewhere,
    first_user,
    forget_first_users,
    known_first_user,
    note_consent,
)
from heap_agent._store.store import FLUSH, Store
from heap_agent.exceptions import InvalidCall, InvalidValue

if TYPE_CHECKING:
    from heap_agent._lifecycle import Lifecycle
    from heap_agent._pairings import Pairing, Pairings
    from heap_agent._status import Status
    from heap_agent._view.device import InForce

_log = logging.getLogger("heap_agent.agent")

#: Seconds that `opt_out` waits for another process to stop delivering.
_CONSENT_PATIENCE: Final = 5.0

#: Seconds beyond its timeout after which `flush` no longer waits for what hangs.
_FLUSHING_PATIENCE: Final = 0.5

#: Seconds that `shutdown` leaves, beyond its timeout, for the last sync.
_CLOSING_PATIENCE: Final = 3.0

#: … and where it cannot be made, because of what a signal handler has interrupted.
_HANDLER_PATIENCE: Final = 0.5

#: A plain int: a look into the enumeration costs as much as reading a clock.
_EVENT: Final = int(Kind.EVENT)

_LOSSES: Final = "Heap Agent Losses"

#: Requests of other processes: to start a pairing, and to end it.
PAIR: Final = "pair"
UNPAIR: Final = "unpair"

#: Stands for an app id where there is none.
_NAMELESS: Final = "0"

#: Stands for a `user_id` where there is none.
_NOBODY: Final = "0"

_Self = TypeVar("_Self", bound="Agent")


class Agent:
    """
    Records what happens on this device and delivers it to Heap.

    One agent serves one user at a time, as a device does. Programs that act for
    many users at once want Heap's server-side API instead.

    All methods are thread-safe. `track` may be called from signal handlers,
    finalizers and logging handlers. Nothing but a wrong call raises; trouble
    with disk or network shows in `status()`.

    Args:
        app_id: Id of the environment at Heap, digits as text or int. Without one
            it comes from ``HEAP_AGENT_APP_ID`` or a config file.
        clock: The system's clocks; a test may pass `heap_agent.testing.FakeClock`.
        **options: Any field of the configuration: ``directory`` (path),
            ``endpoint`` (URL), ``region`` ("us" or "eu"), ``interval`` (seconds,
            15), ``sync_interval`` (seconds, 5), ``session_timeout`` (seconds,
            1800, or None), ``max_bytes`` (64 MiB), ``identity_budget`` and
            ``app_budget`` (events a minute, or None), ``fleet_size``,
            ``strict``, ``device_properties``, ``capture_device``, ``capture_lifecycle`` and
            others; ``heap-agent config`` lists them all.

    Raises:
        InvalidCall: No app id, an unknown option, or a value that is not allowed.
    """

    # A dict of this size makes each access in the hot path a search.
    __slots__ = (
        "_ambient",
        "_app_id",
        "_asleep",
        "_attending",
        "_boot_ns",
        "_clock",
        "_config",
        "_device",
        "_directory",
        "_encode",
        "_end_lock",
        "_ended",
        "_ending",
        "_faults",
        "_guest",
        "_inherited",
        "_interval",
        "_keeper",
        "_lifecycle",
        "_lost",
        "_machine",
        "_muted",
        "_outbox",
        "_pairings",
        "_problems",
        "_put",
        "_session",
        "_session_timeout",
        "_session_until",
        "_silent",
        "_state",
        "_state_lock",
        "_store",
        "_unlisten",
        "_unpublished",
        "_user",
        "_version",
        "_wall_ns",
        "_wire",
        "__weakref__",
    )

    def __init__(
        self,
        app_id: str | int | None = None,
        *,
        clock: system.ClockLike | None = None,
        _guest: bool = False,
        **options: Any,
    ) -> None:
        # A guest (a command that is over in a moment) leaves the directory to its
        # owner: it starts no threads, and takes the owner lock only to `flush`.
        # Without an app id it records nothing, but may deliver what others have.
        self._guest = _guest
        loaded = _config.load({"app_id": app_id, **options} if app_id is not None else options)
        self._config = config = loaded.config
        self._problems = list(loaded.problems)
        for problem in () if config.disabled else loaded.problems:
            _log.error("%s", problem)
        # A typo outside the program must not stop it: without an id it records
        # nothing, and without an address it sends nothing, least of all to the
        # wrong one. Both show in `status`.
        nameless = config.app_id is None and ("app_id" in loaded.defaulted or _guest)
        self._lost = "endpoint" in loaded.defaulted or (
            "region" in loaded.defaulted and config.endpoint is None
        )
        if config.app_id is None and not config.disabled and not nameless:
            raise InvalidCall(
                "app_id is missing: pass the id of your environment at Heap, such as "
                'Agent("11"), or set HEAP_AGENT_APP_ID'
            )
        self._app_id = config.app_id or _NAMELESS
        self._clock = system.Clock() if clock is None else clock
        self._machine = config.machine_id or system.machine_id()
        self._wall_ns, self._boot_ns = self._clock.wall_ns, self._clock.boot_ns
        self._wire = wire.Wire()
        self._encode = self._wire.body
        self._interval = max(config.interval, limits.INTERVAL_MINIMUM)
        known = _facts()(config.app_version) if config.capture_device else {}
        self._device = self._check_device_properties({**known, **config.device_properties})
        # By way of the store: a forked child has a journal of its own.
        self._faults = Faults(config.strict, lambda name: self._store.journal.count(name))
        self._inherited: list[Store] = []
        self._muted = config.disabled or config.do_not_track or nameless
        self._ended = False
        self._ending: threading.Thread | None = None
        self._directory = None if config.disabled else self._find_directory()
        self._begin()
        if not config.disabled:
            self._start()
            _living.add(self)
            if config.at_exit:
                atexit.register(_at_exit, weakref.ref(self))

    def __repr__(self) -> str:
        if self._config.disabled:
            return "<Agent [disabled]>"
        who = "anonymous" if self.identity is None else "identified"
        ended = ", shut down" if self._ended else ""
        return f"<Agent {self._app_id!r} [{who}, {self._store.storage}{ended}] {self._store!r}>"

    # -- starting -------------------------------------------------------------------

    def _find_directory(self) -> Path | None:
        """
        The state directory, private and resolved; None (and an ERROR) where
        there is none that can be trusted.
        """
        wanted = _config.state_directory(self._config)
        try:
            if wanted is None:
                raise OSError("this user has no home directory")
            if system.is_unpacked(wanted):
                raise OSError(f"{wanted} is among the program's own files, which do not last")
            kind = system.network_filesystem(wanted)
            if kind is not None:
                raise OSError(f"{wanted} is on a network file system ({kind})")
            return system.make_private_directory(wanted)
        except OSError as error:
            problem = f"no state directory, recording in memory: {error}"
            self._problems.append(problem)
            _log.error("%s. Set directory= or HEAP_AGENT_DIRECTORY", problem)
            return None

    def _begin(self) -> None:
        """
        Make everything that belongs to this process alone; nothing is opened.
        """
        config = self._config
        self._state_lock = threading.RLock()
        self._state = State()
        self._user = User(_NOBODY)
        self._unpublished: dict[str, str] = {}
        self._silent = True
        self._session: str | None = None
        self._session_until: float = -1
        self._session_timeout = (
            math.inf if config.session_timeout is None else int(config.session_timeout * 1e9)
        )
        self._ambient = wire.NOTHING
        self._version = 0
        self._attending = False
        self._asleep = False
        self._end_lock = threading.RLock()
        self._store = Store(
            self._directory, self._clock, max_bytes=config.max_bytes, attend=self._attend
        )
        self._put = self._store.journal.put
        self._outbox = Outbox(
            self._store,
            config,
            interval=self._interval,
            allowed=self._may_send,
            state_changed=self._reload,
            report_losses=self._report_losses if config.report_losses else None,
            services={PAIR: self._pair_for_others, UNPAIR: self._unpair_for_others},
        )
        self._pairings: Pairings | None = None
        self._lifecycle: Lifecycle | None = None
        self._unlisten: Callable[[], None] = lambda: None
        self._keeper = Keeper(
            self._store,
            Duties(
                state_changed=self._reload,
                look=self._look,
                requested=self._outbox.add_requests,
                absorb=self._outbox.absorb,
                # After suspend, too, the sender would sleep on for what is left.
                clock_jumped=self._outbox.hurry,
                state_removed=self._restate,
                signalled=lambda: self._visualizer.on_signal(),
            ),
            sync_interval=config.sync_interval,
            may_own=not config.do_not_track,
        )

    def _start(self) -> None:
        """
        Open the store, find out who is logged in, start the threads last.
        """
        if self._config.do_not_track:
            # Nothing is written here but what the user says about consent.
            self._store.journal.open_with_first_record()
            self._reload()
            return
        if self._guest:
            self._store.journal.open_with_first_record()
            self._store.keep_within_bounds()
            self._reload()
            return
        self._store.open()
        if copied_from_elsewhere(self._directory, self._app_id, self._machine):
            _log.warning(
                "the state directory comes from another machine: a new anonymous user begins here"
            )
        if not self._reload():
            self._keeper.reload_soon()
        if self._config.pairing_signal:
            self._listen_to_signal()
        self._start_keeper()
        # On a disk that keeps nothing each start would be the first.
        if self._config.capture_lifecycle and self._directory and not self._silent:
            self._lifecycle = self._begin_lifecycle(self._directory)

    def _begin_lifecycle(self, directory: Path) -> Lifecycle:
        lifecycle = _lifecycle()
        run = lifecycle.run_of(
            self._app_id, self._machine, self._clock.boot_id, self._config.app_version
        )
        found = lifecycle.Lifecycle(directory, run, self.track, self._store.journal.sync)
        found.begin()
        return cast("Lifecycle", found)

    def _forget_run(self) -> None:
        """
        Nothing will be told of how this run ends: it does so now, or nobody may know.
        """
        if self._lifecycle is not None:
            self._lifecycle.end()

    def _start_keeper(self) -> None:
        """
        Where no thread can be started, the next record tries again.
        """
        self._asleep, self._attending = False, True
        if not self._keeper.start():
            self._asleep, self._attending = True, False

    def _attend(self) -> None:
        """
        The journal wants the keeper. In a forked child the first record starts
        it; after `shutdown` there is none.
        """
        if self._attending:
            self._keeper.attend()
        elif self._asleep:
            self._start_keeper()

    # -- what the keeper tells --------------------------------------------------------

    def _look(self, found: Measured) -> None:
        # What an earlier run left behind is delivered without a word from us.
        if self._attending:
            self._outbox.look(found)

    def _reload(self) -> bool:
        """
        Take up the state as it stands on disk: at the start, and whenever
        another process has changed it.

        Returns:
            False where it could not be read now.
        """
        while True:
            version = self._version
            try:
                state = self._store.read_state()
            except DatabaseTrouble as error:
                if self._user.user_id != _NOBODY:
                    # Who is logged in does not change because a disk is busy.
                    return False
                self._faults.say(
                    ("state", "unreadable", None),
                    "the state cannot be read, a new user begins: %s",
                    error,
                    level=logging.ERROR,
                )
                self._begin_unknowing()
                return False
            user = self._user_of(state)
            with self._state_lock:
                # Said here, or read by another thread, since ours was read.
                if version != self._version:
                    continue
                self._version += 1
                running = self._user.user_id != _NOBODY
                # Somebody who gives a name in another process is still the same visitor.
                changed = running and user.user_id != self._user.user_id
                erased = running and (
                    bool(state.forgotten - self._state.forgotten)
                    or state.purged > self._state.purged
                )
                self._state, self._user = state, user
                self._derive()
                if changed:
                    self._replace_session()
            if erased:
                # What was written here of them goes when the owner unlinks the sealed part.
                self._store.journal.rotate()
                self._store.ring()
            note_consent(self._directory, state.consent.given)
            if not state.consent.given:
                self._forget_run()
            return True

    def _begin_unknowing(self) -> None:
        """
        Nobody can tell who the user was, and it is not to be one who has gone: a new
        one for this process, until the state can be read. Consent is known.
        """
        state = State()
        if consent_was_withdrawn(self._directory):
            state.set_consent(False, Moment(0, 0), purge=False)
        with self._state_lock:
            self._version += 1
            self._state = state
            self._user = User(_random_id() if state.consent.given else _NOBODY)
            self._derive()

    def _restate(self) -> None:
        """
        Record anew what is in force here; the files that said so are gone.
        """
        with self._state_lock:
            state, user = self._state, self._user
            facets: dict[str, Value] = {
                property_facet(self._app_id, key): value
                for key, value in state.event_properties(self._app_id).items()
            }
            for name in (PAUSED, GESTURE):
                if name in state.facets:
                    facets[name] = state.facets[name].value
            if user.user_id != _NOBODY:
                name = identity_facet(self._app_id, self._machine)
                facets[name] = {"user_id": user.user_id, "identity": user.identity}
            if facets:
                self._set(facets)
            if not state.consent.given:
                self._set({CONSENT: False})
        if self._lifecycle is not None:
            self._lifecycle.renew()

    def _user_of(self, state: State) -> User:
        known = state.user(self._app_id, self._machine)
        if known is not None:
            return User(*known)
        place = (self._directory, self._app_id, self._machine)
        withheld = not state.consent.given or self._config.do_not_track
        if withheld or self._app_id == _NAMELESS:
            # Without consent nobody new is made up; whoever was not purged is still there.
            return User(known_first_user(*place) or self._unpublished.get(self._app_id, _NOBODY))
        forget_first_users(self._directory, state)
        fresh = self._unpublished.pop(self._app_id, None) or _random_id()
        user_id = first_user(*place, fresh)
        if known_first_user(*place) is None:
            # The disk did not take it: the same one is used until it does.
            self._unpublished[self._app_id] = user_id
        return User(user_id)

    def _derive(self) -> None:
        """
        Compute what the hot path needs; under the state lock.
        """
        self._silent = self._muted or not self._state.consent.given
        properties = {**self._device, **self._state.event_properties(self._app_id)}
        self._ambient = wire.Ambient.of(properties, self._head)

    def _aim(self) -> None:
        """
        Compute what changes with the session alone; under the state lock.
        """
        self._ambient = self._ambient.with_head(self._head)

    @property
    def _head(self) -> bytes:
        if self._session is None:
            # Nothing is encoded with it: the next event begins a session first.
            return b""
        return wire.actor_line(self._actor, self._session)

    @property
    def _actor(self) -> Actor:
        return Actor(self._app_id, self._user.user_id, self._user.identity)

    def _may_send(self) -> bool:
        state = self._state
        allowed = state.consent.given and not state.flag(PAUSED)
        return allowed and not (self._config.do_not_track or self._lost)

    # -- events ---------------------------------------------------------------------

    def track(
        self,
        event: str,
        properties: Mapping[Any, Any] | None = None,
        *,
        timestamp: datetime | float | None = None,
    ) -> None:
        """
        Record one event. It is on disk when this returns, and Heap gets it once.

        Args:
            event: Name, 1 to 255 UTF-16 units (Heap's reference). A longer one is
                cut, an empty or blank one is refused; both are counted.
            properties: Keys of up to 512 units to strings of fewer than 1024
                units and numbers. Other values are repaired or left out, and
                counted, as the table in ARCHITECTURE.md ("Bad input") says.
            timestamp: When it happened: an aware datetime or seconds since 1970;
                now unless given. One that is given is never moved.

        Raises:
            InvalidCall: `event` is no string, `properties` no mapping, or
                `timestamp` neither datetime nor number.
            InvalidValue: Only with ``strict=True``: a value is at fault.

        Thread-safe and re-entrant; never waits for network or fsync.
        """
        if self._silent:
            return
        wall_ns = self._wall_ns()
        boot_ns = self._boot_ns()
        body = None
        if timestamp is None and boot_ns <= self._session_until:
            body = self._encode(event, properties, self._ambient)
        if body is None:
            self._track_slowly(event, properties, timestamp)
            return
        self._session_until = boot_ns + self._session_timeout
        self._put(_EVENT, 0, wall_ns, boot_ns, body)

    def _track_slowly(self, event: object, properties: object, timestamp: object) -> None:
        """
        Record an event whose values need a second look, or that begins a session.
        """
        try:
            wall_ns, boot_ns = self._wall_ns(), self._boot_ns()
            flags = 0
            faults: tuple[Fault, ...] = ()
            if timestamp is not None:
                seconds, faults = repair.repair_timestamp(timestamp, wall_ns / 1e9)
                # A naive one is at fault and still the caller's; now is not.
                given = all(fault.kind != "time_range" for fault in faults)
                # Whole µs first: as a float it has no more, and a millisecond that
                # is short of its last ns would be cut to the one before.
                wall_ns, flags = round(seconds * 1e6) * 1000, GIVEN if given else 0
            mended = self._wire.mended(event, properties, self._ambient)
        except InvalidCall as error:
            self._faults.blame(error)
            return
        faults += mended.faults
        self._faults.complain(mended.name or "track", faults)
        if mended.data is None:
            self._store.journal.count("refused")
            return
        if faults:
            flags |= MENDED
        head = self._visit(boot_ns)
        self._put(_EVENT, flags, wall_ns, boot_ns, head + mended.data)

    def _visit(self, boot_ns: int) -> bytes:
        """
        Begin a session or prolong it.

        Returns:
            How a record of it begins.
        """
        with self._state_lock:
            if boot_ns > self._session_until or self._session is None:
                self._session = _random_id()
                self._aim()
            self._session_until = boot_ns + self._session_timeout
            return self._ambient.head

    def _replace_session(self) -> None:
        """
        A visit that is under way gives way to a new one; without one, the next
        event begins it.
        """
        if self.session_id is None:
            self._session, self._session_until = None, -1
        else:
            self._session = _random_id()
            self._aim()

    # -- who ------------------------------------------------------------------------

    @property
    def app_id(self) -> str:
        """The environment at Heap that events are recorded for."""
        return self._app_id

    @property
    def disabled(self) -> bool:
        """Whether every verb does nothing (``HEAP_AGENT_DISABLED``)."""
        return self._config.disabled

    @property
    def ended(self) -> bool:
        """Whether `shutdown` was called."""
        return self._ended

    @property
    def user_id(self) -> str | None:
        """
        Decimal text of the random id that stands for the present user, or None
        while opted out with nothing kept. Towards Heap's server-side API it
        stands for anonymous users; use `identity` for identified ones.
        """
        user_id = self._user.user_id
        return None if user_id == _NOBODY else user_id

    @property
    def identity(self) -> str | None:
        """
        What was given to `identify`, or None while the user is anonymous.
        """
        return self._user.identity

    @property
    def session_id(self) -> str | None:
        """
        Decimal text of the visit under way, or None where none is. Asking does
        not begin or extend one.
        """
        if self._session is None or self._boot_ns() > self._session_until:
            return None
        return self._session

    def identify(self, identity: str | int) -> None:
        """
        Say who the user is.

        An anonymous user keeps its `user_id` and is joined to the identity at
        Heap, which cannot be undone; for an identified one a new `user_id` and
        session begin. The same identity again does nothing.

        Args:
            identity: 1 to 254 UTF-16 units (Heap's reference), case-sensitive; an
                int is taken as its decimal text. A value that many users would
                share ("null", "guest", …; see ``refused_identities``) is refused:
                logged as ERROR, counted, never sent; an identified user is then
                reset as by `reset_identity`.

        Raises:
            InvalidCall: Neither string, int nor None.
            InvalidValue: Only with ``strict=True``: the identity is refused.
        """
        if self._silent:
            return
        try:
            judged = session.judge(identity, self._refused_identities)
        except InvalidCall as error:
            self._faults.blame(error)
            # Whoever comes now is not to be taken for the last one.
            self._become(Call.IDENTIFY_REFUSED, None)
            return
        if judged.identity is None:
            text = f"identity {shown(identity)} is refused: {judged.complaint}"
            if self._config.strict:
                raise InvalidValue(f"{text}. Pass a unique name, or call reset_identity()")
            self._store.journal.count("refused_identities")
            self._become(Call.IDENTIFY_REFUSED, None)
            _log.error("%s; nobody is identified now", text)
            return
        self._become(Call.IDENTIFY, judged.identity)
        if judged.complaint is not None:
            once = ("identify", "doubtful", judged.complaint)
            self._faults.say(once, "identify: %s", judged.complaint)

    def reset_identity(self) -> None:
        """
        Log the user out: an identified user gives way to a new anonymous one
        with a new session. No effect on an anonymous user.
        """
        self._become(Call.RESET, None)

    def new_visitor(self) -> None:
        """
        Begin with a new anonymous user and session, whoever was there before:
        for kiosks whose visitors never log in.
        """
        self._become(Call.NEW_VISITOR, None)

    def _become(self, call: Call, identity: str | None) -> None:
        if self._silent:
            return
        with self._state_lock:
            before = self._user
            effect = session.effect_of(before, call, identity)
            if effect is session.NOTHING:
                return
            after = session.next_user(before, effect, identity, _random_id())
            facets: dict[str, Value] = {}
            if after != before:
                name = identity_facet(self._app_id, self._machine)
                facets[name] = {"user_id": after.user_id, "identity": after.identity}
            if effect.new_user and self._config.clear_event_properties_on_new_user:
                facets[cleared_facet(self._app_id)] = True
            if facets:
                joins = effect.take_identity and not effect.new_user
                self._set(
                    facets,
                    identify=Actor(self._app_id, after.user_id, after.identity) if joins else None,
                    gone=Actor(self._app_id, before.user_id) if effect.new_user else None,
                )
            self._user = after
            if effect.new_session:
                self._replace_session()
            self._derive()
        self._keeper.sync_soon()

    def _set(self, facets: dict[str, Value], **more: Any) -> None:
        """
        Record facets and have them in force; under the state lock.
        """
        at = self._store.record_state(facets, **more)
        if CONSENT in facets:
            note_consent(self._directory, bool(facets[CONSENT]))
            self._state.set_consent(bool(facets[CONSENT]), at, purge=bool(more.get("purge")))
        else:
            self._state.apply_all(facets, at)
        self._version += 1

    @property
    def _refused_identities(self) -> frozenset[str]:
        chosen = self._config.refused_identities
        if chosen is None:
            return session.REFUSED
        return frozenset(map(session.folded, chosen))

    # -- properties -----------------------------------------------------------------

    def add_user_properties(self, properties: Mapping[Any, Any]) -> None:
        """
        Attach properties to the user's profile at Heap.

        Held while the user is anonymous (and lost, counted, if it never
        identifies), sent once it has a name. Only changes are sent; an unchanged
        value again after a day.

        Args:
            properties: Keys to strings of at most 255 UTF-16 units and numbers
                (Heap's reference). ``user_id`` and ``id`` may not be keys; only
                lower-case ``email`` fills Heap's own e-mail property.

        Raises:
            InvalidCall: Not a mapping.
            InvalidValue: Only with ``strict=True``: a value is at fault.
        """
        if self._silent:
            return
        good = self._faults.mended("add_user_properties", properties, limits.USER_VALUE, user=True)
        if good:
            with self._state_lock:
                self._store.record_user_properties(self._actor, dumps(good))

    def add_event_properties(self, properties: Mapping[Any, Any]) -> None:
        """
        Attach properties to every later event, across sessions and restarts. A
        property of the event itself wins over one of these.

        Args:
            properties: Keys to strings of fewer than 1024 UTF-16 units and
                numbers (Heap's reference); all that are in force may take 8 KB,
                and what goes beyond is left out and counted.

        Raises:
            InvalidCall: Not a mapping.
            InvalidValue: Only with ``strict=True``: a value is at fault.
        """
        if self._silent:
            return
        good = self._faults.mended("add_event_properties", properties, limits.EVENT_VALUE)
        with self._state_lock:
            known = self._state.event_properties(self._app_id)
            limit = limits.EVENT_PROPERTIES_BYTES
            fitting, faults = repair.fit_event(
                good, lambda some: len(dumps({**known, **some})), limit
            )
            reason = f"is left out: event properties may take {limit:,} bytes in all"
            self._faults.complain(
                "add_event_properties",
                tuple(
                    Fault(fault.kind, fault.key, f"property {fault.key!r} {reason}")
                    for fault in faults
                ),
            )
            if fitting:
                self._set(
                    {property_facet(self._app_id, key): value for key, value in fitting.items()}
                )
                self._derive()

    def remove_event_property(self, name: str) -> None:
        """
        Stop attaching one event property; no effect where there is none.

        Raises:
            InvalidCall: `name` is no string.
        """
        if self._silent:
            return
        if not issubclass(type(name), str):
            self._faults.blame(InvalidCall(f"name must be a string, got {repair.type_name(name)}"))
            return
        # A subclass may have methods of its own, which may raise.
        name = str.__str__(name)
        with self._state_lock:
            if name in self._state.event_properties(self._app_id):
                self._set({property_facet(self._app_id, name): None})
                self._derive()

    def clear_event_properties(self) -> None:
        """
        Stop attaching event properties. Device properties stay.
        """
        if self._silent:
            return
        with self._state_lock:
            if self._state.event_properties(self._app_id):
                self._set({cleared_facet(self._app_id): True})
                self._derive()

    # -- settings -------------------------------------------------------------------

    def change_interval(self, seconds: float | timedelta) -> None:
        """
        Set the time between two deliveries, from now on; not persisted.

        Args:
            seconds: Default 15 (Heap's SDKs); below 0.1 it is raised to 0.1, and
                counted.

        Raises:
            InvalidCall: Neither a number nor a timedelta, negative or not finite.
        """
        if self._config.disabled:
            return
        value = duration("seconds", seconds)
        if value < limits.INTERVAL_MINIMUM:
            self._faults.complain(
                "change_interval",
                (
                    Fault(
                        "interval",
                        None,
                        f"{value} s is too short; {limits.INTERVAL_MINIMUM} s is in force",
                    ),
                ),
            )
            value = limits.INTERVAL_MINIMUM
        self._interval = value
        self._outbox.change_interval(value)

    def set_app_id(self, app_id: str | int) -> None:
        """
        Begin a new session and, with another id, record for another environment
        from now on. What is queued keeps the id that it was tracked under.

        Args:
            app_id: Digits, as text or int.

        Raises:
            InvalidCall: Not a number.
        """
        if self._config.disabled:
            return
        checked = _config.load({"app_id": app_id}, {}, ()).config.app_id
        if checked is None:
            raise InvalidCall("app_id: None came, allowed is the id of an environment at Heap")
        self._reload()
        with self._state_lock:
            if checked != self._app_id:
                self._app_id = checked
                self._muted = self._config.do_not_track
                self._version += 1
        self._find_user()
        with self._state_lock:
            self._replace_session()
            self._derive()

    # -- the Event Visualizer ---------------------------------------------------------

    def start_ev_pairing(
        self, *, bind: str = "127.0.0.1", port: int = 0, timeout: float | timedelta = 900.0
    ) -> Pairing:
        """
        Serve a page on which one browser can watch the events of this device as they
        happen, where each stands, and how delivery goes. It asks for the code that is
        returned here, and logged as a WARNING together with the URL; after five wrong
        ones the pairing is over. A pairing that is running ends.

        Recording costs no more meanwhile: the page reads the state directory.

        Args:
            bind: The IP address to listen on. Unless it is a loopback address the page
                can be reached over the network, and is not encrypted.
            port: 0 takes a free one.
            timeout: Seconds until the pairing is over by itself.

        Returns:
            ``url``, ``code`` and ``expires``; at once, the page follows in a moment.
            Where ``HEAP_AGENT_DISABLED`` is set, an empty one that has expired.

        Raises:
            InvalidCall: An argument that is not as above, or after `shutdown`.
            OSError: The port is taken, or the address is not this machine's.
        """
        if self._config.disabled:
            none: Pairing = _pairings().Pairing("", "", datetime.now(timezone.utc))
            return none
        if self._ended:
            raise InvalidCall("start_ev_pairing came after shutdown; start another agent")
        return self._visualizer.start(bind, port, timeout)

    def stop_ev_pairing(self) -> None:
        """
        End the pairing, if there is one.
        """
        if self._pairings is not None:
            self._pairings.stop()

    def disable_visualizer_pairing_gesture(self) -> None:
        """
        Let nobody but the program itself start a pairing: ``heap-agent pair`` and
        SIGUSR1 are ignored from now on, also after restarts and in every process on this
        directory, until `enable_visualizer_pairing_gesture`. For production.
        """
        self._set_gesture(False)

    def enable_visualizer_pairing_gesture(self) -> None:
        """
        Let ``heap-agent pair``, and SIGUSR1 with ``pairing_signal``, start a pairing
        again. That is so from the beginning.
        """
        self._set_gesture(True)

    def _set_gesture(self, allowed: bool) -> None:
        if self._config.disabled:
            return
        with self._state_lock:
            if self._gesture_allowed() is not allowed:
                self._set({GESTURE: allowed})

    def _gesture_allowed(self) -> bool:
        facet = self._state.facets.get(GESTURE)
        return facet is None or facet.value is not False

    @property
    def _visualizer(self) -> Pairings:
        made = self._pairings
        if made is None:
            module = _pairings()
            device = module.AgentDevice(
                self._store,
                self._outbox,
                status=lambda: self.status().as_dict(),
                in_force=self._in_force,
                mended=self._faults.said_of,
            )
            with self._end_lock:
                # Another thread may have been quicker, or `shutdown`.
                made = self._pairings = self._pairings or module.Pairings(
                    device, self._gesture_allowed
                )
                if self._ended:
                    made.close()
        return made

    def _pair_for_others(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._visualizer.on_request(arguments)

    def _unpair_for_others(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        self.stop_ev_pairing()
        return {}

    def _in_force(self) -> InForce:
        with self._state_lock:
            state = self._state
            found: InForce = _pairings().InForce(
                self.user_id,
                self.identity,
                self.session_id,
                state.event_properties(self._app_id),
                self._device,
                (state.purged, state.forgotten),
            )
            return found

    def _listen_to_signal(self) -> None:
        """
        Have SIGUSR1 start a pairing, until `shutdown`. Whoever listened to it before is
        called, too.
        """
        try:
            before = signal.getsignal(signal.SIGUSR1)

            def heard(number: int, frame: FrameType | None) -> None:
                self._keeper.signal()
                if callable(before):
                    before(number, frame)

            signal.signal(signal.SIGUSR1, heard)
            self._unlisten = lambda: _restore_signal(heard, before)
        except (AttributeError, ValueError) as error:
            problem = f"pairing_signal: SIGUSR1 cannot be listened to here ({error})"
            self._problems.append(problem)
            _log.error("%s. It takes POSIX, and an agent that starts on the main thread", problem)

    # -- pauses -----------------------------------------------------------------------

    def pause_delivery(self) -> None:
        """
        Send nothing until `resume_delivery`, also after restarts: for metered
        links. Recording goes on.
        """
        self._pause(True)

    def resume_delivery(self) -> None:
        """
        End a pause, in every process on this directory; delivers at once.
        """
        self._pause(False)
        self._outbox.hurry()

    def _pause(self, paused: bool) -> None:
        if self._config.disabled:
            return
        with self._state_lock:
            self._set({PAUSED: paused})
        if paused:
            self._outbox.barrier()

    # -- consent --------------------------------------------------------------------

    def opt_out(self, purge: bool = True) -> None:
        """
        Stop recording and delivering, in every process on this directory and
        after restarts. Returns when nothing more can start to leave; a request
        that is under way may still arrive.

        Other processes take notice within about two seconds; what they record
        until then is deleted, not sent.

        Args:
            purge: Delete the queue, the dead letters, the identity and all
                properties too (counted as purged).

        Raises:
            InvalidCall: `purge` is no bool.
        """
        if self._config.disabled:
            return
        if not isinstance(purge, bool):
            raise InvalidCall(f"purge must be True or False, got {shown(purge)}")
        with self._state_lock:
            self._set({CONSENT: False}, purge=purge)
            if purge:
                self._user = User(_NOBODY)
                self._unpublished.clear()
            self._session, self._session_until = None, -1
            self._derive()
        if purge:
            forget_first_users(self._directory)
            # What was written here goes when the owner unlinks the sealed part.
            self._store.journal.rotate()
        self._forget_run()
        self._keeper.sync_soon()
        self._outbox.barrier()
        self._wait_until_heard()

    def opt_in(self) -> None:
        """
        Record and deliver again; after a purge as a new anonymous user.
        """
        if self._config.disabled or self._state.consent.given:
            return
        with self._state_lock:
            self._set({CONSENT: True})
        self._find_user()
        self._keeper.sync_soon()

    def forget(
        self, *, identity: str | int | None = None, user_id: str | int | None = None
    ) -> bool:
        """
        Erase one user from this device, for good: call it before the user is
        deleted at Heap, whom a device that was offline for weeks would otherwise
        make anew.

        What was recorded of the user until now is deleted and counted as purged:
        in the journals, queued, held and among the dead letters, under every app
        id and for every process on this directory. Whoever is known here to be
        the same person goes with them: all user ids of an identity, the identity
        of a user id. If it is the current user, a new anonymous one begins; event
        properties stay, unless ``clear_event_properties_on_new_user`` is set.

        The person may come back: what is recorded under the identity after this
        call is kept and sent. A hash of the name stays, so that what another
        process has recorded before does not slip through. The queue is written
        anew, which takes its size on the disk once more for a moment. Storage that
        levels wear (SD cards) may keep deleted blocks for a while; no program can
        help it.

        Args:
            identity: As given to `identify`.
            user_id: As in `user_id`, digits as text or int.

        Returns:
            True when nothing of the user is left to be sent, nor on its way.
            False where that is not certain yet: the process that delivers has not
            answered within 5 s, a request takes longer, or the disk refuses. It is
            on record all the same, and done as soon as it can be. False, too, where
            ``HEAP_AGENT_DISABLED`` is set: nothing was done.

        Raises:
            InvalidCall: Both are given, or none, or something else than text and int.
        """
        if self._config.disabled:
            return False
        if identity is not None and user_id is not None:
            raise InvalidCall("forget: identity and user_id came, allowed is one of them")
        if user_id is None:
            name, kind = session.known_as(identity), BY_IDENTITY
        else:
            name, kind = session.user_id_of(user_id), BY_USER_ID
        with self._state_lock:
            facets: dict[str, Value] = {forgotten_facet(name): kind}
            leaves = name in (self._user.identity, self._user.user_id)
            if leaves:
                # Said together, as nobody else may know yet that they are one person.
                facets[forgotten_facet(self._user.user_id)] = BY_USER_ID
                if self._user.identity is not None:
                    facets[forgotten_facet(self._user.identity)] = BY_IDENTITY
            if leaves and self._config.clear_event_properties_on_new_user:
                facets[cleared_facet(self._app_id)] = True
            self._set(facets)
        self._find_user()
        self._store.journal.rotate()
        self._keeper.sync_soon()
        done = self._wait_until_heard(own=True)
        # What has begun to leave is gone when the request has ended.
        return self._outbox.barrier(_CONSENT_PATIENCE) and done

    def _find_user(self) -> None:
        """
        Something was said that may concern who the user is. Not under the state
        lock: a new one is brought to the disk, and `track` must not wait for that.
        """
        before = self._user
        if self._reload() or self._user is not before:
            # Read, or found unreadable: then nobody who was there before comes back.
            return
        user = self._user_of(self._state)
        with self._state_lock:
            if user.user_id != self._user.user_id:
                self._replace_session()
            self._user = user
            self._derive()

    def _wait_until_heard(self, *, own: bool = False) -> bool:
        """
        Wait until whoever delivers from this directory knows.

        Args:
            own: Become that, where nobody is.
        """
        store = self._store
        if own:
            if self._directory is not None:
                store.try_to_own()
            store.mend(time.monotonic(), patience=0.0)
        try:
            if store.ledger is not None or self._directory is None:
                self._outbox.absorb()
                return store.trouble is None
        finally:
            if own and (self._ended or self._config.do_not_track):
                # Nothing is delivered here: somebody else may want to.
                store.disown()
        if store.owner_is_gone():
            return False
        return store.ask("heard", {}, _CONSENT_PATIENCE) is not None

    # -- delivery -------------------------------------------------------------------

    def flush(self, timeout: float | timedelta | None = None) -> bool:
        """
        Deliver what can be delivered now.

        Args:
            timeout: Seconds to spend, waiting for budgets and back-off included.
                None for one pass that ends at the first wait.

        Returns:
            True when nothing is left. Where another process delivers from this
            directory, it is asked to, and this waits (10 s without a timeout).
            After `shutdown` nothing is delivered any more. In a signal handler that
            has interrupted another call of this agent's nothing can be waited for:
            False, and delivery follows.

        Raises:
            InvalidCall: A negative timeout, or no number.
        """
        if self._config.disabled:
            return True
        seconds = None if timeout is None else duration("timeout", timeout)
        if self._interrupted:
            # A signal handler that has interrupted a call: whoever delivers would wait
            # for what only this thread can give back.
            self._outbox.hurry()
            return False
        # It looks at the clock itself, but for a disk that hangs.
        patience = None if seconds is None else seconds + _FLUSHING_PATIENCE
        return bool(aside(lambda: self._flush(seconds), timeout=patience))

    @property
    def _interrupted(self) -> bool:
        """Whether this is a signal handler that has cut into a call of this agent's."""
        return self._store.held_here or is_held_here(self._state_lock)

    def _flush(self, seconds: float | None) -> bool:
        if self._ended or self._config.do_not_track:
            return self._store.books().rows == 0
        deadline = time.monotonic() + (10.0 if seconds is None else seconds)
        self._store.flush_counts()
        # Where the disk takes no request either, nobody can be asked.
        while self._store.storage == "disk" and not self._store.try_to_own():
            left = deadline - time.monotonic()
            if left <= 0 or (seconds is None and self._nobody_can_deliver):
                return False
            answer = self._store.ask(FLUSH, {}, min(left, 2.0))
            if answer is not None and (answer.get("empty") or seconds is None):
                return bool(answer.get("empty"))
        if self._guest:
            # The owner's other duties, for as long as this one is it.
            self._keeper.start()
        self._store.mend(time.monotonic(), patience=0.0)
        left_over = None if seconds is None else max(0.0, deadline - time.monotonic())
        return self._outbox.flush(left_over)

    @property
    def _nobody_can_deliver(self) -> bool:
        """Whether the queue cannot be opened, and nobody else has it open."""
        return self._store.trouble is not None and self._store.owner_is_gone()

    def sync(self, timeout: float | timedelta | None = None) -> bool:
        """
        Bring everything recorded so far to stable storage.

        Args:
            timeout: Seconds to wait at most; None: until it is done.

        Returns:
            True when a power cut can no longer take it; False where the disk
            refuses or the time is over.

        Raises:
            InvalidCall: A negative timeout, or no number.
        """
        if self._config.disabled:
            return True
        if timeout is None:
            return self._sync()
        # A disk that hangs cannot be interrupted; only a thread can be left alone.
        return bool(aside(self._sync, timeout=duration("timeout", timeout)))

    def _sync(self) -> bool:
        self._store.mend(time.monotonic())
        return self._store.journal.sync()

    def status(self) -> Status:
        """
        How things stand. Reads the directory; safe at any time, in any thread.

        Returns:
            The books (``recorded = queued + delivered + dead + dropped``) and
            more; see `Status`.
        """
        return _read_status()(
            self._store,
            self._outbox.drain,
            self._config,
            problems=(*self._problems, *self._troubles()),
            app_id=None if self._app_id == _NAMELESS else self._app_id,
            opted_out=not self._state.consent.given,
            paused=self._state.flag(PAUSED),
        )

    def _troubles(self) -> Iterator[str]:
        if self._store.trouble is not None:
            yield f"the queue cannot be used now: {self._store.trouble}"

    def check(self) -> list[str]:
        """
        Verify the store: SQLite's own check, every row's checksum, the books.

        Returns:
            What is wrong, a sentence each; empty where all is well.
        """
        return [] if self._config.disabled else self._store.check()

    def shutdown(self, timeout: float | timedelta | None = None) -> None:
        """
        Deliver once more within the timeout, then let go of the directory. What
        is left stays on disk. A `track` after it is recorded for the next start.
        Called at exit by itself; a second call waits for the first. Safe in a
        signal handler, whatever it interrupts: what the interrupted call holds
        up is waited for a moment beyond the timeout, and goes on without us.

        Args:
            timeout: Seconds; ``shutdown_timeout`` (2) unless given.

        Raises:
            InvalidCall: A negative timeout, or no number.
        """
        if self._config.disabled:
            return
        wanted = self._config.shutdown_timeout if timeout is None else timeout
        seconds = duration("timeout", wanted)
        self._unlisten()
        with self._end_lock:
            if not self._ended:
                self._ended = True
                self._ending = threading.Thread(
                    target=self._end, args=(seconds,), name="heap-agent-shutdown", daemon=True
                )
                try:
                    self._ending.start()
                except RuntimeError:
                    # An interpreter that is ending starts no threads (Python 3.12).
                    self._ending = None
                    self._end(seconds)
        ending = self._ending
        if ending is not None and ending is not threading.current_thread():
            interrupted = self._interrupted
            ending.join(seconds + (_HANDLER_PATIENCE if interrupted else _CLOSING_PATIENCE))
            if ending.is_alive() and not interrupted:
                self._faults.say(
                    ("shutdown", "hangs", None),
                    "the disk does not answer, the program goes on without it: %d events are "
                    "in memory, and lost if it ends now",
                    self._store.in_memory,
                    level=logging.ERROR,
                )

    def _end(self, seconds: float) -> None:
        # On a thread of its own: a signal handler may have interrupted a holder of
        # a lock that this needs, and nobody else could ever give it back.
        deadline = time.monotonic() + seconds
        self._attending = False
        if self._pairings is not None:
            self._pairings.close()
        self._outbox.end()
        farewell: Callable[[], None] | None = None
        if not self._outbox.stop(seconds, self._say_farewell):

            def farewell() -> None:
                self._say_farewell(deadline - time.monotonic())

        # The keeper still has to sync: a moment is left for it in any case.
        self._keeper.stop(max(0.5, deadline - time.monotonic()), farewell)
        self._forget_run()
        with suppress(Exception):
            self._store.flush_counts()
        self._store.journal.sync()
        lost = self._store.close()
        if lost:
            _log.error("%d events could be neither written nor sent, and end here", lost)

    def _end_with_program(self) -> None:
        if (lifecycle := self._lifecycle) is not None:
            # Whatever comes of it, the last delivery is still to be made.
            with suppress(Exception):
                if error := _lifecycle().uncaught():
                    aside(lambda: lifecycle.crash(error), timeout=_CLOSING_PATIENCE)
        self.shutdown()

    def _say_farewell(self, seconds: float) -> None:
        # What the disk did not take is sent now or never.
        self._store.mend(time.monotonic(), patience=0.0)
        self._outbox.finish(seconds)

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown()

    async def __aenter__(self: _Self) -> _Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        import asyncio  # it would double the cost of importing this package

        await asyncio.to_thread(self.shutdown)

    # -- faults ---------------------------------------------------------------------

    def _check_device_properties(self, properties: Mapping[str, Scalar]) -> dict[str, Scalar]:
        repaired = repair.repair_properties(properties, limit=limits.EVENT_VALUE)
        for fault in repaired.faults:
            self._problems.append(f"device_properties: {fault.detail}")
        return dict(repaired.properties)

    def _report_losses(self, losses: Mapping[str, int]) -> None:
        self.track(_LOSSES, {f"dropped_{name}": number for name, number in losses.items()})

    # -- fork -----------------------------------------------------------------------

    def _begin_in_child(self) -> None:
        """
        In a forked child: begin anew with the first call, and leave what was
        inherited alone. The session goes on.
        """
        inherited, visit = self._store, (self._session, self._session_until)
        self._inherited.append(inherited)
        state, user = self._state, self._user
        inherited.abandon()
        ended, self._ended, self._ending = self._ended, False, None
        self._begin()
        self._state, self._user = state, user
        self._session, self._session_until = visit
        self._derive()
        self._ended = ended
        self._asleep = not (ended or self._muted)
        self._store.journal.open_with_first_record()


# -- helpers ------------------------------------------------------------------------


def _random_id() -> str:
    return session.id_from(int.from_bytes(os.urandom(8), "little"))


@late
def _pairings() -> Any:
    from heap_agent import _pairings

    return _pairings


@late
def _lifecycle() -> Any:
    from heap_agent import _lifecycle

    return _lifecycle


@late
def _facts() -> Callable[[str | None], dict[str, str]]:
    from heap_agent._facts import facts

    return facts


@late
def _read_status() -> Callable[..., Status]:
    from heap_agent._status import read_status

    return read_status


def _restore_signal(ours: object, before: Any) -> None:
    """
    Give SIGUSR1 back, unless somebody else has taken it meanwhile. (Another thread than
    the main one may not; then a signal finds an agent that has ended.)
    """
    with suppress(ValueError):
        if signal.getsignal(signal.SIGUSR1) is ours:
            signal.signal(signal.SIGUSR1, before)


#: Agents of this process, to be told of a fork.
_living: weakref.WeakSet[Agent] = weakref.WeakSet()


def _begin_in_child() -> None:
    for agent in list(_living):
        agent._begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)


def _at_exit(reference: weakref.ref[Agent]) -> None:
    agent = reference()
    if agent is not None:
        agent._end_with_program()
