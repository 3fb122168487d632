"""The AWS CLI in both versions: shorthand and JSON, files, queries, tables, pages, roles."""

import json

import pytest

from conftest import BASE, ROLE, name


class Microvms:
    """`aws lambda-microvms`, with these options before it."""

    def __init__(self, cli, *options):
        self.cli, self.before, self.folder = cli, (*options, "lambda-microvms"), cli.folder

    def __call__(self, *arguments):
        return self.cli(*self.before, *arguments)

    def refused(self, *arguments):
        return self.cli.refused(*self.before, *arguments)


@pytest.fixture
def aws(cli):
    return Microvms(cli)


def create(aws, image, *more):
    return aws(
        "create-microvm-image", "--name", image, "--base-image-arn", BASE, "--build-role-arn", ROLE,
        "--code-artifact", "uri=s3://bucket/app.zip", *more,
    )


def test_shorthand_and_json(aws, stand):
    image = name("cli")
    created = create(
        aws, image,
        "--hooks", "port=8080,microvmHooks={run=ENABLED,runTimeoutInSeconds=5},microvmImageHooks={ready=ENABLED}",
        "--environment-variables", "A=1,B=two",
        "--resources", "minimumMemoryInMiB=1024",
        "--logging", '{"cloudWatch": {"logGroup": "/g"}}',
        "--tags", "team=a",
    )
    assert created["state"] == "CREATING" and created["hooks"]["microvmHooks"]["runTimeoutInSeconds"] == 5
    arn = created["imageArn"]
    stand.until("CREATED", lambda: aws("get-microvm-image", "--image-identifier", arn)["state"])
    run = aws(
        "run-microvm", "--image-identifier", arn, "--run-hook-payload", '{"a": 1}',
        "--idle-policy", "maxIdleDurationSeconds=60,suspendedDurationSeconds=600,autoResumeEnabled=true",
        "--maximum-duration-in-seconds", "600", "--logging", "disabled={}",
    )
    microvm = run["microvmId"]
    stand.until_microvm("RUNNING", microvm)
    token = aws(
        "create-microvm-auth-token", "--microvm-identifier", microvm, "--expiration-in-minutes", "5",
        "--allowed-ports", "port=8080", "range={startPort=1,endPort=2}", "allPorts={}",
    )
    assert token["authToken"]["X-aws-proxy-auth"]
    assert aws("suspend-microvm", "--microvm-identifier", microvm) is None
    stand.until_microvm("SUSPENDED", microvm)
    assert aws("resume-microvm", "--microvm-identifier", microvm) is None
    stand.until_microvm("RUNNING", microvm)
    assert aws("terminate-microvm", "--microvm-identifier", microvm) is None
    stand.until_microvm("TERMINATED", microvm)
    assert aws("list-microvm-image-versions", "--image-identifier", arn, "--query", "items[].imageVersion") == ["1.0"]
    aws("tag-resource", "--resource", arn, "--tags", "k=v")
    assert aws("list-tags", "--resource", arn)["Tags"] == {"team": "a", "k": "v"}
    aws("untag-resource", "--resource", arn, "--tag-keys", "k", "team")
    assert aws("delete-microvm-image", "--image-identifier", arn)["state"] == "DELETING"


def test_input_from_a_file(aws, stand):
    skeleton = aws("run-microvm", "--generate-cli-skeleton")
    assert "imageIdentifier" in skeleton
    arn = stand.image()
    path = aws.folder / "run.json"
    path.write_text(json.dumps({"imageIdentifier": arn, "maximumDurationInSeconds": 60}))
    run = aws("run-microvm", "--cli-input-json", f"file://{path}", "--maximum-duration-in-seconds", "61")
    assert run["maximumDurationInSeconds"] == 61
    path.write_text("from a file")
    error = aws.refused("run-microvm", "--image-identifier", arn, "--run-hook-payload", f"file://{path}")
    assert "The run hook must be enabled in the MicroVM image to pass the run hook payload" in error


def test_pages_and_output(aws, stand):
    prefix = name("cli-pages")
    for number in range(3):
        stand.create(f"{prefix}-{number}")
    listed = aws("list-microvm-images", "--name-filter", prefix, "--page-size", "1", "--query", "items[].name")
    assert listed == [f"{prefix}-{number}" for number in range(3)]
    first = aws("list-microvm-images", "--max-items", "1", "--page-size", "1")
    assert len(first["items"]) == 1
    rest = aws("list-microvm-images", "--starting-token", first["NextToken"])
    assert first["items"][0] not in rest["items"] and len(rest["items"]) >= 2
    table = aws("list-managed-microvm-images", "--output", "table")
    assert "ListManagedMicrovmImages" in table and BASE in table
    assert aws("list-managed-microvm-images", "--output", "text", "--query", "items[0].imageArn") == f"{BASE}\n"
    none = aws("list-microvm-images", "--no-paginate", "--max-results", "1")
    assert len(none["items"]) == 1 and none["nextToken"]


def test_errors_are_shown(aws, cli):
    error = aws.refused("get-microvm", "--microvm-identifier", "microvm-1")
    assert "An error occurred (ResourceNotFoundException) when calling the GetMicrovm operation: MicroVM not found: microvm-1" in error
    if cli.version == 2:
        assert "resourceType: Microvm\nresourceId: microvm-1\n" in error


HOOKS = {
    "port": 8080,
    "microvmHooks": {
        "run": "ENABLED", "runTimeoutInSeconds": 1, "resume": "ENABLED", "resumeTimeoutInSeconds": 2,
        "suspend": "DISABLED", "suspendTimeoutInSeconds": 3, "terminate": "ENABLED", "terminateTimeoutInSeconds": 60,
    },
    "microvmImageHooks": {
        "ready": "ENABLED", "readyTimeoutInSeconds": 3600, "validate": "DISABLED", "validateTimeoutInSeconds": 4,
    },
}
CONNECTOR = "arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:INTERNET_EGRESS"


def shorthand(value):
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}={shorthand(inner)}" for key, inner in value.items()) + "}"
    return str(value)


def options(spelling):
    """Every option of create-microvm-image and update-microvm-image, as the reference of the CLI spells it."""
    values = {
        "--code-artifact": {"uri": "s3://bucket/app.zip"},
        "--logging": {"cloudWatch": {"logGroup": "/group", "logStream": "stream"}},
        "--cpu-configurations": {"architecture": "ARM_64"},
        "--resources": {"minimumMemoryInMiB": 4096},
        "--hooks": HOOKS,
        "--environment-variables": {"KeyName1": "one", "KeyName2": "two"},
    }
    lists = ("--cpu-configurations", "--resources")
    words = []
    for option, value in values.items():
        written = json.dumps([value] if option in lists else value)
        words += [option, written if spelling == "JSON" else shorthand(value)[1:-1]]
    return [
        "--base-image-arn", BASE, "--base-image-version", "2", "--build-role-arn", ROLE, "--description", "a description",
        "--egress-network-connectors", CONNECTOR, "--additional-os-capabilities", "ALL", *words,
    ]


def check(version):
    assert version["hooks"] == HOOKS and version["resources"] == [{"minimumMemoryInMiB": 4096}]
    assert version["logging"] == {"cloudWatch": {"logGroup": "/group", "logStream": "stream"}}
    assert version["environmentVariables"] == {"KeyName1": "one", "KeyName2": "two"}
    assert version["cpuConfigurations"] == [{"architecture": "ARM_64"}] and version["baseImageVersion"] == "2.0"
    assert version["egressNetworkConnectors"] == [CONNECTOR] and version["additionalOsCapabilities"] == ["ALL"]
    assert version["description"] == "a description" and version["codeArtifact"] == {"uri": "s3://bucket/app.zip"}


def test_the_pages_of_the_reference(aws, stand):
    image = name("pages")
    created = aws(
        "create-microvm-image", "--name", image, "--tags", "KeyName1=a,KeyName2=b", "--client-token", image, *options("shorthand")
    )
    check(created)
    assert created["tags"] == {"KeyName1": "a", "KeyName2": "b"}
    arn = created["imageArn"]
    stand.until("CREATED", lambda: stand.client.get_microvm_image(imageIdentifier=arn)["state"])
    updated = aws("update-microvm-image", "--image-identifier", arn, "--client-token", image, *options("JSON"))
    check(updated)
    stand.until("UPDATED", lambda: stand.client.get_microvm_image(imageIdentifier=arn)["state"])
    for number in ("1.0", "2.0"):
        version = aws("get-microvm-image-version", "--image-identifier", arn, "--image-version", number)
        check(version)
        assert (version["imageVersion"], version["status"]) == (number, "ACTIVE")
    assert aws("get-microvm-image-version", "--image-identifier", image, "--image-version", "2")["imageVersion"] == "2.0"


def test_who_calls(cli):
    identity = cli("sts", "get-caller-identity")
    assert (identity["UserId"], identity["Account"]) == ("HKEVERYTHING", "123456789012")


def test_a_profile_with_a_role(cli, stand):
    """The profile `deploy` of docs/aws.md: the CLI assumes the role by itself, and may do what the role's policies allow."""
    deploy = Microvms(cli, "--profile", "deploy")
    own = stand.create(name("deploy"))["imageArn"]
    stand.until("CREATED", lambda: stand.client.get_microvm_image(imageIdentifier=own)["state"])
    microvm = deploy("run-microvm", "--image-identifier", own)["microvmId"]
    stand.until_microvm("RUNNING", microvm)
    assert deploy("get-microvm", "--microvm-identifier", microvm)["state"] == "RUNNING"
    assert deploy("terminate-microvm", "--microvm-identifier", microvm) is None
    denied = "(AccessDeniedException) when calling the {} operation: User: arn:aws:sts::123456789012:assumed-role/deploy/"
    assert denied.format("RunMicrovm") in deploy.refused("run-microvm", "--image-identifier", stand.image())
    assert denied.format("ListMicrovms") in deploy.refused("list-microvms")
    assert denied.format("GetMicrovmImage") in deploy.refused("get-microvm-image", "--image-identifier", own)
    identity = cli("--profile", "deploy", "sts", "get-caller-identity")
    assert identity["Arn"].startswith("arn:aws:sts::123456789012:assumed-role/deploy/")


def test_the_pages_with_skeletons(aws, stand):
    """What a skeleton of a page is filled in with is the same as options."""
    image = name("skeleton")
    for command in ("create-microvm-image", "update-microvm-image", "get-microvm-image-version"):
        assert "imageIdentifier" in aws(command, "--generate-cli-skeleton") or command.startswith("create")
    request = aws("create-microvm-image", "--generate-cli-skeleton")
    filled = {
        "name": image,
        "baseImageArn": BASE,
        "baseImageVersion": "2",
        "buildRoleArn": ROLE,
        "description": "a description",
        "codeArtifact": {"uri": "s3://bucket/app.zip"},
        "logging": {"cloudWatch": {"logGroup": "/group", "logStream": "stream"}},
        "cpuConfigurations": [{"architecture": "ARM_64"}],
        "resources": [{"minimumMemoryInMiB": 4096}],
        "hooks": HOOKS,
        "environmentVariables": {"KeyName1": "one", "KeyName2": "two"},
        "egressNetworkConnectors": [CONNECTOR],
        "additionalOsCapabilities": ["ALL"],
    }
    assert set(filled) <= set(request), "the skeleton has every member"
    path = aws.folder / "create.json"
    path.write_text(json.dumps(filled))
    created = aws("create-microvm-image", "--cli-input-json", f"file://{path}")
    check(created)
    arn = created["imageArn"]
    stand.until("CREATED", lambda: stand.client.get_microvm_image(imageIdentifier=arn)["state"])
    del filled["name"]
    path.write_text(json.dumps({"imageIdentifier": arn, **filled}))
    check(aws("update-microvm-image", "--cli-input-json", f"file://{path}"))
    stand.until("UPDATED", lambda: stand.client.get_microvm_image(imageIdentifier=arn)["state"])
    path.write_text(json.dumps({"imageIdentifier": arn, "imageVersion": "2.0"}))
    version = aws("get-microvm-image-version", "--cli-input-json", f"file://{path}")
    check(version)
    assert version["imageVersion"] == "2.0"
