"""
What tests feed to the rooms: names, keys and values that Heap takes, and ones
that it does not.

It must not know which test uses it, nor what becomes of a value.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from enum import Enum, IntEnum
from pathlib import PurePosixPath
from typing import Any, NoReturn

from hypothesis import strategies as st

from heap_agent._core import limits
from heap_agent._core.events import Scalar

# -- valid ------------------------------------------------------------------------

#: Everything that UTF-8 can carry, with line breaks, marks and emoji.
_TEXT = st.characters(exclude_categories=["Cs"])


def _texts(units: int, *, at_least: int = 0) -> st.SearchStrategy[str]:
    """Texts of which Hypothesis only makes such as surely fit, and full ones."""
    short = st.text(_TEXT, min_size=at_least, max_size=min(20, units // 2))
    full = st.sampled_from(["x" * units, "é" * units, "😀" * (units // 2)])
    return st.one_of(short, short, short, full)


def names() -> st.SearchStrategy[str]:
    """
    Names of events that are taken as they are.
    """
    return _texts(limits.EVENT_NAME, at_least=1).filter(lambda text: bool(text.strip()))


def keys() -> st.SearchStrategy[str]:
    """
    Keys of properties that are taken as they are, of events and of users.
    """
    reserved = limits.RESERVED_USER_KEYS | limits.RESERVED_USER_KEYS_ANY_CASE
    return _texts(limits.PROPERTY_KEY, at_least=1).filter(
        lambda text: bool(text.strip()) and text.casefold() not in {*reserved, "email"}
    )


def scalars(units: int = limits.EVENT_VALUE) -> st.SearchStrategy[Scalar]:
    """
    Values that are taken as they are.

    Args:
        units: UTF-16 units that a text may have.
    """
    return st.one_of(
        _texts(units),
        st.integers(-limits.SAFE_INTEGER, limits.SAFE_INTEGER),
        st.floats(allow_nan=False, allow_infinity=False),
    )


def valid_properties(
    units: int = limits.EVENT_VALUE, *, most: int = 8
) -> st.SearchStrategy[dict[str, Scalar]]:
    """
    Properties that are taken as they are.
    """
    return st.dictionaries(keys(), scalars(units), max_size=most)


# -- wild -------------------------------------------------------------------------


class Word(str):
    """
    Text of a program's own kind.
    """


class LyingText(str):
    """
    Text that is not what it says about itself.
    """

    def __str__(self) -> str:
        raise ValueError("no text")

    def __repr__(self) -> str:
        raise ValueError("no repr")

    def __len__(self) -> int:
        return -1


class Count(int):
    """
    An integer of a program's own kind that cannot be shown.
    """

    def __repr__(self) -> str:
        raise ValueError("no repr")

    __str__ = __repr__


class Size(float):
    """
    A float of a program's own kind.
    """


class Colour(Enum):
    RED = "red"
    PAIR = ("a", 1)
    NOTHING = None


class Level(IntEnum):
    LOW = 1


class Unshowable:
    """
    Raises whatever is asked of it.
    """

    def _refuse(self, *_: object) -> NoReturn:
        raise RuntimeError("line one\nline two")

    __str__ = __repr__ = __len__ = __iter__ = __bool__ = __float__ = __int__ = _refuse
    __format__ = __getitem__ = __index__ = _refuse


class Masked(Unshowable):
    """
    Raises even when `isinstance` asks what it is, and so must be kept within
    something else until it reaches the code under test.
    """

    __class__ = property(Unshowable._refuse)


class MaskedText(str):
    """
    Text that raises when `isinstance` asks what else it is.
    """

    __class__ = property(Unshowable._refuse)  # type: ignore[assignment]


class MaskedNumber(int):
    """
    A number that raises when `isinstance` asks what else it is.
    """

    __class__ = property(Unshowable._refuse)  # type: ignore[assignment]


class MaskedDict(dict[Any, Any]):
    """
    A mapping that raises when `isinstance` asks what else it is.
    """

    __class__ = property(Unshowable._refuse)  # type: ignore[assignment]


class Impostor:
    """
    Says that it is of another class, as mocks with a `spec` and lazy proxies do.
    """

    def __init__(self, claimed: type) -> None:
        self.claimed = claimed

    @property
    def __class__(self) -> type:  # type: ignore[override]
        return self.claimed


class Nameless(type):
    """
    Makes classes that raise when they are asked for their name or hashed.
    """

    __name__ = property(Unshowable._refuse)  # type: ignore[assignment]
    __hash__ = Unshowable._refuse  # type: ignore[assignment]


#: Objects that are neither text, nor numbers, nor mappings, and that cannot be asked.
#: Made anew each time, since pytest asks what a parameter is.
HOSTILE: dict[str, Callable[[], Any]] = {
    "masked": Masked,
    "mock of text": lambda: Impostor(str),
    "mock of a number": lambda: Impostor(int),
    "nameless": lambda: Nameless("Nameless", (), {})(),
    "unshowable": Unshowable,
}


class WornKey:
    """
    A key that can be hashed once, to be put into a dict, and raises from then on:
    Hypothesis could not even show it, and so only tests with a name use it.
    """

    def __init__(self) -> None:
        self.worn = False

    def __hash__(self) -> int:
        if self.worn:
            raise RuntimeError("hash")
        self.worn = True
        return 5


class LyingKey(str):
    """
    A text that claims to be equal to any key that has its hash.
    """

    def __new__(cls, text: str, claimed: str) -> LyingKey:
        key = super().__new__(cls, text)
        key.claimed = claimed  # type: ignore[attr-defined]
        return key

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash(self.claimed)  # type: ignore[attr-defined]


class Endless:
    """
    Recurses without end when it is turned into text.
    """

    def __str__(self) -> str:
        return str(self)

    __repr__ = __str__


class UnreadableList(list[Any]):
    """
    Raises while it is iterated, after its first element.
    """

    def __iter__(self) -> Iterator[Any]:
        yield "first"
        raise OSError("gone")


class EndlessList(list[Any]):
    """
    Never stops.
    """

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield None


class UnreadableMapping(Mapping[Any, Any]):
    """
    Raises as soon as it is iterated.
    """

    def __getitem__(self, key: object) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Iterator[Any]:
        raise OSError("gone")

    def __len__(self) -> int:
        raise OSError("gone")

    def __repr__(self) -> str:
        return "UnreadableMapping()"


class LostValues(UnreadableMapping):
    """
    Has keys, and raises when it is asked for their values.
    """

    def __iter__(self) -> Iterator[Any]:
        return iter(["a", "b"])


class ChangingMapping(UnreadableMapping):
    """
    Changes each time somebody looks, as a dict in another thread's hands.
    """

    def __iter__(self) -> Iterator[Any]:
        yield "a"
        raise RuntimeError("dictionary changed size during iteration")


class EndlessMapping(UnreadableMapping):
    """
    Has itself under a fresh wrapper behind its only key: no end, no cycle.
    """

    def __getitem__(self, key: object) -> Any:
        return EndlessMapping()

    def __iter__(self) -> Iterator[Any]:
        return iter(["deeper"])


class NumpyLike:
    """
    A stand-in for numpy's scalars: `item()`, and a type from that module.
    """

    def __init__(self, value: object) -> None:
        self.value = value

    def item(self) -> object:
        return self.value


NumpyLike.__module__ = "numpy"


class NumpyLongDouble:
    """
    A stand-in for the one scalar of numpy whose `item()` is of its own type.
    """

    def __init__(self, value: float) -> None:
        self.value = value

    def item(self) -> NumpyLongDouble:
        return self

    def __float__(self) -> float:
        return self.value


NumpyLongDouble.__module__ = "numpy"


def cyclic_dict() -> dict[str, Any]:
    """
    A dict that contains itself, beside a value that is sound.
    """
    cycle: dict[str, Any] = {"sound": 1}
    cycle["self"] = {"again": cycle}
    return cycle


def cyclic_list() -> list[Any]:
    """
    A list that contains itself.
    """
    cycle: list[Any] = ["sound"]
    cycle.append(cycle)
    return cycle


def deep_dict(levels: int) -> dict[str, Any]:
    """
    Mappings within mappings, with a number at the bottom.
    """
    nested: dict[str, Any] = {"bottom": 1}
    for _ in range(levels):
        nested = {"a": nested}
    return nested


def wild_texts() -> st.SearchStrategy[str]:
    """
    Texts of any characters, surrogates included, and of any kind and length.
    """
    anything = st.text(st.characters(), max_size=30)
    graphemes = st.sampled_from(
        [
            "👨‍👩‍👧‍👦",
            "e\u0301\u0323",
            "🇩🇪",
            "👍🏽",
            "\ud83d",
            "\ude00",
            "\r\n",
            "x",
            "😀",
            "❤\ufe0f",
        ]
    )
    long = st.builds(
        lambda head, unit, times: head + unit * times,
        anything,
        graphemes,
        st.integers(20, 2_000),
    )
    return st.one_of(anything, long, anything.map(Word), anything.map(LyingText))


def _huge_integers() -> st.SearchStrategy[int]:
    # Made by a function, because Hypothesis shows the members of `sampled_from`.
    return st.sampled_from([400, 4_299, 4_300, 9_000]).map(lambda digits: -(10**digits))


def _wild_atoms() -> st.SearchStrategy[Any]:
    numbers = st.one_of(
        st.integers(),
        st.floats(),
        st.booleans(),
        st.decimals(),
        st.fractions(),
        st.complex_numbers(),
        st.integers().map(Count),
        st.floats().map(Size),
        st.sampled_from([2**53, -(2**53), 2**64, math.inf]),
        _huge_integers(),
    )
    times = st.one_of(
        st.datetimes(),
        st.datetimes(timezones=st.timezones()),
        st.dates(),
        st.times(),
        st.just(timedelta(seconds=1)),
    )
    objects = st.one_of(
        st.none(),
        st.binary(max_size=8),
        st.binary(max_size=8).map(bytearray),
        st.binary(max_size=8).map(lambda raw: memoryview(raw)),
        st.uuids(),
        wild_texts().map(str.__str__).map(PurePosixPath),
        st.sampled_from([*Colour, *Level]),
        st.builds(Unshowable),
        st.builds(Endless),
        st.builds(object),
        st.builds(deque),
        st.sampled_from([int, len, ..., NotImplemented, range(3)]),
    )
    return st.one_of(wild_texts(), numbers, times, objects)


def _wild_containers() -> st.SearchStrategy[Any]:
    return st.one_of(
        st.builds(cyclic_dict),
        st.builds(cyclic_list),
        st.builds(deep_dict, st.integers(0, 30)),
        st.builds(UnreadableList),
        st.builds(lambda: [Masked()]),
        st.builds(lambda: {"masked": Masked(), Masked(): 1}),
        st.builds(lambda: {"text": MaskedText("t"), "number": MaskedNumber(5)}),
        st.builds(lambda: {"dict": MaskedDict(a=True), "mock": Impostor(dict)}),
        st.builds(lambda: {LyingKey("", "x"): True, "y": 1}),
        st.builds(UnreadableMapping),
        st.builds(LostValues),
        st.builds(ChangingMapping),
        st.builds(EndlessMapping),
        _hashable_atoms().flatmap(lambda atom: st.builds(lambda: {atom, "x"})),
    )


def _hashable_atoms() -> st.SearchStrategy[Any]:
    return st.one_of(
        st.none(),
        st.text(st.characters(), max_size=5),
        st.integers(),
        st.floats(),
        st.booleans(),
        st.binary(max_size=4),
        st.tuples(st.integers()),
        st.sampled_from([*Colour, *Level]),
        st.builds(Unshowable),
    )


def wild_keys() -> st.SearchStrategy[Any]:
    """
    Keys of any hashable type, and texts that are no good as keys.
    """
    texts = st.one_of(
        keys(),
        wild_texts(),
        st.sampled_from(["", " ", "\n", "id", "ID", "user_id", "Email", "email", "a.b", "1"]),
    )
    return st.one_of(texts, texts, _hashable_atoms(), _huge_integers())


def wild_values() -> st.SearchStrategy[Any]:
    """
    Whatever a program could hand over as a value.
    """
    atoms = _wild_atoms()
    wrapped = atoms.map(NumpyLike)
    return st.recursive(
        st.one_of(atoms, wrapped, _wild_containers()),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(inner, max_size=4).map(tuple),
            st.dictionaries(wild_keys(), inner, max_size=4),
        ),
        max_leaves=6,
    )


def wild_properties() -> st.SearchStrategy[Mapping[Any, Any]]:
    """
    Whatever a program could hand over as properties.
    """
    mappings: st.SearchStrategy[Mapping[Any, Any]] = st.dictionaries(
        wild_keys(), wild_values(), max_size=5
    )
    hostile = st.sampled_from(
        [UnreadableMapping(), LostValues(), ChangingMapping(), EndlessMapping(), cyclic_dict()]
    )
    return st.one_of(mappings, mappings, mappings.map(OrderedDict), hostile)
