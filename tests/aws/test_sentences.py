"""Sentences of refusals that no other test provokes: what is wrong with an image's configuration, connectors, quotas and tags."""

import pytest
from botocore.exceptions import ClientError

from conftest import BASE, REGION, name

CONNECTOR = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:"


def refusal(call, **members):
    """Exception, status and sentence."""
    with pytest.raises(ClientError) as caught:
        call(**members)
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Message"]


def invalid(sentence):
    return "ValidationException", 400, sentence


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"environmentVariables": {"AWS_REGION": "x"}}, "Environment variable key 'AWS_REGION' is reserved"),
        (
            {"hooks": {"port": 8080, "microvmHooks": {"run": "ENABLED"}}},
            "The ready (/ready) MicroVM image hook must be enabled when any MicroVM lifecycle hook (run, resume, suspend, or "
            "terminate) is enabled. The ready hook signals when the application has finished initializing so the snapshot is taken in "
            "a ready state.",
        ),
        (
            {"hooks": {"microvmImageHooks": {"ready": "ENABLED"}}},
            "The hooks port must be specified when any hook is enabled.",
        ),
        ({"baseImageVersion": "77"}, f"No managed MicroVM Image with arn {BASE} and version 77 is available"),
        (
            {"egressNetworkConnectors": [f"{CONNECTOR}NO_SUCH"]},
            f"Unrecognized managed network connector ARN: {CONNECTOR}NO_SUCH",
        ),
    ],
)
def test_configurations_of_images(stand, members, sentence):
    request = dict(
        name=name(), baseImageArn=BASE, buildRoleArn=stand.role, codeArtifact={"uri": "s3://bucket/app.zip"}, **members
    )
    assert refusal(stand.client.create_microvm_image, **request) == invalid(sentence)


def test_connectors_decide_which_tokens_there_are(stand, strict):
    check_tokens(stand)
    check_tokens(strict)
    # AWS detects it only when a shell is asked for.
    both = strict.running(strict.image(), ingressNetworkConnectors=[f"{CONNECTOR}ALL_INGRESS", f"{CONNECTOR}SHELL_INGRESS"])
    assert refusal(strict.client.create_microvm_shell_auth_token, microvmIdentifier=both, expirationInMinutes=5) == invalid(
        "ALL_INGRESS cannot be combined with other ingress network connectors; use HTTP_INGRESS and/or SHELL_INGRESS instead"
    )


def check_tokens(stand):
    client, arn = stand.client, stand.image()
    ports = {"expirationInMinutes": 5, "allowedPorts": [{"port": 8080}]}

    def microvm(*connectors):
        return stand.running(arn, ingressNetworkConnectors=[CONNECTOR + connector for connector in connectors])

    shell = microvm("SHELL_INGRESS")
    assert refusal(client.create_microvm_auth_token, microvmIdentifier=shell, **ports) == invalid(
        "Endpoint access requires HTTP_INGRESS network connector to be configured on the MicroVM."
    )
    http = microvm("HTTP_INGRESS")
    assert refusal(client.create_microvm_shell_auth_token, microvmIdentifier=http, expirationInMinutes=5) == invalid(
        "Shell access requires SHELL_INGRESS network connector to be configured on the MicroVM."
    )


def test_what_has_no_tags(stand):
    microvm = f"arn:aws:lambda:{REGION}:{stand.account}:microvm:microvm-1"
    code, _, sentence = refusal(stand.client.tag_resource, Resource=microvm, Tags={"a": "b"})
    assert sentence == f"The resource {microvm} cannot be tagged: only MicroVM images can", code
