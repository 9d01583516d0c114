"""Server-sent events: what is posted to /publish goes to the reader of /events; an empty post ends the stream."""

import queue
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

published = queue.Queue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        data = "open"
        while data:
            self.wfile.write(f"data: {data}\n\n".encode())
            data = published.get()

    def do_POST(self):
        published.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments):
        pass


ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
