"""WebSockets from VM to VM: `serve PORT` sends back what it gets, over IPv4 alone; `call URI` talks to that and prints what it saw.

The certificate is verified by the system's authorities."""

import asyncio
import ssl
import sys

import websockets

MESSAGES = ["", "text", b"", b"\x00\xff binary", "\u00e4" * 50_000, bytes(range(256)) * 4000]


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def serve(port):
    async with websockets.serve(echo, "0.0.0.0", int(port), max_size=None):
        await asyncio.Future()


async def call(uri):
    context = ssl.create_default_context(cafile="/etc/ssl/certs/ca-certificates.crt")
    async with websockets.connect(uri, ssl=context, max_size=None) as connection:
        for message in MESSAGES:
            await connection.send(message)
        for number, message in enumerate(MESSAGES):
            assert await connection.recv() == message, f"message {number} is another"
        # A pong comes back for a ping.
        await (await connection.ping())
    print(len(MESSAGES), connection.close_code)


asyncio.run({"serve": serve, "call": call}[sys.argv[1]](sys.argv[2]))
