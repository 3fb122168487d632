"""Servers of plain HTTP and of TLS: FOLDER with cert.pem and key.pem. Each says its name and port; all end with the input.

Every server counts the requests that it executes, and says so in its answer: METHOD LENGTH COUNT. /bad is answered with 400.
"""

import http.server
import socket
import ssl
import struct
import sys
import threading

folder = sys.argv[1]
tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
tls.load_cert_chain(f"{folder}/cert.pem", f"{folder}/key.pem")


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        self.server.count += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status = 400 if self.path == "/bad" else 200
        text = f"{self.command} {len(body)} {self.server.count}".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, *_):
        pass


class Kept(Handler):
    protocol_version = "HTTP/1.1"


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    count = 0

    def handle_error(self, *_):
        pass


def say(name, port):
    print(name, port, flush=True)


def serve(name, handler, secure=False):
    server = Server(("127.0.0.1", 0), handler)
    if secure:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    say(name, server.server_address[1])


def listen(name, serve_one):
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def accept():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=served, args=(connection, serve_one), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    say(name, listener.getsockname()[1])


def served(connection, serve_one):
    with connection:
        try:
            serve_one(connection)
        except OSError:
            pass


executed = {}


def request(stream):
    """Reads a request; returns its method, path and body."""
    first = stream.readline().split()
    if not first:
        return None
    length = 0
    while (line := stream.readline()) not in (b"\r\n", b""):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return first[0].decode(), first[1].decode(), stream.read(length)


def reply(connection, name, got, extra=""):
    method, path, body = got
    executed[name] = executed.get(name, 0) + 1
    status = "400 Bad Request" if path == "/bad" else "200 OK"
    text = f"{method} {len(body)} {executed[name]}"
    connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\n{extra}\r\n{text}".encode())


def secure(name, connection):
    with tls.wrap_socket(connection, server_side=True) as stream:
        got = request(stream.makefile("rb"))
        if got:
            reply(stream, name, got, "Connection: close\r\n")


def like_go(connection):
    """What Go's server says to plain text, byte by byte."""
    if connection.recv(1, socket.MSG_PEEK) != b"\x16":
        connection.recv(65536)
        connection.sendall(
            b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
        )
        return
    secure("like-go", connection)


def redirects(connection):
    """Sends plain text to the same address with https, as nginx may be told to."""
    if connection.recv(1, socket.MSG_PEEK) != b"\x16":
        stream = connection.makefile("rb")
        path = stream.readline().split()[1].decode()
        host = ""
        while (line := stream.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"host:"):
                host = line.split(b":", 1)[1].strip().decode()
        connection.sendall(
            f"HTTP/1.1 301 Moved Permanently\r\nLocation: https://{host}{path}\r\n"
            "Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        return
    secure("redirects", connection)


def waits(connection):
    """Takes whatever comes for the head of a record, and waits in silence until the record is there."""
    head = connection.recv(5, socket.MSG_PEEK | socket.MSG_WAITALL)
    if len(head) == 5 and head[0] != 22:
        length = 5 + struct.unpack(">H", head[3:])[0]
        connection.recv(length, socket.MSG_PEEK | socket.MSG_WAITALL)
        return
    secure("waits", connection)


def closes(connection):
    if connection.recv(1, socket.MSG_PEEK) == b"\x16":
        secure("closes", connection)


def both(connection):
    """Speaks TLS and plain text at one port."""
    if connection.recv(1, socket.MSG_PEEK) == b"\x16":
        return secure("both", connection)
    got = request(connection.makefile("rb"))
    if got and got[0] == "OPTIONS":
        return connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    if got:
        reply(connection, "both", got, "Connection: close\r\n")


def single(listener):
    """Plain HTTP, one connection at a time, whose head it waits for in silence."""
    while True:
        connection, _ = listener.accept()
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                more = connection.recv(65536)
                if not more:
                    break
                head += more
            else:
                line = head.split(b"\r\n")[0].decode().split()
                length = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
                body = head.split(b"\r\n\r\n", 1)[1]
                while length and len(body) < int(length[0].split(b":")[1]):
                    body += connection.recv(65536)
                reply(connection, "single", (line[0], line[1], body), "Connection: close\r\n")


def races(connection):
    """Closes a connection when its second request begins to come."""
    stream = connection.makefile("rb")
    got = request(stream)
    if got:
        reply(connection, "races", got)
        connection.recv(1)


def slow(connection):
    """Plain HTTP that takes its time."""
    got = request(connection.makefile("rb"))
    if got:
        threading.Event().wait(4)
        reply(connection, "slow", got, "Connection: close\r\n")


serve("python", Kept)
serve("python-1.0", Handler)
serve("python-tls", Kept, secure=True)
for name, serve_one in [
    ("like-go", like_go),
    ("redirects", redirects),
    ("waits", waits),
    ("closes", closes),
    ("both", both),
    ("races", races),
    ("slow", slow),
]:
    listen(name, serve_one)
one = socket.create_server(("127.0.0.1", 0), backlog=64)
threading.Thread(target=single, args=(one,), daemon=True).start()
say("single", one.getsockname()[1])
sys.stdin.read()
