#!/usr/bin/env python3
"""A long, thin line to a server on this machine: `python3 link.py PORT ROUND_TRIP_MS MBIT`, prints its port, ends with its input.

Owns delay and rate, of TCP connections whose content it does not read. Each direction has one line that all connections share by
turns. Bytes wait at its head while more than 50 ms of others are before them, take their time by its rate, and arrive half a round
trip later. A new connection costs a round trip, as a handshake does. Not modelled: losses, slow start, and what TLS adds.
"""

import asyncio
import sys
import time

PIECE_BYTES = 32 << 10
WAITING_SECONDS = 0.05
STREAM_BYTES = 256 << 10


class Line:
    """One direction."""

    def __init__(self, delay_s, bytes_per_s):
        self.delay_s, self.bytes_per_s = delay_s, bytes_per_s
        self.free_at = 0.0
        self.turn = asyncio.Lock()  # first come, first served

    async def enter(self, size):
        """Waits for room at the line's head; the time at which `size` bytes arrive at its end."""
        async with self.turn:
            early = self.free_at - time.monotonic() - WAITING_SECONDS
            if early > 0:
                await asyncio.sleep(early)
            self.free_at = max(self.free_at, time.monotonic()) + size / self.bytes_per_s
            return self.free_at + self.delay_s


async def carry(line, reader, writer):
    """Takes bytes from one side to the other until the first has no more."""
    under_way = asyncio.Queue()

    async def leave():
        while piece := await under_way.get():
            arrives, content = piece
            await asyncio.sleep(arrives - time.monotonic())
            writer.write(content)
            await writer.drain()

    leaving = asyncio.create_task(leave())
    try:
        while content := await reader.read(PIECE_BYTES):
            under_way.put_nowait((await line.enter(len(content)), content))
            if leaving.done():
                break  # nobody takes it any more
    except ConnectionError:
        pass
    under_way.put_nowait(None)
    try:
        await leaving
        if writer.can_write_eof():
            writer.write_eof()
    except (ConnectionError, OSError):
        pass


async def main():
    port, round_trip_ms, mbit = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    delay_s = round_trip_ms / 2000
    there, back = (Line(delay_s, mbit * 1e6 / 8) for _ in range(2))

    async def connect(reader, writer):
        await asyncio.sleep(2 * delay_s)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port, limit=STREAM_BYTES)
            await asyncio.gather(carry(there, reader, far_writer), carry(back, far_reader, writer))
            far_writer.close()
        except (ConnectionError, asyncio.CancelledError):
            pass  # refused, or the line ends
        finally:
            writer.close()

    server = await asyncio.start_server(connect, "127.0.0.1", 0, limit=STREAM_BYTES)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
