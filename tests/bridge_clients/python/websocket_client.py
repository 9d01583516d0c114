"""`idle URI`: talks, waits for a line on its input, and talks again. `busy URI`: many messages of all sizes, many at a time."""

import asyncio
import sys

from websockets.asyncio.client import connect


async def idle(connection):
    await connection.send("first")
    print(await connection.recv(), flush=True)
    await connection.send(await asyncio.to_thread(input))
    print(await connection.recv(), flush=True)


async def busy(connection):
    messages = []
    for number in range(3000):
        text = f"message {number} " + "z" * (number * number % 5003)
        messages.append(text if number % 2 else text.encode())
    messages += [b"", "", b"large" * 1_000_000]

    async def send():
        for message in messages:
            await connection.send(message)

    sender = asyncio.create_task(send())
    for number, message in enumerate(messages):
        assert await connection.recv() == message, f"message {number} is another"
    await sender
    # A pong comes back for a ping.
    await (await connection.ping())
    print(len(messages))


async def main():
    async with connect(sys.argv[2], ping_interval=None, max_size=None, compression=None, proxy=None) as connection:
        await {"idle": idle, "busy": busy}[sys.argv[1]](connection)
    print(connection.close_code)


asyncio.run(main())
