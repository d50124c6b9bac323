"""
An asyncio service that tracks what it serves.

    HEAP_AGENT_APP_ID=11 python async_service.py

`track` costs microseconds and never waits, so that a coroutine calls it as it is. What
may wait (`flush`, the end) is awaited, or done by a thread.
"""

import asyncio
import json
import time

from heap_agent import Agent


class Service:
    """Answers lines of JSON with their length."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for line in reader:
            began = time.perf_counter()
            answer = {"bytes": len(line)}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
            took = 1000 * (time.perf_counter() - began)
            self._agent.track("Request Served", {**answer, "milliseconds": round(took, 3)})
        writer.close()
        await writer.wait_closed()


async def main() -> None:
    # Leaving the block delivers once more; what is left over stays on the disk.
    async with Agent() as agent:
        server = await asyncio.start_server(Service(agent).serve, "127.0.0.1", 0)
        async with server:
            await call(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(agent.flush, 5)


async def call(port: int) -> None:
    """A client, so that the example ends by itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for word in ("one", "three"):
        writer.write(json.dumps(word).encode() + b"\n")
        await writer.drain()
        print((await reader.readline()).decode().strip())
    writer.close()
    await writer.wait_closed()


if __name__ == "__main__":
    asyncio.run(main())
