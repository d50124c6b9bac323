"""
What is imported when somebody wants it first.
"""

from __future__ import annotations

import threading

import pytest

from heap_agent._late import late


def test_it_is_loaded_once_and_not_on_the_main_thread() -> None:
    """Whoever asks again is given the same."""
    loads: list[threading.Thread] = []

    @late
    def something() -> object:
        """What it is."""
        loads.append(threading.current_thread())
        return object()

    assert something() is something()
    assert something.__doc__ == "What it is."
    assert len(loads) == 1 and loads[0] is not threading.main_thread()


def test_what_could_not_be_loaded_is_tried_again() -> None:
    """An import that fails says so each time, as imports do."""
    answers = [ImportError("gone"), object()]

    @late
    def something() -> object:
        answer = answers.pop(0)
        if isinstance(answer, ImportError):
            raise answer
        return answer

    with pytest.raises(ImportError, match="gone"):
        something()
    assert something() is something()
