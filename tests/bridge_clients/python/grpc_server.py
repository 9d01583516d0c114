"""A gRPC service of raw bytes: Talk answers each message with its length and digest, Idle waits, Fail fails."""

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc


def talk(messages, context):
    context.send_initial_metadata((("greeting", "hello"),))
    count = 0
    for message in messages:
        count += 1
        yield hashlib.sha256(message).digest() + message
    context.set_trailing_metadata((("count", str(count)),))


def idle(messages, context):
    context.add_callback(lambda: print("idle has ended", flush=True))
    for _ in messages:
        yield b"begun"


def fail(messages, context):
    next(messages)
    yield b"one"
    context.abort(grpc.StatusCode.DATA_LOSS, "as it was asked to")


server = grpc.server(ThreadPoolExecutor(32))
methods = {"Talk": talk, "Idle": idle, "Fail": fail}
server.add_generic_rpc_handlers((
    grpc.method_handlers_generic_handler(
        "guestd.Test", {name: grpc.stream_stream_rpc_method_handler(method) for name, method in methods.items()}
    ),
))
assert server.add_insecure_port(sys.argv[1]), "the port is taken"
server.start()
server.wait_for_termination()
