"""A WebSocket client that puts its token among the subprotocols, as browsers have to: PORT NAME CERTIFICATE TOKEN."""

import asyncio
import socket
import ssl
import sys

import websockets

port, name, certificate, token = sys.argv[1:]


async def main():
    tls = ssl.create_default_context(cafile=certificate)
    connection = websockets.connect(
        f"wss://{name}/socket",
        ssl=tls,
        sock=socket.create_connection(("127.0.0.1", int(port))),
        server_hostname=name,
        subprotocols=["lambda-microvms", f"lambda-microvms.authentication.{token}"],
    )
    async with connection as counter:
        assert counter.subprotocol == "lambda-microvms", counter.subprotocol
        for number in (1, 2, 3):
            await counter.send("count")
            answer = await counter.recv()
            assert answer == f"request {number} of this microVM's life", answer
        large = bytes(range(256)) * 2048
        await counter.send(large)
        assert await counter.recv() == large
    assert counter.close_code == 1000, counter.close_code


asyncio.run(asyncio.wait_for(main(), 60))
print("done")
