"""
From the journals into the database, exactly once.

A batch of records, everything they change, the books and the positions up to
which they were read are one transaction; only after its commit are finished
parts unlinked, and only after the directory has been synced are their positions
forgotten. Whatever a crash cuts off is either wholly done or done again.

This module must not know the network, nor who is logged in in this process.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from heap_agent._core.bounds import RECORD
from heap_agent._core.encoder import loads
from heap_agent._core.events import Actor, Kind
from heap_agent._core.records import (
    FROZEN,
    GIVEN,
    MENDED,
    OVERHEAD,
    PartHeader,
    Record,
    holds_only,
)
from heap_agent._core.state import (
    BY_IDENTITY,
    BY_USER_ID,
    CONSENT,
    PURGED,
    Facet,
    Moment,
    State,
    forgotten_facet,
    is_forgotten,
    is_identity,
    names_in,
)
from heap_agent._core.wire import Stamper, complete, read_actor, restamp, who
from heap_agent._store import parts as files
from heap_agent._store import system, tally
from heap_agent._store.database import Database
from heap_agent._store.event_queue import DROPPED, RECORDED, EventQueue
from heap_agent._store.owner import HeldLock, try_lock
from heap_agent._store.parts import Chunk, PartFile, Span, read_header
from heap_agent._store.positions import Place, forget_position, load_positions, save_position
from heap_agent._store.properties import UNREADABLE, Person, Properties, load_state
from heap_agent._store.rows import Entry
from heap_agent._store.timeline import Timeline

#: The memo that holds the server's last words, which may name anybody.
REPORT: Final = "report"

#: Records in one transaction, so that a long backlog is no long transaction.
BATCH: Final = 4_000

#: Positions of unlinked parts that are kept while their journal is written.
_REMEMBERED: Final = 64


class Request(NamedTuple):
    """
    Something that only the owner can do.

    Attributes:
        id: Its name, for the answer.
        what: Which request.
        arguments: Whatever it needs.
    """

    id: str
    what: str
    arguments: Mapping[str, Any]


class Absorbed:
    """
    What one call has done.

    Attributes:
        records: How many were read.
        state_changed: A facet is different now.
        requests: To be carried out now that the commit is there.
        purged: Everything recorded before was deleted.
        erased: That, or everything of some users: no copy of it may stay.
        damaged: Records that could not be read.
        dropped: Events that were passed over, because there is no room for them.
        more: A batch was full, or must wait until others have left: call again.
        trouble: Why something was not read, and is still there.
    """

    def __init__(self) -> None:
        self.records = 0
        self.state_changed = False
        self.requests: list[Request] = []
        self.purged = False
        self.erased = False
        self.damaged = 0
        self.dropped = 0
        self.more = False
        self.trouble: str | None = None


class _Source:
    """One journal as found: its parts, its tally, and whether its writer is gone."""

    def __init__(self, id: str, parts: list[PartFile], dead: HeldLock | None, orphan: bool) -> None:
        self.id = id
        self.parts = parts
        self.dead = dead
        self.orphan = orphan
        self.refused = 0

    @property
    def complete(self) -> bool:
        return self.orphan or self.dead is not None


class Absorber:
    """
    Moves records. Only the owner has one; one thread at a time may call it.

    Args:
        directory: Where the journals are; None where there are none.
        own: Id of this process's journal, never adopted here.
        database, queue, properties, timeline: Where to.
    """

    def __init__(
        self,
        directory: Path | None,
        own: Callable[[], str],
        database: Database,
        queue: EventQueue,
        properties: Properties,
        timeline: Timeline,
    ) -> None:
        self._directory = directory if directory is not None else Path()
        self._own = own
        self._database = database
        self.queue = queue
        self.properties = properties
        self.timeline = timeline
        self.state: State = load_state(database)
        self._speakers: dict[bytes, tuple[Actor, bytes]] = {}
        self.stamp = Stamper()
        self._stale = False
        self._known: dict[Place, int] = {}
        self._forget: list[tuple[str, int]] = []
        self._looked = False

    def __repr__(self) -> str:
        return f"<Absorber [{len(self.state.facets)} facets]>"

    def absorb(self, *, freeze: bool, limit: int = BATCH, pass_over: int = 0) -> Absorbed:
        """
        Read one batch.

        Args:
            freeze: Deliveries succeed: settle the rows' time in the same commit.
            limit: Records in the transaction, at most (or a few more).
            pass_over: Bytes of events, the oldest, that are only counted, as
                dropped: there is no room for all that waits in the journals.

        Raises:
            DatabaseTrouble: The batch was not taken; nothing is lost.
        """
        done = Absorbed()
        finished: list[PartFile] = []
        sources: list[_Source] = []
        try:
            if self._stale:
                self._reload()
            sources += self._sources()
            batch = _Batch(self, freeze, limit, pass_over)
            self._transact(sources, done, finished, batch)
            batch.keep_at_hand()
        except BaseException:
            self._stale = True
            for source in sources:
                if source.dead is not None:
                    source.dead.release()
            raise
        self._tidy(sources, finished)
        return done

    def take(self, records: Iterable[Record], header: PartHeader, *, freeze: bool) -> None:
        """
        Take records in that never were in a file.
        """
        try:
            with self._database.transact():
                batch = _Batch(self, freeze)
                batch.take(records, header, self.timeline.ordinal(header.boot_id))
                batch.finish()
        except BaseException:
            self._reload()
            raise

    def forget_words(self) -> None:
        """
        Delete what a server has said: in its reasons it may repeat what it was sent.
        """
        with self._database.transact() as execute:
            execute("DELETE FROM memo WHERE name = ?", (REPORT,))

    def _reload(self) -> None:
        """
        After a transaction that has not happened: what was remembered of it
        must be forgotten.
        """
        self.state = load_state(self._database)
        self.properties.forget_seen()
        self._stale = False

    def pending_bytes(self) -> int:
        """
        About how much has been written and not yet been read.
        """
        positions, own = load_positions(self._database), self._own()
        total = 0
        for parts in files.find_parts(self._directory).values():
            for part in parts:
                with suppress(OSError):
                    size = part.path.stat().st_size
                    read = positions.get(part.place)
                    if read is None:
                        # A header alone is nothing to be read, but where its writer has
                        # gone its files wait to be removed.
                        header = read_header(part.path) if part.journal == own else None
                        read = 0 if header is None else header.size
                    total += max(0, size - read)
        return total

    def only_events_wait(self) -> bool:
        """
        Whether nothing but events waits in the journals: no word about consent or
        about somebody who is to be forgotten, which is to be heard before anything leaves.
        """
        positions = load_positions(self._database)
        try:
            return all(
                holds_only(Kind.EVENT, files.unread(part.path, positions.get(part.place, 0)))
                for found in files.find_parts(self._directory).values()
                for part in found
            )
        except OSError:
            return False

    # -- one transaction --

    def _transact(
        self,
        sources: list[_Source],
        done: Absorbed,
        finished: list[PartFile],
        batch: _Batch,
    ) -> None:
        nothing = not any(source.parts or source.refused for source in sources)
        nothing = nothing and not self._forget
        if nothing and self._looked:
            return
        with self._database.transact() as execute:
            positions = load_positions(self._database)
            spans = [
                (source, span)
                for source in sources
                for span in files.spans(source.parts, positions)
            ]
            for source in sources:
                self._count_refused(source, positions, batch)
            for source, span in spans:
                if done.records >= batch.limit:
                    done.more = True
                    break
                complete = source.complete or span.sealed
                self._read(span, complete, positions, batch, done, finished)
            for place in self._forget:
                positions.pop(place, None)
                forget_position(execute, place)
            batch.finish()
            done.state_changed = bool(batch.changed)
            done.requests = batch.requests
            done.purged = batch.purged
            done.erased = batch.purged or batch.forgets
            done.dropped = batch.dropped
            if done.records or done.damaged:
                self.timeline.forget()
                self.timeline.save()
        self._known, self._forget = positions, []

    def _count_refused(self, source: _Source, positions: dict[Place, int], batch: _Batch) -> None:
        place = source.id, tally.NUMBER
        new = source.refused - positions.get(place, 0)
        if new > 0:
            batch.counts[RECORDED] += new
            batch.counts[DROPPED + "full"] += new
            self._set_position(place, source.refused, positions)

    def _set_position(self, place: Place, position: int, positions: dict[Place, int]) -> None:
        positions[place] = position
        with self._database.transact() as execute:
            save_position(execute, place, position)

    def _read(
        self,
        span: Span,
        complete: bool,
        positions: dict[Place, int],
        batch: _Batch,
        done: Absorbed,
        finished: list[PartFile],
    ) -> None:
        part = span.part
        before = positions.get(part.place, 0)
        position = before or span.begin
        while (chunk := self._look(span, position, complete, batch, done)) is not None:
            if chunk.damaged:
                batch.counts[RECORDED] += chunk.damaged
                batch.counts[DROPPED + "damaged"] += chunk.damaged
                done.damaged += chunk.damaged
            if chunk.header is not None:
                boot = self.timeline.ordinal(chunk.header.boot_id)
                batch.take(chunk.records, chunk.header, boot)
            done.records += len(chunk.records)
            moved = chunk.end > position
            position = chunk.end
            if chunk.finished:
                finished.append(part)
                break
            if done.records >= batch.limit:
                done.more = True
                break
            if not moved:
                break
        if position != before:
            self._set_position(part.place, position, positions)

    def _look(
        self, span: Span, position: int, complete: bool, batch: _Batch, done: Absorbed
    ) -> Chunk | None:
        """
        Some records of a part; None where there is nothing to be had now.
        """
        try:
            return files.read_part(
                span.part.path,
                position,
                complete=complete,
                until=span.until,
                following=span.following,
                limit=batch.limit * RECORD,
                most=batch.limit - done.records,
            )
        except OSError as error:
            # A bad block, or another user's file: it stays, and holds up nobody else.
            done.trouble = files.unreadable(span.part, error)
            return None

    # -- files --

    def _sources(self) -> list[_Source]:
        """
        Journals, oldest first; those whose writer is dead are held locked.
        """
        found = files.find_parts(self._directory)
        locks = set(files.find_locks(self._directory))
        for id in [*tally.read_tallies(self._directory), *sorted(locks)]:
            # Without parts: its writer has just begun, or has gone.
            found.setdefault(id, [])
        own = self._own()
        sources = []
        for id, parts in found.items():
            held = self._try(id) if id != own and id in locks else None
            # The lock file exists before the first part and goes after the last.
            orphan = id not in locks and not files.lock_path(self._directory, id).exists()
            source = _Source(id, parts, held, orphan and id != own)
            if source.complete:
                # Listed again under the lock: its writer may have added one meanwhile.
                source.parts = files.find_parts(self._directory).get(id, [])
            sources.append(source)
        refused = tally.read_tallies(self._directory)
        for source in sources:
            source.refused = refused.get(source.id, 0)
        # The newest last, so that rows come in order as far as it is known.
        sources.sort(key=self._age)
        return sources

    def _try(self, id: str) -> HeldLock | None:
        try:
            return try_lock(files.lock_path(self._directory, id))
        except OSError:
            return None

    def _age(self, source: _Source) -> tuple[int, float]:
        for part in source.parts:
            with suppress(OSError):
                header = read_header(part.path)
                if header is not None:
                    return self.timeline.ordinal(header.boot_id), part.path.stat().st_mtime
        return (0, 0.0)

    def _tidy(self, sources: list[_Source], finished: list[PartFile]) -> None:
        """
        After the commit: unlink what is finished, sync the directory, forget.
        """
        stuck = set()
        for part in finished:
            # A part that somebody holds open stays, on Windows, and with it what comes
            # after it: without its copy it would be read to its end.
            if part.journal not in stuck and not system.unlink_quietly(part.path):
                stuck.add(part.journal)
        for source in sources:
            if source.dead is None and not source.orphan:
                continue
            left = files.find_parts(self._directory).get(source.id)
            if not left:
                for draft in files.drafts(self._directory, source.id):
                    system.unlink_quietly(draft)
                system.unlink_quietly(tally.tally_path(self._directory, source.id))
            if source.dead is not None:
                source.dead.release(unlink=not left)
        if finished or not self._looked:
            # The first time, too: an earlier owner may have died at this point.
            with suppress(OSError):
                gone = self._gone()
                system.directory_sync(self._directory)
                self._forget = gone
                self._looked = True

    def _gone(self) -> list[tuple[str, int]]:
        """
        Positions that nothing refers to any longer. Those of a living journal
        are kept for a while: a copy of an unlinked part may still turn up.
        """
        found = files.find_parts(self._directory)
        alive = {
            *files.find_locks(self._directory),
            *tally.read_tallies(self._directory),
            self._own(),
        }
        gone = []
        for id, number in self._known:
            numbers = [part.number for part in found.get(id, ())]
            if number in numbers:
                continue
            newest = max(numbers, default=number)
            ended = id not in alive and not numbers
            old = number != tally.NUMBER and newest - number > _REMEMBERED
            if ended or old:
                gone.append((id, number))
        return gone

    def speaker(self, line: bytes) -> tuple[Actor, bytes]:
        """
        Read an actor line; the same one thousands of times.

        Returns:
            The actor, and how an event tells of them.
        """
        known = self._speakers.get(line)
        if known is None:
            if len(self._speakers) > 1_000:
                self._speakers.clear()
            actor, session_id = read_actor(line)
            known = self._speakers[line] = actor, who(actor, session_id or "")
        return known


class _Origin(NamedTuple):
    """Where records are from: the journal, and the ordinal of the boot."""

    writer: str
    boot: int

    def at(self, record: Record) -> Moment:
        return Moment(self.boot, record.boot_clock, self.writer, record.sequence)


class _Run(NamedTuple):
    """Events that follow each other in a journal."""

    origin: _Origin
    events: list[Record]


class _Word(NamedTuple):
    """A record that is no event, with the change of state that it says."""

    origin: _Origin
    record: Record
    change: dict[str, Any] | None = None

    @property
    def at(self) -> Moment:
        return self.origin.at(self.record)

    def moment_entry(self, actor: Actor) -> Entry:
        """A row's moment, for the property store."""
        _, _, wall, boot_clock, _, _, _ = self.record
        boot = self.origin.boot
        return Entry(Kind.USER_PROPERTIES, 0, boot, boot_clock, wall, actor.app_id, actor.name, b"")


#: What comes of reading something that another version wrote, or nobody at all.
NOT_UNDERSTOOD: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class _Batch:
    """
    What the records of one transaction add up to.

    State is folded as it is read. What needs consent is judged at the end, when
    every word about consent in the batch is known, whichever journal it was in.
    """

    def __init__(
        self, absorber: Absorber, freeze: bool, limit: int = BATCH, pass_over: int = 0
    ) -> None:
        self.limit = limit
        self.dropped = 0
        self._pass_over = pass_over
        self._absorber = absorber
        self._freeze = freeze
        self.counts: Counter[str] = Counter()
        self.changed: set[str] = set()
        self.requests: list[Request] = []
        self.purged = False
        self._words = False
        self._forgotten: set[str] = set()
        self._judged: list[_Run | _Word] = []
        self._entries: list[Entry] = []
        self._first_id = 0

    def take(self, records: Iterable[Record], header: PartHeader, boot: int) -> None:
        """
        Take records of one part in. One that cannot be understood is counted as
        damaged: it passed its checksum, so a version that wrote it is to blame.
        """
        origin = _Origin(header.writer, boot)
        events: list[Record] = []
        for record in records:
            if record.kind != Kind.EVENT:
                self._take_events(origin, events)
                events = []
                self._take_word(_Word(origin, record))
            elif self._pass_over > 0:
                self._pass_over -= len(record.body) + OVERHEAD
                self.counts[RECORDED] += 1
                self.dropped += 1
            else:
                events.append(record)
        self._take_events(origin, events)

    # -- at once --

    def _take_events(self, origin: _Origin, events: list[Record]) -> None:
        if events:
            self.counts[RECORDED] += len(events)
            self._judged.append(_Run(origin, events))

    def _take_word(self, word: _Word) -> None:
        kind = word.record.kind
        with self._understanding():
            if kind == Kind.USER_PROPERTIES:
                self._judged.append(word)
            elif kind == Kind.STATE:
                self._state(word)
            elif kind == Kind.COUNTS:
                self._counts(word.record)
            elif kind == Kind.REQUEST:
                self._request(word.record)

    @contextmanager
    def _understanding(self) -> Iterator[None]:
        try:
            yield
        except NOT_UNDERSTOOD:
            self.counts[UNREADABLE] += 1

    def _state(self, word: _Word) -> None:
        at = word.at
        change = _change_in(word.record.body)
        facets: dict[str, Any] = change["set"]
        state = self._absorber.state
        if CONSENT in facets:
            changed = state.set_consent(bool(facets[CONSENT]), at, purge=bool(change.get("purge")))
            self.changed.update(changed)
            self._words = True
            self.purged |= PURGED in changed
            return
        changed = state.apply_all(facets, at)
        self.changed.update(changed)
        self._forgotten.update(filter(is_forgotten, changed))
        self._judged.append(word._replace(change=change))

    def _counts(self, record: Record) -> None:
        counts = loads(record.body)
        # More than that would not fit into the database after a few sums.
        if not all(type(number) is int and abs(number) < 1 << 53 for number in counts.values()):
            raise ValueError("counts that are no numbers")
        self.counts.update(counts)

    def _request(self, record: Record) -> None:
        fields = json.loads(record.body)
        self.requests.append(Request(fields["id"], fields["what"], fields.get("arguments", {})))

    # -- at the end --

    def finish(self) -> None:
        """
        Write everything down.
        """
        absorber = self._absorber
        if self._words:
            self._withdraw()
        self._find_forgotten()
        if self._forgotten:
            self._forget()
        if self.purged or self.forgets:
            absorber.forget_words()
        for judged in self._judged:
            if isinstance(judged, _Run):
                self._events(judged.origin, judged.events)
                continue
            with self._understanding():
                self._word(judged)
        self._first_id = absorber.queue.insert(self._entries)
        self.counts[DROPPED + "full"] += self.dropped
        absorber.queue.add(self.counts)
        absorber.properties.save(absorber.state, self.changed)

    def keep_at_hand(self) -> None:
        """
        After the commit: what came in need not be read back.
        """
        self._absorber.queue.keep_at_hand(self._first_id, self._entries)

    def _withdraw(self) -> None:
        """
        A word about consent has come in: delete what may not be kept, though
        records that are newer than the word may have come in before it.
        """
        absorber = self._absorber
        for since, until in absorber.state.withdrawn():
            if until is None:
                absorber.queue.purge(since[:2])
            else:
                absorber.queue.purge(since[:2], until[:2])
        if self.purged:
            boot, clock = absorber.state.purged[:2]
            absorber.queue.purge(before=(boot, clock + 1))
            absorber.properties.purge()

    @property
    def forgets(self) -> bool:
        """Whether somebody is to be forgotten of whom this was not known before."""
        return bool(self._forgotten)

    def _find_forgotten(self) -> None:
        """
        Whoever is known on this device to be the same person is forgotten with
        them: every `user_id` of an identity, and the identity of a `user_id`.
        """
        if not self._absorber.state.forgets_anybody:
            return
        # Twice: from a user id to its identity, and from there to the others.
        for user_id, identity, at in [*self._links()] * 2:
            self._spread(user_id, identity, BY_IDENTITY, at)
            self._spread(identity, user_id, BY_USER_ID, at)

    def _links(self) -> Iterator[tuple[str, str, Moment | None]]:
        """Users with their names, and since when where that is known."""
        said = [facet for name, facet in self._absorber.state.facets.items() if is_identity(name)]
        for word in self._judged:
            if isinstance(word, _Word) and word.change is not None:
                facets = word.change["set"].items()
                said += [Facet(value, word.at) for name, value in facets if is_identity(name)]
        for value, at in said:
            names = names_in(value)
            if names is not None and names[1] is not None:
                yield names[0], names[1], at
        if self._forgotten:
            for _, user_id, person in self._absorber.properties.persons():
                if person.identity is not None:
                    yield user_id, person.identity, None

    def _spread(self, known: str, other: str, kind: str, at: Moment | None) -> None:
        state = self._absorber.state
        name, facet = forgotten_facet(other), state.facets.get(forgotten_facet(known))
        if facet is None or (at is not None and at > facet.at):
            return
        if at is None and forgotten_facet(known) not in self._forgotten:
            return
        if state.apply(name, kind, facet.at):
            self.changed.add(name)
            self._forgotten.add(name)

    def _forget(self) -> None:
        """
        Delete what there is of users that are to be forgotten.
        """
        absorber = self._absorber
        facets = absorber.state.facets
        for actor in absorber.queue.actors():
            name = forgotten_facet(actor)
            if name in self._forgotten:
                boot, clock = facets[name].at[:2]
                absorber.queue.purge(before=(boot, clock + 1), actor=actor)
        absorber.properties.forget(lambda name: forgotten_facet(name) in self._forgotten)

    def _events(self, origin: _Origin, events: Sequence[Record]) -> None:
        """
        What a backlog goes through: whatever is the same for many events in a row is
        found out once.
        """
        absorber, boot, writer = self._absorber, origin.boot, origin.writer.encode()
        strict = absorber.state.forbids_anything
        # The clock may have been set while only they saw it.
        readings = [(record.wall, record.boot_clock) for record in (events[0], events[-1])]
        right = absorber.timeline.right_since(boot, readings)
        # None, because a damaged record's first line may be empty.
        line: bytes | None = None
        is_new = True
        latest = 0
        for record in events:
            _, flags, wall, boot_clock, sequence, body, _ = record
            try:
                first, *lines = body.split(b"\n", 2)
                if first != line:
                    actor, speaker = absorber.speaker(first)
                    app_id, name = actor.app_id, actor.name
                    line, is_new = first, True
                if strict and not self._allows(actor, origin.at(record)):
                    self.counts[DROPPED + "purged"] += 1
                    continue
                if is_new and actor.identity is None:
                    absorber.properties.seen(actor, boot, boot_clock)
                is_new = False
                flags &= GIVEN | FROZEN | MENDED
                true = wall
                if self._freeze:
                    settled = flags & (GIVEN | FROZEN)
                    if wall < right and not settled:
                        true = absorber.timeline.place(wall, boot_clock, boot)
                        right = absorber.timeline.right_since(boot, readings)
                    elif not settled:
                        latest = wall
                    flags |= FROZEN
                if len(lines) == 2:
                    stamp = absorber.stamp(true)
                    whole = complete(stamp, writer, sequence, boot_clock, speaker, *lines)
                else:
                    # One that has been in a queue before keeps its key.
                    (whole,) = lines
                    whole = whole if true == wall else restamp(whole, true)
            except NOT_UNDERSTOOD:
                self.counts[UNREADABLE] += 1
                self.counts[DROPPED + "damaged"] += 1
            else:
                self._entries.append(
                    Entry(Kind.EVENT, flags, boot, boot_clock, wall, app_id, name, whole)
                )
        absorber.timeline.reach(latest, boot)

    def _allows(self, actor: Actor, at: Moment) -> bool:
        state = self._absorber.state
        return state.allows(at) and not state.forgets(actor.user_id, actor.identity, at)

    def _word(self, word: _Word) -> None:
        """
        Whatever is no event.
        """
        absorber, change = self._absorber, word.change
        if change is None:
            line, body = _split(word.record.body)
            actor, _ = absorber.speaker(line)
            if self._allows(actor, word.at):
                absorber.properties.change_user(actor, loads(body), word.moment_entry(actor))
        elif absorber.state.allows(word.at):
            self._user(word, change)

    def _user(self, word: _Word, change: Mapping[str, Any]) -> None:
        state, properties = self._absorber.state, self._absorber.properties
        if "identify" in change:
            app_id, user_id, identity = change["identify"]
            if state.forgets(user_id, identity, word.at):
                return
        for fields in change.get("persons", ()):
            app_id, user_id, *known = fields
            person = Person(*known)
            if not state.forgets(user_id, person.identity, word.at):
                actor = Actor(app_id, user_id, person.identity)
                properties.met(app_id, user_id, person, entry=word.moment_entry(actor))
        if "identify" in change:
            actor = Actor(app_id, user_id, identity)
            properties.identified(actor, word.moment_entry(actor))
        if "gone" in change:
            app_id, user_id = change["gone"]
            properties.gone(app_id, user_id)


def _change_in(body: bytes) -> dict[str, Any]:
    """
    What a record of state says. The database would refuse a value of another type, and
    with it all that is in the same transaction.
    """
    change: dict[str, Any] = json.loads(body)
    match change:
        case {"set": dict()}:
            persons = change.get("persons", [])
            if (
                _names(change.get("identify", ["", "", ""]), 3)
                and _names(change.get("gone", ["", ""]), 2)
                and isinstance(persons, list)
                and all(map(_is_person, persons))
            ):
                return change
    raise ValueError("not a change of state")


def _names(value: object, number: int) -> bool:
    return isinstance(value, list) and [type(one) for one in value] == [str] * number


def _is_person(fields: object) -> bool:
    """Whether somebody can be met of whom this is said; see `Properties.met`."""
    match fields:
        case [str(), str(), str() | None, int() | None as identified, int() as seen]:
            return all(abs(clock) < 1 << 63 for clock in (identified or 0, seen))
    return False


def _split(body: bytes) -> tuple[bytes, bytes]:
    line, found, rest = body.partition(b"\n")
    if not found:
        raise ValueError("a record without an actor line")
    return line, rest
