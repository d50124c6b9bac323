"""
Heap's server-side API: bulk events, properties of users and accounts, deletion.

    from heap_agent.server import ServerClient

    with ServerClient("11") as heap:
        heap.track("Refund", identity="alice@example.com", properties={"dollars": 50})
        result = heap.bulk_track(rows_of_a_file())        # a generator of millions will do
        heap.add_user_properties("alice@example.com", {"plan": "Pro"})

    with ServerClient("11", api_key) as heap:             # the Main Production environment's
        for request in heap.delete_users(identities=["alice@example.com"]):
            heap.wait_for_deletion(request)

Unlike an `Agent`, a client has no queue and no thread: each verb returns when Heap
has answered, waits for Heap's limits, repeats what brought no answer, and raises
when it cannot be done. Values that are at fault raise (`InvalidValue`), or become
`Rejected` items of a bulk call, unless ``repair=True``.

What Heap takes, by its server-side pages: identities of 255 UTF-16 units; names of
events, keys and values of 1024; 1000 items in a request; 1000 events a minute
for an identity, 15,000 for an app id; 30 requests in 30 s for an identity's
properties; 10,000 users in a request for deletion. A request's body has at most
1,000,000 bytes, and an item 786,432: the limits of Heap's own SDK, since the HTTP
API states none. `heap_agent._core.limits` has the source of each number.

In asynchronous programs, run a verb in a thread:

    await asyncio.to_thread(heap.track, "Refund", identity="alice@example.com")

Cancelling that only ends the waiting: the thread goes on until Heap has answered or
`retry_for` is over, and the event may arrive. To end a bulk call early, let its
iterable end, or raise; to end it before its next request, `close` the client.

This module has the public names, nothing else.
"""

from heap_agent._server.client import ServerClient
from heap_agent._server.values import (
    AccountProperties,
    BulkResult,
    DeletionRequest,
    Event,
    Progress,
    Rejected,
    UserProperties,
)
from heap_agent.exceptions import (
    ApiError,
    DeletionPending,
    InvalidCall,
    InvalidValue,
    NotFound,
    Unauthorized,
    Unreachable,
)

__all__ = [
    "AccountProperties",
    "ApiError",
    "BulkResult",
    "DeletionPending",
    "DeletionRequest",
    "Event",
    "InvalidCall",
    "InvalidValue",
    "NotFound",
    "Progress",
    "Rejected",
    "ServerClient",
    "Unauthorized",
    "Unreachable",
    "UserProperties",
]
