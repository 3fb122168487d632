"""What tests with AWS's own clients stand on: daemons' services that the Rust test `api::aws::tests::clients` serves.

The variable HEARTH_AWS has, as JSON, the URL of each stand and the access keys:

    {"default": URL, "strict": URL, "limited": URL, "keys": {"everything": {"id": …, "secret": …, "account": …}, …}}

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
REGION = "us-east-1"
BASE = f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1"
ROLE = "arn:aws:iam::123456789012:role/build"
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


@pytest.fixture
def aws(tmp_path):
    """The AWS CLI, with a profile in a home of its own. Returns what a command prints, parsed if it is JSON."""
    key = STANDS["keys"]["everything"]
    (tmp_path / "config").write_text(
        f"[profile hearth]\nregion = {REGION}\nservices = hearth\noutput = json\ncli_pager =\n"
        f"[services hearth]\nlambda_microvms =\n  endpoint_url = {STANDS['default']}\n"
    )
    (tmp_path / "credentials").write_text(
        f"[hearth]\naws_access_key_id = {key['id']}\naws_secret_access_key = {key['secret']}\n"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_PROFILE": "hearth",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }
    program = os.path.join(os.path.dirname(sys.executable), "aws")

    def run(*arguments, status=0):
        command = [sys.executable, program, "lambda-microvms", *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        if status:
            return done.stderr
        try:
            return json.loads(done.stdout) if done.stdout.strip() else None
        except json.JSONDecodeError:
            return done.stdout

    run.folder = tmp_path
    return run
