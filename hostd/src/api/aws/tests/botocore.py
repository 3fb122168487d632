"""Calls of botocore, whose requests go to the test: a line of JSON each way. The arguments are key, secret and role."""

import base64
import json
import os
import sys
import tempfile

import botocore.session
from botocore.awsrequest import AWSRequest, AWSResponse, HeadersDict
from botocore.exceptions import ClientError

KEY, SECRET, ROLE = sys.argv[1:]
REGION = "us-east-1"
ENDPOINT = "http://127.0.0.1:9000"


class Body:
    """What AWSResponse reads its content from."""

    def __init__(self, content):
        self.content = content

    def stream(self, **_):
        yield self.content


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def send(request, **_):
    body = request.body or b""
    body = body.encode() if isinstance(body, str) else body
    headers = [[name, text(value)] for name, value in request.headers.items()]
    line = {"method": request.method, "url": request.url, "headers": headers, "body": base64.b64encode(body).decode()}
    print(json.dumps(line), flush=True)
    answer = json.loads(sys.stdin.readline())
    return AWSResponse(request.url, answer["status"], HeadersDict(answer["headers"]), Body(answer["body"].encode()))


def session(key, secret, token=None):
    new = botocore.session.Session()
    new.set_credentials(key, secret, token)
    new.register("before-send", send)
    return new


def client(service, *credentials):
    return session(*credentials).create_client(service, region_name=REGION, endpoint_url=ENDPOINT)


def refused(code, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error.response
        return error.response["Error"]["Message"]
    raise AssertionError(f"{code} was expected")


sts = client("sts", KEY, SECRET)
me = sts.get_caller_identity()
assert (me["Account"], me["UserId"]) == ("111122223333", KEY), me
assert me["ResponseMetadata"]["RequestId"], me

assumed = sts.assume_role(RoleArn=ROLE, RoleSessionName="me@work", DurationSeconds=900)
assert assumed["AssumedRoleUser"]["Arn"] == "arn:aws:sts::111122223333:assumed-role/app/me@work", assumed
temporary = assumed["Credentials"]
assert temporary["Expiration"].utcoffset().total_seconds() == 0
temporary = [temporary[name] for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")]
assert client("sts", *temporary).get_caller_identity()["Arn"] == assumed["AssumedRoleUser"]["Arn"]

# ARNs in paths and queries, bodies, other services.
arn = "arn:aws:lambda:us-east-1:111122223333:microvm-image:web"
for credentials in ([KEY, SECRET], temporary):
    functions = client("lambda", *credentials)
    functions.list_tags(Resource=arn)
    functions.tag_resource(Resource=arn, Tags={"über": "a=b&c d"})
    functions.untag_resource(Resource=arn, TagKeys=["b c", "a+b", "a/b", "ü"])
    client("logs", *credentials).describe_log_groups(logGroupNamePrefix="/aws")

# A presigned URL.
for credentials in ([KEY, SECRET], temporary):
    url = client("sts", *credentials).generate_presigned_url("get_caller_identity", ExpiresIn=60, HttpMethod="GET")
    answer = send(AWSRequest("GET", url, headers={"host": "127.0.0.1:9000"}).prepare())
    assert answer.status_code == 200, answer.content

# A profile with role_arn, as the AWS CLI has it.
with tempfile.NamedTemporaryFile("w", suffix=".ini") as config:
    config.write(
        f"[profile base]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\nregion = {REGION}\n"
        f"[profile app]\nrole_arn = {ROLE}\nsource_profile = base\nregion = {REGION}\nrole_session_name = profile\n"
        "sts_regional_endpoints = regional\n"
    )
    config.flush()
    os.environ["AWS_CONFIG_FILE"] = config.name
    os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    profile = botocore.session.Session(profile="app")
    profile.register("before-send", send)
    identity = profile.create_client("sts", region_name=REGION).get_caller_identity()
    assert identity["Arn"].endswith(":assumed-role/app/profile"), identity

message = refused("AccessDenied", sts.assume_role, RoleArn=ROLE + "-other", RoleSessionName="me")
assert message.startswith(f"User: {KEY} is not authorized to perform: sts:AssumeRole on resource: {ROLE}-other"), message
refused("InvalidAction", sts.get_session_token)
refused("ValidationError", sts.assume_role, RoleArn=ROLE, RoleSessionName="me", SerialNumber="serial-number", TokenCode="000000")
refused("SignatureDoesNotMatch", client("sts", KEY, SECRET + "x").get_caller_identity)
refused("InvalidClientTokenId", client("sts", "AKIDNOBODY", SECRET).get_caller_identity)
refused("InvalidClientTokenId", client("sts", KEY, SECRET, temporary[2]).get_caller_identity)
print(json.dumps({"done": botocore.__version__}), flush=True)
