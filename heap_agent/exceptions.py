"""
Everything that this package raises on purpose.

    HeapAgentError
    ├── InvalidCall      (TypeError, ValueError)   the program is wrong
    │   └── NotStarted   (RuntimeError)            a verb was used before init
    └── InvalidValue     (ValueError)              the data is wrong, and strict=True

Disk and network trouble raise nothing: they are visible in `status()`.
"""

__all__ = ["HeapAgentError", "InvalidCall", "InvalidValue", "NotStarted"]


class HeapAgentError(Exception):
    """
    Base of every error that this package raises on purpose.
    """


class InvalidCall(HeapAgentError, TypeError, ValueError):
    """
    The program called a verb in a way that can never work.

    It is a `TypeError` and a `ValueError` too, so that code which catches
    those keeps working.
    """


class NotStarted(InvalidCall, RuntimeError):
    """
    A module-level verb was used before `init` (or `set_app_id`).
    """


class InvalidValue(HeapAgentError, ValueError):
    """
    A value is at fault today, and ``strict=True`` asked for an error instead
    of a repair. Nothing was recorded.
    """
