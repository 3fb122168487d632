"""What tests with AWS's own clients stand on: daemons' services that the Rust test `api::aws::listen::tests::clients` serves.

The variable HEARTH_AWS has, as JSON, the URL of each stand and the access keys:

    {"default": URL, "strict": URL, "limited": URL, …, "keys": {"everything": {"id": …, "secret": …, "account": …}, …}}

Images are built by a scripted builder: `s3://bucket/fail` fails, `s3://bucket/wait` never ends, all others succeed at once. MicroVMs
run on a double of a host.
"""

import itertools
import json
import os
import subprocess
import sys
import time

import boto3
import pytest
from botocore.config import Config

STANDS = json.loads(os.environ["HEARTH_AWS"])
# Version 2 of the AWS CLI; version 1 is beside this Python.
CLI2 = os.environ.get("HEARTH_AWS_CLI2")
REGION = "us-east-1"
BASE = f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1"
ROLE = "arn:aws:iam::123456789012:role/build"
# A role that the key `everything` can assume, for what concerns one microVM of an image whose name begins with `deploy-`.
DEPLOY = "arn:aws:iam::123456789012:role/deploy"
NUMBERS = itertools.count(1)


def name(prefix="image"):
    """A name that no other test uses."""
    return f"{prefix}-{next(NUMBERS)}"


def client(service, which="default", who="everything", region=REGION, id=None, secret=None, **config):
    """A client of a service of a stand, for the owner of an access key or for other credentials. It tries once."""
    key = STANDS["keys"][who]
    return boto3.client(
        service,
        endpoint_url=STANDS[which],
        region_name=region,
        aws_access_key_id=id or key["id"],
        aws_secret_access_key=secret or key["secret"],
        config=Config(
            retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, inject_host_prefix=False, **config
        ),
    )


class Stand:
    """A stand, as one owner of an access key sees it."""

    def __init__(self, which, who="everything", **config):
        self.url, self.key = STANDS[which], STANDS["keys"][who]
        self.account = self.key["account"]
        self.role = f"arn:aws:iam::{self.account}:role/build"
        self.client = client("lambda-microvms", which, who, **config)

    def arn(self, image):
        return f"arn:aws:lambda:{REGION}:{self.account}:microvm-image:{image}"

    def create(self, image, key="app.zip", **more):
        """Begins to build an image."""
        return self.client.create_microvm_image(
            name=image, baseImageArn=BASE, buildRoleArn=self.role, codeArtifact={"uri": f"s3://bucket/{key}"}, **more
        )

    def image(self, **more):
        """An image that is built; returns its ARN."""
        arn = self.create(name(), **more)["imageArn"]
        self.until("CREATED", lambda: self.client.get_microvm_image(imageIdentifier=arn)["state"])
        return arn

    def until(self, state, read):
        """Waits until something is in a state."""
        deadline = time.monotonic() + 60
        while (now := read()) != state:
            assert time.monotonic() < deadline, f"stays {now}, and should become {state}"
            time.sleep(0.01)

    def running(self, arn, **more):
        """A microVM that runs; returns its id."""
        microvm = self.client.run_microvm(imageIdentifier=arn, **more)["microvmId"]
        self.until_microvm("RUNNING", microvm)
        return microvm

    def until_microvm(self, state, microvm):
        self.until(state, lambda: self.client.get_microvm(microvmIdentifier=microvm)["state"])


@pytest.fixture(scope="session")
def stand():
    return Stand("default")


@pytest.fixture(scope="session")
def strict():
    return Stand("strict")


class CommandLine:
    """A version of the AWS CLI, with a home of its own that has these profiles."""

    PROGRAMS = {1: [sys.executable, os.path.join(os.path.dirname(sys.executable), "aws")], 2: [CLI2]}
    # What a version ends with if the service refuses a call.
    REFUSED = {1: 255, 2: 254}

    def __init__(self, version, folder):
        self.version, self.folder, self.program = version, folder, self.PROGRAMS[version]
        key = STANDS["keys"]["everything"]
        services = ["lambda_microvms", "cloudwatch_logs", "s3", "sts"]
        endpoints = "".join(f"{service} =\n  endpoint_url = {STANDS['default']}\n" for service in services)
        role = f"role_arn = {DEPLOY}\nsource_profile = hearth\n"
        common = f"region = {REGION}\nservices = hearth\noutput = json\n"
        (folder / "config").write_text(
            f"[profile hearth]\n{common}[profile deploy]\n{role}{common}[services hearth]\n{endpoints}"
        )
        (folder / "credentials").write_text(
            f"[hearth]\naws_access_key_id = {key['id']}\naws_secret_access_key = {key['secret']}\n"
        )
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "AWS_CONFIG_FILE": str(folder / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
            "AWS_PROFILE": "hearth",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_PAGER": "",
            # What a command prints comes at once, as at a terminal: Python keeps up to 128 KiB for a pipe.
            "PYTHONUNBUFFERED": "1",
        }

    def __call__(self, *arguments):
        """What a command prints, parsed if it is JSON."""
        printed = self.run(0, arguments).stdout
        try:
            return json.loads(printed) if printed.strip() else None
        except json.JSONDecodeError:
            return printed

    def refused(self, *arguments):
        """What a command says that the service refuses."""
        # Version 2 says so of commands that try once.
        return self.run(self.REFUSED[self.version], arguments).stderr.replace(" (reached max retries: 0)", "")

    def run(self, status, arguments):
        command = [*self.program, *arguments]
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def begin(self, *arguments):
        """A command that goes on, with a pipe of what it prints."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*self.program, *arguments], env=self.environment, cwd=self.folder, stdout=pipe, stderr=pipe, text=True
        )


def command_line(version, folder):
    if version == 2 and not CLI2:
        pytest.skip("HEARTH_AWS_CLI2 names no AWS CLI of version 2; `cargo xtask test` unpacks one")
    return CommandLine(version, folder)


@pytest.fixture(params=[1, 2], ids=["cli1", "cli2"])
def cli(request, tmp_path):
    """Each version of the AWS CLI."""
    return command_line(request.param, tmp_path)


@pytest.fixture
def cli2(tmp_path):
    """Version 2 of the AWS CLI, for commands that version 1 does not have."""
    return command_line(2, tmp_path)
