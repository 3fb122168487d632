"""Notes over HTTP, with the standard library only.

GET /       the page with all notes
POST /notes adds one (form field or plain text)
GET /count  how many there are, counted in memory

Notes are kept in memory and in a file; both are as they were when a suspended microVM wakes up.
"""

import html
import os
import pathlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

HOOKS = "/aws/lambda-microvms/runtime/v1/"
FILE = pathlib.Path(os.environ["NOTES_FILE"])
PAGE = pathlib.Path("index.html").read_text(encoding="utf-8")

notes = FILE.read_text(encoding="utf-8").splitlines() if FILE.exists() else []


class Handler(BaseHTTPRequestHandler):
    def reply(self, status, text="", kind="text/plain"):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/":
            self.reply(200, PAGE.replace("{notes}", html.escape("\n".join(notes))), "text/html")
        elif self.path == "/count":
            self.reply(200, f"{len(notes)}\n")
        else:
            self.reply(404, "no such page\n")

    def do_POST(self):
        length = min(int(self.headers.get("Content-Length", 0)), 1 << 20)
        body = self.rfile.read(length).decode(errors="replace")
        if self.path.startswith(HOOKS):
            # The app is ready as soon as it listens, and has nothing to do when it is suspended or resumed.
            self.reply(200)
        elif self.path == "/notes":
            note = parse_qs(body).get("note", [body])[0].strip()
            notes.append(note)
            with FILE.open("a", encoding="utf-8") as file:
                file.write(note + "\n")
            self.reply(201, f"{len(notes)}\n")
        else:
            self.reply(404, "no such page\n")

    def log_message(self, format, *args):
        print("notes:", format % args)


print("notes: listening on port 8080, as user", os.getuid())
ThreadingHTTPServer(("", 8080), Handler).serve_forever()
