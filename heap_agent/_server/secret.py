"""
Text that a `repr` does not show: of a local variable in a traceback, of a dict
in a log.

This module must not know what the secret is for.
"""

from __future__ import annotations

import base64
from collections.abc import Collection
from typing import Any

__all__ = ["Secret", "basic", "bearer", "masked"]


class Secret(str):
    """
    A text whose `repr` is three asterisks. What is derived from it is not hidden.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def basic(user: str, password: Secret) -> Secret:
    """
    The value of an Authorization header from a user's name and password.
    """
    return Secret("Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())


def bearer(token: Secret) -> Secret:
    """
    The value of an Authorization header from a token.
    """
    return Secret(f"Bearer {token}")


def masked(value: Any, secrets: Collection[Secret]) -> Any:
    """
    A value of JSON with three asterisks in place of every secret, however deep.
    """
    match value:
        case str():
            for hidden in secrets:
                value = value.replace(hidden, "***")
            return value
        case dict():
            return {masked(key, secrets): masked(one, secrets) for key, one in value.items()}
        case list():
            return [masked(one, secrets) for one in value]
        case _:
            return value
