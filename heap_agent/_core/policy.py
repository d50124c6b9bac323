"""
How delivery behaves: its limits as one frozen value.

This module must not know how they are kept.
"""

from __future__ import annotations

import math
from typing import Any

import attrs
from attrs import validators

from heap_agent._core import limits


def _is_a_budget(instance: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise ValueError(
            f"{attribute.name} must be a number above 0, or None for no limit; got {value!r}"
        )


@attrs.frozen(slots=True)
class Policy:
    """
    How delivery behaves.

    Attributes:
        interval: Seconds between two looks at an empty queue.
        batch_items: Rows in a request, at most 1000.
        batch_bytes: Bytes of a request's body, at most 1,000,000.
        identity_budget: Events a minute for one actor; None: without limit,
            and no limit on requests for an identity either.
        app_budget: Events a minute for one app id; None: without limit.
        fleet_size: Devices that share the budget of the app id.
        backoff_base: Seconds, the ceiling of the first back-off.
        backoff_cap: Seconds, the ceiling of all of them. The longest back-off,
            after MISCONFIGURED, lies between half of it and all of it.
    """

    interval: float = attrs.field(default=limits.INTERVAL, validator=validators.ge(0))
    batch_items: int = attrs.field(
        default=limits.BATCH_ITEMS,
        validator=[validators.ge(1), validators.le(limits.BATCH_ITEMS)],
    )
    batch_bytes: int = attrs.field(
        default=limits.BATCH_BYTES,
        validator=[validators.ge(1), validators.le(limits.BATCH_BYTES)],
    )
    identity_budget: float | None = attrs.field(
        default=float(limits.IDENTITY_EVENTS_PER_MINUTE),
        validator=_is_a_budget,
    )
    app_budget: float | None = attrs.field(
        default=float(limits.APP_EVENTS_PER_MINUTE),
        validator=_is_a_budget,
    )
    fleet_size: int = attrs.field(default=1, validator=validators.ge(1))
    backoff_base: float = attrs.field(default=1.0, validator=validators.ge(0))
    backoff_cap: float = attrs.field(default=300.0, validator=validators.ge(0))
