"""Servers of Python: its own, and those of Flask, aiohttp and Starlette. Each says its name and port; all end with the input."""

import asyncio
import http.server
import logging
import os
import posixpath
import socket
import sys
import threading
import urllib.parse

import aiohttp.web
import flask
import starlette.applications
import starlette.responses
import starlette.routing
import uvicorn
import werkzeug.serving

HOOKS = "/aws/lambda-microvms/runtime/v1/"
METHODS = ["GET", "POST"]
COUNTS = {}
# What they cannot parse is expected here.
logging.disable()


def count(name):
    COUNTS[name] = COUNTS.get(name, 0) + 1
    return "a hook"


def reached(name):
    return str(COUNTS.get(name, 0))


def say(name, port):
    """Threads say theirs at once, and print() writes a line in parts."""
    os.write(sys.stdout.fileno(), f"{name} {port}\n".encode())


def bound(name):
    listener = socket.create_server(("127.0.0.1", 0))
    say(name, listener.getsockname()[1])
    return listener


class Own(http.server.BaseHTTPRequestHandler):
    """As the handler of files takes a path."""

    def do_GET(self):
        path = posixpath.normpath(urllib.parse.unquote(self.path.split("?", 1)[0]))
        if path == "/reached":
            self.say(200, reached("python"))
        elif path.startswith(HOOKS):
            self.say(200, count("python"))
        else:
            self.say(404, "no hook: " + self.path)

    def say(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode("latin-1", "replace"))

    do_POST = do_GET

    def log_message(self, *_):
        pass


def serve_own():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own)
    say("python", server.server_port)
    server.serve_forever()


def serve_flask():
    app = flask.Flask("hooks")
    app.add_url_rule(HOOKS + "<name>", "hook", lambda name: count("flask"), methods=METHODS)
    app.add_url_rule("/reached", "reached", lambda: reached("flask"))
    class Silent(werkzeug.serving.WSGIRequestHandler):
        def log(self, *_):
            pass
    server = werkzeug.serving.make_server("127.0.0.1", 0, app, threaded=True, request_handler=Silent)
    say("flask", server.port)
    server.serve_forever()


async def serve_aiohttp():
    async def hook(_):
        return aiohttp.web.Response(text=count("aiohttp"))

    async def asked(_):
        return aiohttp.web.Response(text=reached("aiohttp"))

    app = aiohttp.web.Application()
    app.router.add_route("*", HOOKS + "{name}", hook)
    app.router.add_get("/reached", asked)
    runner = aiohttp.web.AppRunner(app, access_log=None)
    await runner.setup()
    await aiohttp.web.SockSite(runner, bound("aiohttp")).start()


async def serve_starlette():
    async def hook(_):
        return starlette.responses.PlainTextResponse(count("starlette"))

    async def asked(_):
        return starlette.responses.PlainTextResponse(reached("starlette"))

    routes = [
        starlette.routing.Route(HOOKS + "{name}", hook, methods=METHODS),
        starlette.routing.Route("/reached", asked),
    ]
    app = starlette.applications.Starlette(routes=routes)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False))
    await server.serve([bound("starlette")])


async def serve_both():
    await serve_aiohttp()
    await serve_starlette()


for serve in [serve_own, serve_flask]:
    threading.Thread(target=serve, daemon=True).start()


def end_with_input():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=end_with_input, daemon=True).start()
asyncio.run(serve_both())
