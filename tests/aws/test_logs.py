"""CloudWatch Logs: what microVMs and builds write, as boto3 and the AWS CLI read it.

The stand `default` has the log group GROUP with the streams `2026/11/29[1.0]a` and `…b`: `line 0` to `line 59`, a second apart and to
each stream in turn, then one line of JSON in the stream `json`. The group LIVE gets a line every 20 ms as long as the tests run.
"""

import signal
import threading
import time

import pytest
from botocore.exceptions import ClientError
from conftest import client

GROUP = "/aws/lambda-microvms/lines"
LIVE = "/aws/lambda-microvms/live"
LINES = [f"line {number}" for number in range(60)]
JSON = '{"level": "error", "ms": 700}'


@pytest.fixture(scope="module")
def logs():
    return client("logs")


def error(call, **parameters):
    with pytest.raises(ClientError) as raised:
        call(**parameters)
    response = raised.value.response
    return response["Error"]["Code"], response["Error"]["Message"], response["ResponseMetadata"]["HTTPStatusCode"]


def messages(events):
    return [event["message"] for event in events]


@pytest.mark.parametrize("size", [1, 50])
def test_every_paginator(logs, size):
    def pages(operation, **parameters):
        return logs.get_paginator(operation).paginate(**parameters, PaginationConfig={"PageSize": size}).build_full_result()

    groups = pages("describe_log_groups")["logGroups"]
    assert [group["logGroupName"] for group in groups if group["logGroupName"] in (GROUP, LIVE)] == [GROUP, LIVE]
    streams = pages("describe_log_streams", logGroupName=GROUP)["logStreams"]
    assert [stream["logStreamName"] for stream in streams] == ["2026/11/29[1.0]a", "2026/11/29[1.0]b", "json"]
    events = pages("filter_log_events", logGroupName=GROUP)["events"]
    assert messages(events) == [*LINES, JSON]
    assert len({event["eventId"] for event in events}) == 61


def test_streams_in_the_order_of_their_last_event(logs):
    streams = logs.describe_log_streams(logGroupName=GROUP, orderBy="LastEventTime", descending=True, limit=2)
    assert [stream["logStreamName"] for stream in streams["logStreams"]] == ["json", "2026/11/29[1.0]b"]
    json_stream = streams["logStreams"][0]
    assert json_stream["firstEventTimestamp"] == json_stream["lastEventTimestamp"] <= time.time() * 1000
    assert json_stream["arn"].endswith(f":log-group:{GROUP}:log-stream:json")


def test_events_of_a_stream_forward_until_the_token_stays(logs):
    stream = {"logGroupName": GROUP, "logStreamName": "2026/11/29[1.0]a", "limit": 7}
    seen, parameters = [], {"startFromHead": True}
    while True:
        page = logs.get_log_events(**stream, **parameters)
        seen += messages(page["events"])
        if page["nextForwardToken"] == parameters.get("nextToken"):
            break
        parameters = {"nextToken": page["nextForwardToken"]}
    assert seen == LINES[::2]


def test_events_of_a_stream_backward_until_the_token_stays(logs):
    stream = {"logGroupName": GROUP, "logStreamName": "2026/11/29[1.0]b", "limit": 7}
    seen, parameters = [], {}
    while True:
        page = logs.get_log_events(**stream, **parameters)
        seen = messages(page["events"]) + seen
        if page["nextBackwardToken"] == parameters.get("nextToken"):
            break
        parameters = {"nextToken": page["nextBackwardToken"]}
    assert seen == LINES[1::2]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", [*LINES, JSON]),
        ('"line 17"', ["line 17"]),
        ("?17 ?18", ["line 17", "line 18"]),
        ("line -1 -2 -3 -4 -5", ["line 0", "line 6", "line 7", "line 8", "line 9"]),
        ("%^line [34]9$%", ["line 39", "line 49"]),
        ("[word = line, number >= 58]", ["line 58", "line 59"]),
        ("[..., number = 5*]", ["line 5", *LINES[50:]]),
        ('{ $.level = "err*" && ($.ms > 500 || $.ms IS NULL) }', [JSON]),
        ("{ $.level NOT EXISTS }", []),
    ],
)
def test_filter_patterns(logs, pattern, expected):
    assert messages(logs.filter_log_events(logGroupName=GROUP, filterPattern=pattern)["events"]) == expected


def test_times_and_streams(logs):
    events = logs.filter_log_events(logGroupName=GROUP)["events"]
    start, end = events[10]["timestamp"], events[20]["timestamp"]
    within = logs.filter_log_events(logGroupName=GROUP, startTime=start, endTime=end)["events"]
    assert messages(within) == LINES[10:21]
    one = logs.filter_log_events(logGroupName=GROUP, logStreamNames=["2026/11/29[1.0]a"], startTime=start, endTime=end)
    assert messages(one["events"]) == LINES[10:21:2]
    prefix = logs.filter_log_events(logGroupIdentifier=GROUP, logStreamNamePrefix="2026/", limit=3)
    assert messages(prefix["events"]) == LINES[:3]
    got = logs.get_log_events(logGroupName=GROUP, logStreamName="2026/11/29[1.0]a", startTime=start, endTime=end)
    assert messages(got["events"]) == LINES[10:20:2]


def test_errors(logs):
    gone = ("ResourceNotFoundException", "The specified log group does not exist.", 400)
    assert error(logs.filter_log_events, logGroupName="/none") == gone
    assert error(logs.describe_log_streams, logGroupName="/none") == gone
    assert error(logs.get_log_events, logGroupName="/none", logStreamName="s") == gone
    stream = error(logs.get_log_events, logGroupName=GROUP, logStreamName="none")
    assert stream == ("ResourceNotFoundException", "The specified log stream does not exist.", 400)
    code, message, status = error(logs.filter_log_events, logGroupName=GROUP, filterPattern="a.b")
    assert (code, status) == ("InvalidParameterException", 400) and "Invalid character(s) in term 'a.b'" in message
    code, message, _ = error(logs.describe_log_streams, logGroupName=GROUP, limit=51)
    assert code == "InvalidParameterException" and "at 'limit' failed to satisfy constraint" in message
    code, message, _ = error(logs.put_log_events, logGroupName=GROUP, logStreamName="s", logEvents=[{"timestamp": 0, "message": "m"}])
    assert code == "UnknownOperationException" and "only microVMs and builds write logs" in message
    code, message, _ = error(logs.start_live_tail, logGroupIdentifiers=["arn:aws:logs:us-east-1:123456789012:log-group:a"])
    assert code == "UnknownOperationException" and "aws logs tail --follow" in message


def test_another_account_sees_none_of_it():
    other = client("logs", who="other")
    assert other.describe_log_groups()["logGroups"] == []
    code, _, _ = error(other.filter_log_events, logGroupName=GROUP)
    assert code == "ResourceNotFoundException"
    code, _, _ = error(client("logs", who="reader").filter_log_events, logGroupName=GROUP)
    assert code == "AccessDeniedException"


def test_a_group_is_followed_as_the_cli_does(logs):
    """The loop of `aws logs tail --follow` in version 2 of the AWS CLI: FilterLogEvents again from the newest time that was seen."""
    seen, ids, parameters = [], {}, {"logGroupName": LIVE, "startTime": 0, "interleaved": True}
    deadline = time.monotonic() + 60
    first = None
    while len(seen) < (first or 0) + 20:
        assert time.monotonic() < deadline, "no lines come"
        page = logs.filter_log_events(**parameters)
        for event in page["events"]:
            known = ids.setdefault(event["timestamp"], set())
            if event["eventId"] not in known:
                known.add(event["eventId"])
                seen.append(event["message"])
        if "nextToken" in page:
            parameters["nextToken"] = page["nextToken"]
            continue
        parameters.pop("nextToken", None)
        first = first if first is not None else len(seen)
        parameters["startTime"] = max(ids, default=0)
        time.sleep(0.05)
    assert seen == [f"live {number}" for number in range(len(seen))]


def test_the_command_line(cli):
    def logs(*arguments):
        return cli("logs", *arguments)

    found = logs("filter-log-events", "--log-group-name", GROUP, "--filter-pattern", '"line 1"', "--page-size", "4")
    assert messages(found["events"]) == ["line 1", *LINES[10:20]]
    two = logs("filter-log-events", "--log-group-name", GROUP, "--max-items", "2")
    assert messages(two["events"]) == LINES[:2]
    rest = logs("filter-log-events", "--log-group-name", GROUP, "--max-items", "2", "--starting-token", two["NextToken"])
    assert messages(rest["events"]) == LINES[2:4]
    stream = ["--log-group-name", GROUP, "--log-stream-name", "2026/11/29[1.0]a"]
    text = logs("get-log-events", *stream, "--limit", "2", "--query", "events[].message", "--output", "text")
    assert text.split("\t") == ["line 56", "line 58\n"]
    newest = logs(
        "describe-log-streams", "--log-group-name", GROUP, "--order-by", "LastEventTime", "--descending", "--max-items", "1"
    )
    assert newest["logStreams"][0]["logStreamName"] == "json"
    told = cli.refused("logs", "create-log-group", "--log-group-name", "mine")
    assert "log groups and streams are made when microVMs and builds write to them" in told


def test_tail(cli2):
    printed = cli2("logs", "tail", GROUP).splitlines()
    # Time, stream and message.
    assert [line.split(" ", 2)[2] for line in printed] == [*LINES, JSON]
    assert {line.split(" ")[1] for line in printed} == {"2026/11/29[1.0]a", "2026/11/29[1.0]b", "json"}
    short = cli2("logs", "tail", GROUP, "--filter-pattern", '"line 1"', "--format", "short", "--log-stream-name-prefix", "2026/")
    assert [line.split(" ", 1)[1] for line in short.splitlines()] == ["line 1", *LINES[10:20]]
    assert "The specified log group does not exist." in cli2.refused("logs", "tail", "/none")


def test_tail_follows(cli2, logs):
    def number(message):
        return int(message.removeprefix("live "))

    with cli2.begin("logs", "tail", LIVE, "--follow", "--format", "short") as tail:
        limit = threading.Timer(60, tail.kill)
        limit.start()
        seen = [tail.stdout.readline()]
        # What is written from now on can only be printed because it is followed.
        newest = logs.get_log_events(logGroupName=LIVE, logStreamName="s", limit=1)["events"][0]["message"]
        for line in tail.stdout:
            seen.append(line)
            if number(line.split(" ", 1)[1]) > number(newest):
                break
        tail.send_signal(signal.SIGINT)
        # communicate() would leave out what the file has read ahead.
        rest, errors = tail.stdout.read(), tail.stderr.read()
        tail.wait()
        limit.cancel()
    # It ends as told, whether it waits or prints.
    assert tail.returncode in (0, 130, -signal.SIGINT), errors
    # The last line may be cut off.
    whole = [line for line in [*seen, *rest.splitlines(keepends=True)] if line.endswith("\n") and line.strip()]
    numbers = [number(line.split(" ", 1)[1]) for line in whole]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), errors
    assert numbers[-1] > number(newest), errors
