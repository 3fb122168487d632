"""boto3 against a daemon on the metal, from another machine: from a zip to an image, a microVM, its endpoint and its logs.

`cargo xtask test` runs it, as `pytest from_outside.py`, with the environment of AWS's clients (address, certificate, key) and

    HEARTH_ENDPOINTS      address and port of the endpoints of microVMs
    HEARTH_ENDPOINT_CA    file with the authority of their certificates
    HEARTH_AWS_FOLDER     folder that becomes the artifact
    HEARTH_AWS_ROLE       ARN of the build role
    HEARTH_AWS_ARTIFACT_URI  where the artifact is uploaded to; it stays there
"""

import io
import os
import ssl
import time
import uuid
import zipfile
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlparse

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

# Time for a build on an emulated host, and for everything else, in seconds.
BUILD = 900
LIMIT = 300
NAME = "from-boto3"
GROUP = "/from/outside"


def client(service):
    return boto3.client(service, config=Config(retries={"total_max_attempts": 1}, inject_host_prefix=False))


def until(state, read, limit=LIMIT):
    deadline = time.monotonic() + limit
    while (now := read()["state"]) != state:
        assert time.monotonic() < deadline, f"stays {now}, and should become {state}"
        assert not now.endswith("FAILED"), now
        time.sleep(0.2)


class Endpoint(HTTPConnection):
    """A connection to a microVM's endpoint, whose name need not resolve here."""

    def __init__(self, host):
        address, port = os.environ["HEARTH_ENDPOINTS"].split(":")
        super().__init__(address, int(port), timeout=LIMIT)
        self.name = host

    def connect(self):
        super().connect()
        context = ssl.create_default_context(cafile=os.environ["HEARTH_ENDPOINT_CA"])
        self.sock = context.wrap_socket(self.sock, server_hostname=self.name)


def ask(host, **headers):
    """Status and text of the app's answer."""
    connection = Endpoint(host)
    try:
        connection.request("GET", "/", headers={"Host": host, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def archive(folder):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(Path(folder).iterdir()):
            file.write(path, path.name)
    return data.getvalue()


def test_from_a_zip_to_an_answer():
    microvms, s3, logs, sts = client("lambda-microvms"), client("s3"), client("logs"), client("sts")
    account = sts.get_caller_identity()["Account"]
    assert account == os.environ["HEARTH_AWS_ROLE"].split(":")[4]

    # The zip, in parts as the SDKs upload large files.
    data = archive(os.environ["HEARTH_AWS_FOLDER"])
    artifact = urlparse(os.environ["HEARTH_AWS_ARTIFACT_URI"])
    bucket, key = artifact.netloc, artifact.path.lstrip("/")
    parts = TransferConfig(multipart_threshold=1, multipart_chunksize=5 << 20)
    s3.upload_fileobj(io.BytesIO(data), bucket, key, Config=parts)
    assert s3.head_object(Bucket=bucket, Key=key)["ContentLength"] == len(data)
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == data

    # The image.
    base = microvms.list_managed_microvm_images()["items"][0]["imageArn"]
    on = {f"{hook}": "ENABLED" for hook in ("run", "suspend", "resume")}
    arn = microvms.create_microvm_image(
        name=NAME,
        baseImageArn=base,
        buildRoleArn=os.environ["HEARTH_AWS_ROLE"],
        codeArtifact={"uri": artifact.geturl()},
        resources=[{"minimumMemoryInMiB": 512}],
        hooks={
            "port": 8080,
            "microvmImageHooks": {"ready": "ENABLED", "readyTimeoutInSeconds": 120},
            "microvmHooks": {**on, **{f"{hook}TimeoutInSeconds": 60 for hook in on}},
        },
        logging={"cloudWatch": {"logGroup": GROUP}},
        tags={"made-by": "boto3"},
    )["imageArn"]
    until("CREATED", lambda: microvms.get_microvm_image(imageIdentifier=arn), BUILD)
    version = microvms.get_microvm_image_version(imageIdentifier=arn, imageVersion="1.0")
    assert (version["state"], version["status"]) == ("SUCCESSFUL", "ACTIVE")
    assert microvms.list_tags(Resource=arn)["Tags"] == {"made-by": "boto3"}

    # A microVM, which a launch that is sent twice starts once.
    payload, token = f"payload {uuid.uuid4()}", str(uuid.uuid4())
    options = dict(
        imageIdentifier=arn,
        runHookPayload=payload,
        clientToken=token,
        logging={"cloudWatch": {"logGroup": GROUP, "logStream": "one"}},
        idlePolicy={"maxIdleDurationSeconds": 3600, "suspendedDurationSeconds": 3600, "autoResumeEnabled": True},
    )
    microvm = microvms.run_microvm(**options)
    id, host = microvm["microvmId"], microvm["endpoint"]
    assert microvms.run_microvm(**options)["microvmId"] == id
    until("RUNNING", lambda: microvms.get_microvm(microvmIdentifier=id))

    # Its endpoint, with a token and without.
    allowed = microvms.create_microvm_auth_token(
        microvmIdentifier=id, expirationInMinutes=15, allowedPorts=[{"port": 8080}]
    )["authToken"]
    status, text = ask(host, **allowed)
    assert status == 200 and text.startswith("request 1 "), (status, text)
    assert ask(host)[0] == 403
    assert ask(host, **{**allowed, "X-aws-proxy-port": "81"})[0] == 403

    # It sleeps, and a request wakes it with its state.
    microvms.suspend_microvm(microvmIdentifier=id)
    until("SUSPENDED", lambda: microvms.get_microvm(microvmIdentifier=id))
    status, text = ask(host, **allowed)
    assert status == 200 and text.startswith("request 2 "), (status, text)
    until("RUNNING", lambda: microvms.get_microvm(microvmIdentifier=id))

    # What it has written.
    streams = logs.describe_log_streams(logGroupName=GROUP)["logStreams"]
    assert "one" in [stream["logStreamName"] for stream in streams]
    pages = logs.get_paginator("filter_log_events").paginate(logGroupName=GROUP, logStreamNames=["one"])
    lines = [event["message"] for page in pages for event in page["events"]]
    assert any(payload in line for line in lines), lines

    # Its end.
    microvms.terminate_microvm(microvmIdentifier=id)
    until("TERMINATED", lambda: microvms.get_microvm(microvmIdentifier=id))
    assert ask(host, **allowed)[0] in (403, 502)
    with pytest.raises(ClientError) as refused:
        microvms.suspend_microvm(microvmIdentifier=id)
    assert refused.value.response["Error"]["Code"] == "ValidationException"


def test_a_wrong_secret_is_refused():
    id = os.environ["AWS_ACCESS_KEY_ID"]
    wrong = boto3.client("lambda-microvms", aws_access_key_id=id, aws_secret_access_key="wrong")
    with pytest.raises(ClientError) as refused:
        wrong.list_microvms()
    assert refused.value.response["Error"]["Code"] == "InvalidSignatureException"
