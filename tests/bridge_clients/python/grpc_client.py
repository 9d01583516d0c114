"""Bidirectional streams to grpc_server.py. Prints what was seen, the same each time."""

import hashlib
import queue
import sys
import threading

import grpc

channel = grpc.insecure_channel(sys.argv[1])


def call(method, messages, **options):
    return channel.stream_stream(f"/guestd.Test/{method}")(messages, **options)


def check(answer, message):
    assert answer == hashlib.sha256(message).digest() + message, f"{len(answer)} bytes to a message of {len(message)}"


def lock_step(name, sizes):
    """Each message waits for the answer to the last one."""
    outgoing = queue.Queue()
    stream = call("Talk", iter(outgoing.get, None))
    metadata = dict(stream.initial_metadata())
    for number, size in enumerate(sizes):
        message = f"{name} {number} ".encode().ljust(size, b"x")
        outgoing.put(message)
        check(next(stream), message)
    outgoing.put(None)
    assert next(stream, None) is None
    return metadata["greeting"], dict(stream.trailing_metadata())["count"], stream.code().name


def burst(name, count):
    """Messages as fast as they go, answers beside."""
    messages = [f"{name} {number} ".encode().ljust(number * 37 % 9000, b"y") for number in range(count)]
    stream = call("Talk", iter(messages))
    answers = list(stream)
    assert len(answers) == count
    for answer, message in zip(answers, messages):
        check(answer, message)
    return len(answers), stream.code().name


print("lock-step", lock_step("one", [20, 1000, 100_000, 3_000_000] * 10))

results = {}
threads = [threading.Thread(target=lambda name=name: results.update({name: burst(name, 300)})) for name in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("bursts", sorted(results.items()))

stream = call("Fail", iter([b"go"]))
assert next(stream) == b"one"
try:
    next(stream)
except grpc.RpcError as error:
    print("failure", error.code().name, error.details())

outgoing = queue.Queue()
stream = call("Idle", iter(outgoing.get, None))
outgoing.put(b"go")
assert next(stream) == b"begun"
stream.cancel()
outgoing.put(None)
try:
    next(stream)
except grpc.RpcError as error:
    print("cancel", error.code().name)

print("afterwards", lock_step("two", [10]))
