"""Exceptions: their classes in boto3, status, members and sentences."""

import json
import urllib.error
import urllib.request

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from conftest import BASE, REGION, ROLE, Stand, client, name


def refused(call, *arguments, **members):
    with pytest.raises(ClientError) as caught:
        call(*arguments, **members)
    return caught.value


def told(error):
    return (
        type(error).__name__,
        error.response["ResponseMetadata"]["HTTPStatusCode"],
        error.response["Error"]["Message"],
    )


def raw(stand, method, path, body=b"", sign=True, headers=None):
    """A request as boto3 would not send it; returns status, headers and body."""
    request = AWSRequest(method, stand.url + path, data=body, headers=headers or {})
    if sign:
        SigV4Auth(Credentials(stand.key["id"], stand.key["secret"]), "lambda", REGION).add_auth(request)
    prepared = urllib.request.Request(stand.url + path, data=body or None, headers=dict(request.headers.items()), method=method)
    try:
        with urllib.request.urlopen(prepared, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.headers, answer.read()


def test_nothing_is_there(stand):
    client, arn = stand.client, stand.arn("none")
    gone = ("ResourceNotFoundException", 404)
    error = refused(client.get_microvm, microvmIdentifier="microvm-1")
    assert told(error) == (*gone, "MicroVM not found: microvm-1")
    assert (error.response["resourceType"], error.response["resourceId"]) == ("Microvm", "microvm-1")
    assert error.response["ResponseMetadata"]["HTTPHeaders"]["x-amzn-errortype"] == "ResourceNotFoundException"
    error = refused(client.get_microvm_image, imageIdentifier=arn)
    assert told(error) == (*gone, f"MicroVMImage not found for MicroVMImageID: {arn}")
    sentence = f"MicroVMImage not found for MicroVMImage: {arn}, Version: 1.0"
    version = {"imageIdentifier": arn, "imageVersion": "1.0"}
    for call, more in [
        (client.get_microvm_image_version, {}),
        (client.update_microvm_image_version, {"status": "ACTIVE"}),
        (client.delete_microvm_image_version, {}),
        (client.list_microvm_image_builds, {}),
        (client.get_microvm_image_build, {"buildId": "x"}),
    ]:
        assert told(refused(call, **version, **more)) == (*gone, sentence)
    error = refused(client.run_microvm, imageIdentifier=arn)
    assert told(error) == (*gone, f"No active version found for MicroVM image {arn}")
    error = refused(client.run_microvm, imageIdentifier=arn, imageVersion="7.0")
    assert told(error) == (*gone, f"No active version found for MicroVM image {arn} and version 7.0")
    error = refused(client.list_tags, Resource=arn)
    assert told(error) == (*gone, f"MicroVMImage not found for MicroVMImageID: {arn}")
    error = refused(client.list_managed_microvm_image_versions, imageIdentifier=arn)
    assert told(error)[:2] == gone


def test_validation(stand):
    client = stand.client
    loose = Stand("default", parameter_validation=False).client
    invalid = ("ValidationException", 400)
    error = refused(loose.run_microvm)
    assert told(error) == (
        *invalid,
        "1 validation error detected: Value null at 'imageIdentifier' failed to satisfy constraint: Member must not be null",
    )
    image = name()
    stand.image()
    arn = stand.image()
    taken = arn.rsplit(":", 1)[1]
    error = refused(stand.create, taken)
    assert told(error) == (*invalid, f"A MicroVM image with the name '{taken}' already exists in this account")
    error = refused(stand.create, image, kmsKeyIdentifier="alias/mine")
    assert told(error) == (*invalid, "The kmsKeyIdentifier cannot be used because this host has no key provider")
    error = refused(client.run_microvm, imageIdentifier=arn, kmsKeyIdentifier="0a-1b")
    assert told(error) == (*invalid, "The kmsKeyIdentifier cannot be used because this host has no key provider")
    error = refused(client.update_microvm_image, imageIdentifier=arn, baseImageArn=BASE, buildRoleArn=ROLE, codeArtifact={"uri": "s3://bucket/k"}, kmsKeyIdentifier="a")
    assert told(error) == (*invalid, "The kmsKeyIdentifier cannot be used because this host has no key provider")
    error = refused(stand.create, image, cpuConfigurations=[{"architecture": "X86_64"}])
    assert told(error) == (
        *invalid,
        f"The requested CPU architecture X86_64 is not supported by base MicroVM image {BASE}. Supported CPU architectures are: [ARM_64].",
    )
    error = refused(stand.create, image, resources=[{"minimumMemoryInMiB": 700}])
    assert told(error)[2].startswith("The requested memory size of 700 MiB is not supported by base MicroVM image")
    error = refused(stand.create, image, key="")
    assert told(error) == (*invalid, "CodeArtifact URI must be a valid S3 URI in the format: s3://<bucket>/<key>")
    error = refused(client.run_microvm, imageIdentifier=arn, runHookPayload="x")
    assert told(error) == (*invalid, "The run hook must be enabled in the MicroVM image to pass the run hook payload")
    error = refused(client.run_microvm, imageIdentifier=arn, ingressNetworkConnectors=["HTTP_INGRESS"])
    assert told(error) == (*invalid, "Malformed network connector ARN")
    error = refused(client.list_microvms, nextToken="a=b")
    assert told(error)[:2] == invalid
    microvm = stand.running(arn)
    error = refused(client.create_microvm_auth_token, microvmIdentifier=microvm, expirationInMinutes=61, allowedPorts=[{"port": 1}])
    assert told(error) == (*invalid, "ExpirationMinutes 61 exceeded max allowed of 60.")
    client.terminate_microvm(microvmIdentifier=microvm)
    stand.until_microvm("TERMINATED", microvm)
    error = refused(client.suspend_microvm, microvmIdentifier=microvm)
    assert told(error) == (*invalid, f"The MicroVM {microvm} has been terminated and its state cannot be changed.")
    error = refused(client.delete_microvm_image_version, imageIdentifier=arn, imageVersion="1.0")
    assert told(error) == (*invalid, "This is the last version. Please delete the entire image")


def test_conflicts(stand):
    client = stand.client
    arn = stand.create(name(), key="wait")["imageArn"]
    error = refused(client.update_microvm_image_version, imageIdentifier=arn, imageVersion="1.0", status="INACTIVE")
    assert told(error) == ("ConflictException", 409, "MicroVM Image is already in state: CREATING")
    assert error.response["resourceId"] == arn
    error = refused(client.delete_microvm_image, imageIdentifier=arn)
    assert told(error) == ("ValidationException", 400, f"Cannot delete MicroVM image in its current state: {arn}")


def test_tags_have_exceptions_of_their_own(stand):
    error = refused(stand.client.list_tags, Resource="arn:aws:lambda:us-east-1:123456789012:microvm:x")
    assert told(error)[:2] == ("InvalidParameterValueException", 400)
    assert error.response["Type"] == "User"
    arn = stand.image()
    error = refused(stand.client.tag_resource, Resource=arn, Tags={"a#": "b"})
    assert told(error)[:2] == ("InvalidParameterValueException", 400)


def test_who_may_not(stand):
    arn = stand.image()
    denied = ("AccessDeniedException", 403)
    reader = Stand("default", "reader").client
    error = refused(reader.list_microvms)
    assert told(error) == (
        *denied,
        "User: HKREADER is not authorized to perform: lambda:ListMicrovms on resource: * "
        "because no identity-based policy allows the lambda:ListMicrovms action",
    )
    assert reader.get_microvm_image(imageIdentifier=arn)["imageArn"] == arn
    other = Stand("default", "other").client
    for call, members in [
        (other.get_microvm_image, {"imageIdentifier": arn}),
        (other.run_microvm, {"imageIdentifier": arn}),
        (other.list_microvms, {"imageIdentifier": arn}),
        (other.list_tags, {"Resource": arn}),
    ]:
        assert told(refused(call, **members))[:2] == denied
    microvm = stand.running(arn)
    assert told(refused(other.get_microvm, microvmIdentifier=microvm))[:2] == ("ResourceNotFoundException", 404)


def test_limits():
    first, second, third = (Stand("limited", who) for who in ["everything", "other", "third"])
    arns = [stand.image(resources=[{"minimumMemoryInMiB": 2048}]) for stand in (first, second, third)]
    microvm = first.running(arns[0])
    error = refused(first.client.run_microvm, imageIdentifier=arns[0])
    assert told(error) == (
        "ServiceQuotaExceededException",
        402,
        "The base maximum allocated memory limit has been reached for this account.",
    )
    assert {"resourceType", "resourceId", "serviceCode", "quotaCode"} <= set(error.response)
    assert (error.response["serviceCode"], error.response["quotaCode"]) == ("lambda", "L-CD1C0CC4")
    second.running(arns[1])
    error = refused(third.client.run_microvm, imageIdentifier=arns[2])
    assert told(error)[:2] == ("InsufficientCapacityException", 500)
    first.create(name())
    error = refused(first.create, name())
    assert told(error)[:2] == ("ServiceQuotaExceededException", 402)
    first.client.suspend_microvm(microvmIdentifier=microvm)
    error = refused(first.client.suspend_microvm, microvmIdentifier=microvm)
    assert told(error) == ("ThrottlingException", 429, "Rate exceeded")
    assert error.response["quotaCode"] == "L-90045317"
    assert int(error.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"]) >= 1


def test_the_strict_profile(strict):
    client, arn = strict.client, strict.image()
    invalid = ("ValidationException", 400)
    error = refused(client.run_microvm, imageIdentifier=arn, logging={"cloudWatch": {}})
    assert told(error) == (*invalid, "Logging cannot be enabled without providing executionRoleArn")
    microvm = strict.running(arn)
    error = refused(client.delete_microvm_image, imageIdentifier=arn)
    assert told(error) == (*invalid, "Cannot delete microvm image with running microvms.")
    client.terminate_microvm(microvmIdentifier=microvm)
    strict.until_microvm("TERMINATED", microvm)
    assert client.delete_microvm_image(imageIdentifier=arn)["state"] == "DELETING"
    error = refused(client.get_microvm_image, imageIdentifier="demo")
    assert told(error) == (*invalid, "Invalid ARN format: demo")
    error = refused(client.run_microvm, imageIdentifier="demo")
    assert told(error) == (*invalid, "Malformed ARN - doesn't start with 'arn:'")
    error = refused(client.run_microvm, imageIdentifier=arn, runHookPayload="é" * 4097)
    assert told(error) == (
        *invalid,
        "1 validation error detected: Value at 'runHookPayload' failed to satisfy constraint: "
        "Member must have length less than or equal to 4096",
    )


def test_signatures(stand):
    def microvms(**more):
        return client("lambda-microvms", **more)

    error = refused(microvms(id="HKNOBODY").list_microvms)
    assert told(error) == ("ClientError", 403, "The security token included in the request is invalid.")
    assert error.response["Error"]["Code"] == "UnrecognizedClientException"
    error = refused(microvms(secret="wrong-wrong-wrong-wrong").list_microvms)
    assert error.response["Error"]["Code"] == "InvalidSignatureException"
    error = refused(microvms(region="eu-west-1").list_microvms)
    assert error.response["Error"]["Code"] == "InvalidSignatureException"
    status, headers, body = raw(stand, "GET", "/2025-09-09/microvms", sign=False)
    assert (status, headers["x-amzn-errortype"]) == (403, "MissingAuthenticationTokenException")
    assert json.loads(body) == {"message": "Missing Authentication Token"} and headers["x-amzn-requestid"]


def test_requests_that_no_sdk_sends(stand):
    json_headers = {"Content-Type": "application/json"}
    assert raw(stand, "POST", "/2025-09-09/microvms", b"{")[::2] == (400, b'{"message":null}')
    status, headers, body = raw(stand, "POST", "/2025-09-09/microvms", b'{"imageIdentifier": 7}', headers=json_headers)
    assert (status, headers["x-amzn-errortype"]) == (400, "SerializationException")
    assert json.loads(body) == {"Message": "Expected a string"}
    status, headers, body = raw(stand, "GET", "/2025-09-09/microvm-images/arn:x:microvm-image/demo")
    assert (status, headers["content-type"]) == (404, "text/html") and b"404 Not Found" in body
    for path in ["/", "/2015-03-31/functions"]:
        status, headers, _ = raw(stand, "GET", path)
        assert (status, headers["x-amzn-errortype"]) == (403, "AccessDeniedException")


def test_connectors_that_are_not_there():
    core = client("lambda-core")
    assert core.list_network_connectors()["NetworkConnectors"] == []
    error = refused(core.get_network_connector, Identifier="nc-1")
    assert (type(error).__name__, error.response["ResponseMetadata"]["HTTPStatusCode"]) == ("ResourceNotFoundException", 404)
    assert error.response["Message"] == "Network connector not found: nc-1"


def test_the_same_token_is_answered_once_more(stand):
    client = stand.client
    token, image = name("token"), name()
    first, again = (stand.create(image, clientToken=token) for _ in range(2))
    first.pop("ResponseMetadata"), again.pop("ResponseMetadata")
    assert first == again
    error = refused(stand.create, image, description="other", clientToken=token)
    sentence = "The provided clientToken was used with different request parameters."
    assert told(error) == ("ValidationException", 400, sentence)
    arn = first["imageArn"]
    stand.until("CREATED", lambda: client.get_microvm_image(imageIdentifier=arn)["state"])
    run = client.run_microvm(imageIdentifier=arn, clientToken=token, maximumDurationInSeconds=180)
    client.terminate_microvm(microvmIdentifier=run["microvmId"])
    stand.until_microvm("TERMINATED", run["microvmId"])
    again = client.run_microvm(imageIdentifier=arn, clientToken=token, maximumDurationInSeconds=180)
    run.pop("ResponseMetadata"), again.pop("ResponseMetadata")
    assert run == again and again["state"] == "PENDING"
    error = refused(client.run_microvm, imageIdentifier=arn, clientToken=token, maximumDurationInSeconds=181)
    assert told(error) == ("ValidationException", 400, sentence)
    updating = dict(imageIdentifier=arn, baseImageArn=BASE, buildRoleArn=ROLE, codeArtifact={"uri": "s3://bucket/b"}, clientToken=token)
    assert client.update_microvm_image(**updating)["imageVersion"] == client.update_microvm_image(**updating)["imageVersion"]
