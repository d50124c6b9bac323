"""Who gets in, how often somebody may guess, and how a device may be called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heap_agent._core.pairing import MISTAKES, PAUSE, Doorkeeper, Doors, Phase, Reply, Verdict

END = 900.0


@pytest.fixture(name="keeper")
def _keeper() -> Doorkeeper:
    return Doorkeeper("0042", "pass", until=END)


def test_the_code_opens(keeper: Doorkeeper) -> None:
    """Whoever gives it is let in, and known from then on."""
    assert not keeper.knows("pass", 0.0)
    assert keeper.ask_in("0042", 0.0).verdict is Verdict.WELCOME
    assert keeper.knows("pass", 1.0)
    assert not keeper.knows("pas", 1.0)


@pytest.mark.parametrize("code", ["", "42", "00042", "0043", "0042 ", "４２００", "\ud800"])
def test_another_code_does_not(keeper: Doorkeeper, code: str) -> None:
    """Nothing but the four digits is taken for them, and each try counts."""
    assert keeper.ask_in(code, 0.0) == Reply(Verdict.WRONG, MISTAKES - 1, PAUSE)
    assert keeper.phase(0.0) is Phase.WAITING


def test_five_mistakes_end_it(keeper: Doorkeeper) -> None:
    """After them not even the code helps."""
    replies = [keeper.ask_in("9999", 10.0 * number) for number in range(MISTAKES)]
    assert [reply.left for reply in replies] == [4, 3, 2, 1, 0]
    assert keeper.ask_in("0042", 100.0).verdict is Verdict.OVER
    assert keeper.phase(100.0) is Phase.OVER
    assert keeper.seconds_left(100.0) == 0.0


def test_guesses_are_apart(keeper: Doorkeeper) -> None:
    """Within the pause no code is looked at, and none counts."""
    keeper.ask_in("9999", 0.0)
    assert keeper.ask_in("0042", 0.5) == Reply(Verdict.TOO_SOON, MISTAKES - 1, 0.5)
    assert keeper.ask_in("0042", PAUSE).verdict is Verdict.WELCOME


def test_only_one_is_let_in(keeper: Doorkeeper) -> None:
    """The second who knows the code is told that the place is taken."""
    keeper.ask_in("0042", 0.0)
    assert keeper.ask_in("0042", 5.0).verdict is Verdict.TAKEN
    assert keeper.knows("pass", 5.0)


def test_time_ends_it(keeper: Doorkeeper) -> None:
    """Paired or not."""
    assert keeper.seconds_left(END - 10) == 10.0
    assert keeper.ask_in("0042", END).verdict is Verdict.OVER
    keeper = Doorkeeper("0042", "pass", until=END)
    keeper.ask_in("0042", 0.0)
    assert keeper.knows("pass", END - 0.1)
    assert not keeper.knows("pass", END)


def test_somebody_ends_it(keeper: Doorkeeper) -> None:
    """Whoever was let in is not known any more."""
    keeper.ask_in("0042", 0.0)
    keeper.end()
    assert not keeper.knows("pass", 1.0)
    assert keeper.ask_in("0042", 1.0).verdict is Verdict.OVER


@given(st.lists(st.tuples(st.sampled_from(["0042", "1", "2"]), st.floats(0, 3))))
def test_nobody_is_let_in_after_too_many_mistakes(story: list[tuple[str, float]]) -> None:
    """Whatever is tried, and when: at most five wrong codes are looked at, one right one."""
    keeper, now, verdicts = Doorkeeper("0042", "pass", until=END), 0.0, []
    for code, pause in story:
        now += pause
        verdicts.append(keeper.ask_in(code, now).verdict)
    assert verdicts.count(Verdict.WRONG) <= MISTAKES
    assert verdicts.count(Verdict.WELCOME) <= 1
    if verdicts.count(Verdict.WRONG) == MISTAKES:
        assert Verdict.WELCOME not in verdicts


def test_it_shows_no_secret(keeper: Doorkeeper) -> None:
    """What is logged of it opens nothing."""
    assert "0042" not in repr(keeper) and "pass" not in repr(keeper)


# -- how the device may be called -----------------------------------------------------

HERE = Doors("127.0.0.1", "Kiosk-7")
THERE = Doors("192.168.1.20", "Kiosk-7")
EVERYWHERE = Doors("0.0.0.0", "Kiosk-7")
SIX = Doors("::1", "Kiosk-7")


@pytest.mark.parametrize(
    "doors, host",
    [
        (HERE, "127.0.0.1:8000"),
        (HERE, "127.0.0.1"),
        (HERE, "localhost:1"),
        (HERE, "LOCALHOST:8000"),
        (THERE, "192.168.1.20:8000"),
        (THERE, "kiosk-7:8000"),
        (THERE, "Kiosk-7.local:8000"),
        (EVERYWHERE, "10.0.0.3:8000"),
        (EVERYWHERE, "[fe80::1]:8000"),
        (EVERYWHERE, "kiosk-7.local"),
        (EVERYWHERE, "localhost:9"),
        (SIX, "[::1]:8000"),
        (SIX, "localhost"),
    ],
)
def test_own_names(doors: Doors, host: str) -> None:
    """An address that is listened on, and the machine's own name beyond the machine."""
    assert doors.opens_to(host)


@pytest.mark.parametrize(
    "doors, host",
    [
        (HERE, None),
        (HERE, ""),
        (HERE, "evil.example:8000"),
        (HERE, "127.0.0.1.evil.example"),
        (HERE, "localhost.evil.example"),
        (HERE, "127.0.0.2:8000"),
        (HERE, "kiosk-7:8000"),
        (HERE, "127.0.0.1:port"),
        (HERE, "127.0.0.1:8000:1"),
        (HERE, "user@127.0.0.1"),
        (HERE, "127.0.0.1\r\nx"),
        (THERE, "127.0.0.1:8000"),
        (THERE, "localhost"),
        (EVERYWHERE, "evil.example"),
        (EVERYWHERE, "kiosk-7.evil.example"),
        (SIX, "[::2]:8000"),
        (SIX, "[::1"),
        (SIX, "[localhost]"),
    ],
)
def test_names_of_others(doors: Doors, host: str | None) -> None:
    """A name that somebody else can point at the device opens nothing."""
    assert not doors.opens_to(host)


@given(st.text())
def test_any_host(host: str) -> None:
    """Whatever comes is answered."""
    assert HERE.opens_to(host) in (True, False)


def test_origins() -> None:
    """Only a page that was loaded under the same name may ask."""
    assert HERE.is_same("http://127.0.0.1:8000", "127.0.0.1:8000")
    for origin in (None, "null", "http://127.0.0.1:8001", "https://127.0.0.1:8000", "evil"):
        assert not HERE.is_same(origin, "127.0.0.1:8000")
