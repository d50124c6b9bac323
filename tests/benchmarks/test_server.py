"""The server that answers 200 and counts afterwards."""

import base64
import gzip
import json
from urllib.parse import urlencode

import pytest
import urllib3

from benchmarks import server


def events(*seqs: int) -> list[dict[str, object]]:
    return [{"event": "Album Opened", "properties": {"seq": seq, "tracks": 12}} for seq in seqs]


WRAPPED = {
    "a list": json.dumps(events(1, 2)),
    "a list without spaces": json.dumps(events(1, 2), separators=(",", ":")),
    "a form": urlencode({"data": json.dumps(events(1, 2)), "verbose": 1}),
    "JSON in JSON": json.dumps({"e": json.dumps(events(1, 2))}),
    "text": json.dumps([{"extra": {"seq": "1"}}, {"extra": {"seq": "2"}}]),
    "typed": json.dumps([{"seq": {"type": "integer", "value": seq}} for seq in (1, 2)]),
    "Base64": json.dumps(
        [
            {"ue_px": base64.urlsafe_b64encode(json.dumps(event).encode()).decode().rstrip("=")}
            for event in events(1, 2)
        ]
    ),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_events_are_counted_in_any_wrapping(how: str) -> None:
    """What a client wraps its events in does not matter."""
    assert server.seqs_of(WRAPPED[how].encode()) == [1, 2]


def test_what_comes_is_counted_by_number() -> None:
    """Over real HTTP: whole bodies, zipped ones, chunked ones, and what came twice."""
    body = json.dumps(events(1, 2)).encode()
    with server.running() as running, urllib3.PoolManager() as pool:
        url = f"{running.url}/api/track"
        assert pool.request("POST", url, body=body).json()["status"] == 1
        zipped = {"Content-Encoding": "gzip"}
        packed = gzip.compress(json.dumps(events(2, 3)).encode())
        pool.request("POST", url, body=packed, headers=zipped)
        parts = iter([body[:20], body[20:]])
        pool.request("POST", url, body=parts, headers={"Transfer-Encoding": "chunked"})
        assert pool.request("HEAD", url).status == 200

        seen = running.seen()
        assert seen.seqs == (1, 2, 2, 3, 1, 2)
        assert seen.unique == 3
        assert (seen.requests, seen.size) == (3, len(packed) + 2 * len(body))

        running.reset()
        assert running.seen().requests == 0


def test_it_is_no_proxy() -> None:
    """Whoever asks it for another host is refused: nothing leaves the machine."""
    with server.running() as running:
        with urllib3.ProxyManager(running.url, retries=False) as proxy:
            assert proxy.request("GET", "http://elsewhere.invalid/").status == 403
            with pytest.raises(urllib3.exceptions.ProxyError):
                proxy.request("GET", "https://elsewhere.invalid/")
