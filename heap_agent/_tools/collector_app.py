"""
The collector's ASGI application: carries out over HTTP what the desk decides.

This module must not know what is right or wrong in a request.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from heap_agent._tools.collector_desk import Desk
from heap_agent._tools.collector_script import Admission, Drop, Hang, Reply
from heap_agent._view.serving import BackgroundServer

__all__ = ["CollectorApp"]


class CollectorApp:
    """
    Args:
        desk: Decides.
        server: Serves this application; asked to cut connections.
    """

    def __init__(self, desk: Desk, server: BackgroundServer) -> None:
        self._desk = desk
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = HttpRequest(scope, receive)
        try:
            body = await self._read(request, self._desk.body_limit(scope["path"]))
        except ClientDisconnect:
            return
        admission = self._desk.admit(request.method, scope["path"], dict(request.headers), body)
        reply = await self._decide(admission, receive)
        if reply is None:
            self._server.cut(scope["client"])
            # Until the server has noticed, a return would count as a missing answer.
            await _client_stays(receive, None)
        elif await _client_stays(receive, self._desk.delay):
            self._desk.settle(admission, reply)
            await self._response(reply)(scope, receive, send)

    async def _read(self, request: HttpRequest, most: int) -> bytes:
        """The body, or its beginning where it is over the limit; read to the end in any case."""
        body = bytearray()
        async for chunk in request.stream():
            if len(body) <= most:
                body += chunk
        return bytes(body)

    async def _decide(self, admission: Admission, receive: Receive) -> Reply | None:
        """The answer, or None where the connection is to be closed without one."""
        fault = admission.fault
        if isinstance(fault, Hang) and not await _client_stays(receive, fault.seconds):
            return None
        if isinstance(fault, Reply) and not fault.handled:
            return fault
        if isinstance(fault, Drop) and not fault.handled:
            return None
        reply = self._desk.handle(admission)
        if isinstance(fault, Drop):
            return None
        return fault if isinstance(fault, Reply) else reply

    def _response(self, reply: Reply) -> Response:
        headers = {"Date": self._desk.date(), **reply.headers}
        return Response(reply.body, reply.status, headers)


async def _client_stays(receive: Receive, seconds: float | None) -> bool:
    """Wait; False as soon as the connection is gone. None waits until then."""
    if seconds == 0:
        return True
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_disconnect(receive), seconds)
        return False
    return True


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
