"""A service that counts its visits."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tally import Tally

visits = Tally()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/healthz":
            self.answer({"status": "ok"})
        else:
            self.answer({"visit": visits.add(), "path": self.path})

    def answer(self, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    print("listening on 8080")
    ThreadingHTTPServer(("", 8080), Handler).serve_forever()
