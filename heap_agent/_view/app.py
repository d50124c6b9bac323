"""
The page over HTTP: what a browser may ask, and who is answered.

    /<secret>/          the page itself
    /<secret>/pair      a code comes in, a cookie goes out
    /<secret>/feed      what is new            with the cookie
    /<secret>/event     one event, whole       with the cookie
    /<secret>/retry     dead letters again     with the cookie
    /<secret>/end       end the pairing        with the cookie

Every answer forbids the page whatever it does not need. This module must not know how a
device is watched.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from hmac import compare_digest
from importlib.resources import files
from typing import Any, Final, TypeAlias

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from heap_agent._core.events import Kind
from heap_agent._core.pairing import Doorkeeper, Doors, Phase, Verdict
from heap_agent._core.wire import PATHS, stamp
from heap_agent._view.assertion import assertion
from heap_agent._view.device import Device
from heap_agent._view.feed import fields_of
from heap_agent._view.watch import Watch

COOKIE: Final = "heap_agent_pairing"

#: Bytes of a request's body; nothing longer is asked for.
_BODY: Final = 65_536

#: Seconds after which somebody who waits for news is answered in any case.
_WAIT: Final = 5.0

#: Seconds between two looks whether there is any.
_PAUSE: Final = 0.1

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


class PageApp:
    """
    One pairing's page.

    Args:
        device: What is shown.
        watch: Who looks at it.
        keeper: Who is let in.
        doors: How the device may be called.
        secret: The first part of the path.
        pass_: What the cookie holds.
        ended: Called when somebody has ended the pairing from the page, or guessed too often.
        let_in: Told where the browser that was let in asks from.
    """

    def __init__(
        self,
        device: Device,
        watch: Watch,
        keeper: Doorkeeper,
        doors: Doors,
        *,
        secret: str,
        pass_: str,
        ended: Callable[[], None],
        let_in: Callable[[tuple[str, int] | None], None],
    ) -> None:
        self._device = device
        self._watch = watch
        self._keeper = keeper
        self._doors = doors
        self._base = f"/{secret}/"
        self._pass = pass_
        self._ended = ended
        self._let_in = let_in
        self._page, policy = _read_page()
        self._headers = {**_HEADERS, "Content-Security-Policy": policy}
        self._open: Mapping[tuple[str, str], Handler] = {
            ("GET", ""): self._show,
            ("POST", "pair"): self._pair,
        }
        self._closed: Mapping[tuple[str, str], Handler] = {
            ("GET", "feed"): self._feed,
            ("GET", "event"): self._event,
            ("POST", "retry"): self._retry,
            ("POST", "end"): self._end,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        with suppress(ClientDisconnect):
            response = await self._answer(request)
            response.headers.update(self._headers)
            await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        host = request.headers.get("host")
        if not self._doors.opens_to(host):
            return _text(421, "this device is not called so")
        path: str = request.scope["path"]
        secret = path[: len(self._base)].encode("utf-8", "replace")
        if not compare_digest(secret, self._base.encode()):
            return _text(404, "nothing is here")
        wanted = request.method, path[len(self._base) :]
        if request.method == "POST":
            if not self._doors.is_same(request.headers.get("origin"), host):
                return _text(403, "only the device's own page may ask for that")
            if request.headers.get("content-type", "").partition(";")[0] != "application/json":
                return _text(415, "JSON is expected")
        if wanted in self._open:
            return await self._open[wanted](request)
        if wanted not in self._closed:
            return _text(404, "nothing is here")
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return _text(403, "only the device's own page may ask for that")
        now = time.monotonic()
        if self._keeper.phase(now) is Phase.OVER:
            return _json({"error": "ended"}, 410)
        if not self._is_known(request, now):
            return _json({"error": "unpaired"}, 401)
        self._let_in(request.scope["client"])
        return await self._closed[wanted](request)

    def _is_known(self, request: Request, now: float) -> bool:
        """
        Whether one of its cookies is the right one: any other program on the device can
        give the browser a second one of that name.
        """
        pairs = (
            pair.strip().partition("=")
            for header in request.headers.getlist("cookie")
            for pair in header.split(";")
        )
        return any(self._keeper.knows(value, now) for name, _, value in pairs if name == COOKIE)

    # -- for everybody --

    async def _show(self, request: Request) -> Response:
        return Response(self._page, media_type="text/html")

    async def _pair(self, request: Request) -> Response:
        fields = await _object(request)
        code = fields.get("code")
        now = time.monotonic()
        reply = self._keeper.ask_in(code if isinstance(code, str) else "", now)
        match reply.verdict:
            case Verdict.WELCOME:
                self._watch.want()
                response = _json({"paired": True})
                response.set_cookie(
                    COOKIE,
                    self._pass,
                    max_age=int(self._keeper.seconds_left(now)) + 1,
                    path=self._base,
                    httponly=True,
                    samesite="strict",
                )
                return response
            case Verdict.WRONG:
                if not reply.left:
                    self._ended()
                return _json({"error": "wrong", "left": reply.left}, 403)
            case Verdict.TOO_SOON:
                return _json({"error": "too_soon", "wait": round(reply.wait, 2)}, 429)
            case Verdict.TAKEN:
                if self._is_known(request, now):
                    return _json({"paired": True})
                return _json({"error": "taken"}, 409)
            case Verdict.OVER:
                return _json({"error": "ended"}, 410)

    # -- for the one browser that was let in --

    async def _feed(self, request: Request) -> Response:
        since = _number(request.query_params.get("since"))
        until = time.monotonic() + _WAIT
        while time.monotonic() < until and not self._is_news(since):
            await asyncio.sleep(_PAUSE)
        left = self._keeper.seconds_left(time.monotonic())
        if not left:
            return _json({"error": "ended"}, 410)
        if not self._watch.scene:
            return _json({"error": "the device does not answer yet"}, 503)
        wall, boot = self._device.clocks()
        clocks = {"wall": wall // 1000, "uptime": boot / 1e6, "ends_in": round(left, 1)}
        return _json({**self._watch.feed.news(since), **self._watch.scene, "now": clocks})

    def _is_news(self, since: int) -> bool:
        self._watch.want()
        is_over = self._keeper.phase(time.monotonic()) is Phase.OVER
        return is_over or (bool(self._watch.scene) and self._watch.feed.version != since)

    async def _event(self, request: Request) -> Response:
        item = self._watch.feed.item(_number(request.query_params.get("n")))
        if item is None:
            return _json({"error": "it is not kept any more"}, 404)
        body = item.body.decode("utf-8", "replace")
        fields = fields_of(body)
        name, is_event = str(fields.get("event", "")), item.found.kind is Kind.EVENT
        properties = fields.get("properties")
        return _json(
            {
                "json": body,
                "path": PATHS[item.found.kind],
                "test": assertion(name, properties or {}) if is_event else "",
                "mended": list(self._device.mended(name)) if item.mended else [],
                "recorded_as": stamp(item.found.wall).decode() if item.moved else None,
            }
        )

    async def _retry(self, request: Request) -> Response:
        named = (await _object(request)).get("rows")
        numbers = [one for one in named if type(one) is int] if isinstance(named, list) else []
        if not self._device.can_retry:
            return _json({"error": "this page only looks on"}, 409)
        rows = self._watch.feed.dead_rows(numbers)
        try:
            restored = await _aside(lambda: self._device.retry(rows))
        except OSError as error:
            return _json({"error": str(error)}, 409)
        return _json({"restored": restored})

    async def _end(self, request: Request) -> Response:
        self._keeper.end()
        self._ended()
        return Response(status_code=204)


# -- answers ------------------------------------------------------------------------

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def _json(fields: Mapping[str, Any], status: int = 200) -> Response:
    """An answer; in ASCII, as the name of a file may hold what is no text."""
    return Response(json.dumps(fields), status, media_type="application/json")


def _text(status: int, sentence: str) -> Response:
    return Response(sentence + ".\n", status, media_type="text/plain")


def _read_page() -> tuple[bytes, str]:
    """
    The page, and the policy that lets its own script and style run, and no other.
    """
    page = (files("heap_agent._view") / "page.html").read_bytes()
    script, style = (_digest(page, tag) for tag in (b"script", b"style"))
    return page, "; ".join(
        (
            "default-src 'none'",
            f"script-src {script}",
            f"style-src {style}",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _digest(page: bytes, tag: bytes) -> str:
    """A source of a policy: the hash of the one element of that name."""
    (content,) = re.findall(b"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
    return f"'sha256-{b64encode(sha256(content).digest()).decode()}'"


# -- what came ----------------------------------------------------------------------


def _number(text: str | None) -> int:
    short = text is not None and text.isascii() and text.isdigit() and len(text) < 16
    return int(text) if short and text is not None else 0


async def _object(request: Request) -> Mapping[str, Any]:
    """The JSON object in a request's body; an empty one where there is none."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _BODY:
            return {}
    return fields_of(body.decode("utf-8", "replace"))


async def _aside(function: Callable[[], int]) -> int:
    """
    Call what may wait for a disk, on a thread that does not hold up the program's end.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[int] = loop.create_future()

    def settle(result: int | None, error: Exception | None) -> None:
        if not done.cancelled():
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result or 0)

    def run() -> None:
        result, error = None, None
        try:
            result = function()
        except Exception as raised:  # raised where it is waited for
            error = raised
        with suppress(RuntimeError):  # the server has ended meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="heap-agent-retry", daemon=True).start()
    return await done
