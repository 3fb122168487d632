"""Every operation with boto3, from an image to the end of a microVM."""

import datetime
import os
import subprocess
import sys
import uuid


from conftest import BASE, REGION, ROLE, STANDS, name

CONNECTOR = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector"
SEEN = set()


def code(response):
    SEEN.add(response["ResponseMetadata"]["HTTPStatusCode"])
    assert uuid.UUID(response["ResponseMetadata"]["RequestId"])
    return response["ResponseMetadata"]["HTTPStatusCode"]


def now(moment):
    assert abs(datetime.datetime.now(datetime.timezone.utc) - moment) < datetime.timedelta(minutes=5)


def test_images_versions_and_builds(stand):
    client, image = stand.client, name()
    created = client.create_microvm_image(
        name=image,
        baseImageArn=BASE,
        buildRoleArn=ROLE,
        codeArtifact={"uri": "s3://bucket/app.zip"},
        description="ü",
        hooks={"port": 8080, "microvmImageHooks": {"ready": "ENABLED"}, "microvmHooks": {"run": "ENABLED"}},
        environmentVariables={"NAME": "välue"},
        resources=[{"minimumMemoryInMiB": 512}],
        cpuConfigurations=[{"architecture": "ARM_64"}],
        additionalOsCapabilities=["ALL"],
        logging={"cloudWatch": {"logGroup": "/group"}},
        egressNetworkConnectors=[f"{CONNECTOR}:INTERNET_EGRESS"],
        tags={"team": "a b"},
    )
    arn = stand.arn(image)
    assert code(created) == 201
    assert (created["imageArn"], created["state"], created["imageVersion"]) == (arn, "CREATING", "1.0")
    assert created["baseImageVersion"] == "3.0" and created["tags"] == {"team": "a b"}
    assert created["logging"] == {"cloudWatch": {"logGroup": "/group"}}
    assert created["environmentVariables"] == {"NAME": "välue"} and created["description"] == "ü"
    now(created["createdAt"])
    stand.until("CREATED", lambda: client.get_microvm_image(imageIdentifier=arn)["state"])
    got = client.get_microvm_image(imageIdentifier=arn)
    assert code(got) == 200 and got["latestActiveImageVersion"] == "1.0" and got["tags"] == {"team": "a b"}
    assert "latestFailedImageVersion" not in got
    (listed,) = client.list_microvm_images(nameFilter=image)["items"]
    assert (listed["imageArn"], listed["createdAt"]) == (arn, created["createdAt"])

    updated = client.update_microvm_image(
        imageIdentifier=arn, baseImageArn=BASE, baseImageVersion="2", buildRoleArn=ROLE, codeArtifact={"uri": "s3://bucket/b"}
    )
    assert code(updated) == 200 and (updated["state"], updated["imageVersion"]) == ("UPDATING", "2.0")
    assert "hooks" not in updated and updated["resources"] == [{"minimumMemoryInMiB": 2048}]
    stand.until("UPDATED", lambda: client.get_microvm_image(imageIdentifier=arn)["state"])

    version = client.get_microvm_image_version(imageIdentifier=arn, imageVersion="1.0")
    assert (version["state"], version["status"]) == ("SUCCESSFUL", "ACTIVE") and version["hooks"]["port"] == 8080
    inactive = client.update_microvm_image_version(imageIdentifier=arn, imageVersion="2.0", status="INACTIVE")
    assert code(inactive) == 200 and inactive["status"] == "INACTIVE"
    versions = client.list_microvm_image_versions(imageIdentifier=arn)["items"]
    assert [version["imageVersion"] for version in versions] == ["2.0", "1.0"]

    builds = client.list_microvm_image_builds(
        imageIdentifier=arn, imageVersion="1", architecture="ARM_64", chipset="GRAVITON", chipsetGeneration="2"
    )["items"]
    assert [build["buildState"] for build in builds] == ["SUCCESSFUL"]
    for other in [{"architecture": "X86_64"}, {"chipset": "INTEL"}, {"chipsetGeneration": "9"}]:
        assert client.list_microvm_image_builds(imageIdentifier=arn, imageVersion="1.0", **other)["items"] == []
    build = client.get_microvm_image_build(imageIdentifier=arn, imageVersion="1.0", buildId=builds[0]["buildId"])
    assert build["snapshotBuild"]["codeInstallSizeInBytes"] == 77

    deleted = client.delete_microvm_image_version(imageIdentifier=arn, imageVersion="2.0")
    assert code(deleted) == 200 and deleted["state"] == "DELETING"
    stand.until("UPDATED", lambda: client.get_microvm_image(imageIdentifier=arn)["state"])
    deleted = client.delete_microvm_image(imageIdentifier=arn)
    assert (deleted["imageIdentifier"], deleted["state"]) == (arn, "DELETING")


def test_a_failed_build(stand):
    client, image = stand.client, name()
    arn = stand.create(image, key="fail")["imageArn"]
    stand.until("CREATE_FAILED", lambda: client.get_microvm_image(imageIdentifier=arn)["state"])
    assert client.get_microvm_image(imageIdentifier=arn)["latestFailedImageVersion"] == "1.0"
    version = client.get_microvm_image_version(imageIdentifier=arn, imageVersion="1.0")
    assert (version["state"], version["status"]) == ("FAILED", "INACTIVE")
    build = client.list_microvm_image_builds(imageIdentifier=arn, imageVersion="1.0")["items"][0]
    assert build["stateReason"] == "The container image build failed."


def test_a_microvm(stand):
    client = stand.client
    arn = stand.image(hooks={"port": 80, "microvmHooks": {"run": "ENABLED"}, "microvmImageHooks": {"ready": "ENABLED"}})
    policy = {"maxIdleDurationSeconds": 60, "suspendedDurationSeconds": 0, "autoResumeEnabled": False}
    run = client.run_microvm(
        imageIdentifier=arn,
        imageVersion="1.0",
        idlePolicy={**policy, "suspendedDurationSeconds": 600},
        maximumDurationInSeconds=600,
        runHookPayload='{"a": "ü"}',
        logging={"disabled": {}},
        ingressNetworkConnectors=[f"{CONNECTOR}:HTTP_INGRESS", f"{CONNECTOR}:SHELL_INGRESS"],
        egressNetworkConnectors=[f"{CONNECTOR}:INTERNET_EGRESS"],
    )
    microvm = run["microvmId"]
    assert code(run) == 200 and microvm.startswith("microvm-") and run["state"] == "PENDING"
    assert run["idlePolicy"] == {**policy, "suspendedDurationSeconds": 600} and run["maximumDurationInSeconds"] == 600
    assert {"runHookPayload", "logging", "stateReason", "terminatedAt"} & set(run) == set()
    now(run["startedAt"])
    stand.until_microvm("RUNNING", microvm)
    got = client.get_microvm(microvmIdentifier=microvm)
    assert got["startedAt"] == run["startedAt"] and got["endpoint"] == run["endpoint"]
    listed = client.list_microvms(imageIdentifier=arn, imageVersion="1.0")["items"]
    assert [item["microvmId"] for item in listed] == [microvm]
    assert client.list_microvms(imageIdentifier=arn, imageVersion="2.0")["items"] == []

    token = client.create_microvm_auth_token(
        microvmIdentifier=microvm,
        expirationInMinutes=5,
        allowedPorts=[{"port": 8080}, {"range": {"startPort": 1, "endPort": 9}}, {"allPorts": {}}],
    )
    assert list(token["authToken"]) == ["X-aws-proxy-auth"]
    token = client.create_microvm_shell_auth_token(microvmIdentifier=microvm, expirationInMinutes=5)
    assert list(token["authToken"]) == ["X-aws-proxy-auth"]

    for operation, state in [
        (client.suspend_microvm, "SUSPENDED"),
        (client.resume_microvm, "RUNNING"),
        (client.terminate_microvm, "TERMINATED"),
    ]:
        for _ in range(2):
            answer = operation(microvmIdentifier=microvm)
            assert code(answer) == 200 and set(answer) == {"ResponseMetadata"}
        stand.until_microvm(state, microvm)
    ended = client.get_microvm(microvmIdentifier=microvm)
    assert ended["stateReason"] == "Success." and ended["terminatedAt"] >= ended["startedAt"]


def test_base_images(stand):
    client = stand.client
    (base,) = client.list_managed_microvm_images()["items"]
    assert base["imageArn"] == BASE
    versions = client.list_managed_microvm_image_versions(imageIdentifier=BASE)["items"]
    assert [version["imageVersion"] for version in versions] == ["3", "2", "1"]
    assert {version["status"] for version in versions} == {"AVAILABLE"}
    assert versions[0]["supportedCpuConfigurations"] == [{"architecture": "ARM_64"}]


def test_tags(stand):
    client, arn = stand.client, stand.image()
    assert client.list_tags(Resource=arn)["Tags"] == {}
    assert code(client.tag_resource(Resource=arn, Tags={"a": "1", "b/ü": "x y", "c": ""})) == 204
    assert client.list_tags(Resource=arn)["Tags"] == {"a": "1", "b/ü": "x y", "c": ""}
    assert code(client.untag_resource(Resource=arn, TagKeys=["a", "b/ü"])) == 204
    assert client.list_tags(Resource=arn)["Tags"] == {"c": ""}


def test_the_variable_for_the_endpoint_is_enough():
    key = STANDS["keys"]["everything"]
    script = "import boto3; print(boto3.client('lambda-microvms').list_managed_microvm_images()['items'][0]['imageArn'])"
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL_LAMBDA_MICROVMS": STANDS["default"],
        "AWS_ACCESS_KEY_ID": key["id"],
        "AWS_SECRET_ACCESS_KEY": key["secret"],
        "AWS_DEFAULT_REGION": REGION,
    }
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == f"{BASE}\n", done.stderr


def test_every_operation_is_called(stand):
    """The tests above call all of them; a new one in the model fails here."""
    model = stand.client.meta.service_model
    source = open(__file__, encoding="utf-8").read()
    from botocore import xform_name

    missing = [operation for operation in model.operation_names if f".{xform_name(operation)}" not in source]
    assert missing == [] and SEEN == {200, 201, 204}
