"""gRPC from VM to VM: `serve PORT` answers each message with its digest; `call HOST:PORT` talks to that over TLS and prints what it saw.

The certificate is verified by the system's authorities."""

import hashlib
import queue
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

SIZES = [0, 1, 1000, 100_000, 3_000_000]


def talk(messages, context):
    context.send_initial_metadata((("greeting", "hello"),))
    count = 0
    for message in messages:
        count += 1
        yield hashlib.sha256(message).digest()
    context.set_trailing_metadata((("count", str(count)),))


def serve(port):
    server = grpc.server(ThreadPoolExecutor(4))
    method = grpc.stream_stream_rpc_method_handler(talk)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("guestd.Test", {"Talk": method}),))
    assert server.add_insecure_port(f"[::]:{port}"), "the port is taken"
    server.start()
    server.wait_for_termination()


def call(target):
    with open("/etc/ssl/certs/ca-certificates.crt", "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    outgoing = queue.Queue()
    with grpc.secure_channel(target, credentials) as channel:
        answers = channel.stream_stream("/guestd.Test/Talk")(iter(outgoing.get, None))
        for size in SIZES:
            # Each waits for the answer to the last one: both directions live at once.
            message = bytes(number % 251 for number in range(size))
            outgoing.put(message)
            assert next(answers) == hashlib.sha256(message).digest(), f"another answer to {size} bytes"
        outgoing.put(None)
        assert next(answers, None) is None
        metadata = dict(answers.initial_metadata()), dict(answers.trailing_metadata())
        print(metadata[0]["greeting"], metadata[1]["count"], answers.code().name)


{"serve": serve, "call": call}[sys.argv[1]](sys.argv[2])
