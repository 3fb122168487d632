"""A gRPC client of the counter, with a call of each kind: PORT NAME CERTIFICATE TOKEN."""

import queue
import sys

import grpc

port, name, certificate, token = sys.argv[1:]
with open(certificate, "rb") as file:
    credentials = grpc.ssl_channel_credentials(file.read())
# The name is what the certificate and the endpoint know; it resolves to nothing here.
options = [("grpc.ssl_target_name_override", name), ("grpc.default_authority", name)]
channel = grpc.secure_channel(f"127.0.0.1:{port}", credentials, options)
metadata = [("x-aws-proxy-auth", token)]


def encode(fields):
    """A message whose only field, if any, is number 1."""
    return bytes([0x08, fields]) if fields else b""


def decode(message):
    """Its only field."""
    assert message[0] == 0x08 and len(message) == 2, message
    return message[1]


def call(kind, method):
    return kind(f"/hearth.example.v1.Counter/{method}", request_serializer=encode, response_deserializer=decode)


empty = 0
assert call(channel.unary_unary, "Count")(empty, metadata=metadata, timeout=60) == 1
assert list(call(channel.unary_stream, "CountUp")(3, metadata=metadata, timeout=60)) == [2, 3, 4]
assert call(channel.stream_unary, "CountAll")(iter([empty] * 5), metadata=metadata, timeout=60) == 9

# Each request is sent when the reply before it has come.
replies = []
more = queue.SimpleQueue()
more.put(True)


def requests():
    while more.get(timeout=60):
        yield empty


for reply in call(channel.stream_stream, "CountAlong")(requests(), metadata=metadata, timeout=60):
    replies.append(reply)
    more.put(len(replies) < 4)
assert replies == [10, 11, 12, 13], replies

try:
    call(channel.unary_unary, "Unknown")(empty, metadata=metadata, timeout=60)
    raise AssertionError("an unknown method is answered")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
try:
    call(channel.unary_unary, "Count")(empty, timeout=60)
    raise AssertionError("a call without a token is answered")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED, error
print("done")
