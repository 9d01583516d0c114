"""A WebSocket server that sends back what it gets, text as text and binary as binary. It sends no pings of its own."""

import asyncio
import sys

from websockets.asyncio.server import serve


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def main():
    async with serve(echo, "0.0.0.0", int(sys.argv[1]), ping_interval=None, max_size=None) as server:
        await server.serve_forever()


asyncio.run(main())
