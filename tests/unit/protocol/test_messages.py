"""Messages decode to what was encoded; anything else raises one kind of error that shows no payload."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from podrelay.errors import MessageError, UnknownFormat
from podrelay.protocol import identifiers, redis_keys
from podrelay.protocol.messages import CleanupRequest, LaunchRequest, PodReport, WarmPodConfig

text = st.text(st.characters(), max_size=50)  # halves of surrogate pairs too
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=10,
)
launches = st.builds(
    LaunchRequest,
    launch_id=text, attempt=st.integers(0, 99), kind=st.sampled_from(["task", "callback", "connection_test"]),
    subject=text, key=st.just(()) | st.tuples(text, text, text, st.integers(), st.integers()), owner=text,
    args=st.lists(text).map(tuple), team=st.none() | text, pod_override=st.none() | st.dictionaries(text, json_values),
    pod_template_file=st.none() | text, image=st.none() | text, priority=st.integers(),
    not_after_s=st.floats(allow_nan=False, allow_infinity=False),
    token_life_s=st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
results = st.builds(
    PodReport,
    launch_id=text, attempt=st.integers(0, 99),
    outcome=st.sampled_from(["pending", "started", "succeeded", "failed", "expired"]),
    reason=text, message=text, exit_code=st.none() | st.integers(), log_tail=st.lists(text).map(tuple),
)  # fmt: skip


@given(launches)
def test_launch_requests_decode_unchanged(request: LaunchRequest) -> None:
    assert LaunchRequest.decode(request.encode()) == request


@given(results)
def test_reports_decode_unchanged(result: PodReport) -> None:
    assert PodReport.decode(result.encode()) == result


def test_cleanup_requests_decode_unchanged() -> None:
    request = CleanupRequest("l", "delete", "n", "p", "u", delete_options={"grace_period_seconds": 0})
    assert CleanupRequest.decode(request.encode()) == request


def test_the_configuration_of_a_warm_pod_decodes_unchanged_and_shows_no_key() -> None:
    config = WarmPodConfig("default", "0" * 32, "secret", 300.0)
    assert WarmPodConfig.decode(config.encode()) == config
    assert "secret" not in repr(config)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_a_message_error(payload: bytes) -> None:
    for message in (LaunchRequest, PodReport, CleanupRequest, WarmPodConfig):
        with pytest.raises(MessageError):
            message.decode(payload)


@example(PodReport("l", 0, "failed"), {"half of a pair: \ud800": 1})
@given(launches | results, st.dictionaries(text, json_values))
def test_json_of_any_form_is_read(original: LaunchRequest | PodReport, further: dict[str, Any]) -> None:
    """An earlier build escapes what is not ASCII; a later one may know further fields."""
    document = further | structs.asdict(original) | json.loads(original.encode())
    assert type(original).decode(json.dumps(document).encode()) == original


def read(message: type[LaunchRequest | PodReport], payload: bytes) -> Any:
    """The message, or its error."""
    try:
        return message.decode(payload)
    except MessageError as error:
        return type(error), str(error)


ODD = st.sampled_from(["\ud800", float("nan"), float("inf"), 10**400, 1.0, True])


@given(launches | results, json_values | ODD, st.data())
def test_what_is_read_fast_is_read_alike_with_care(
    original: LaunchRequest | PodReport, value: Any, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(["v", "is", *original.__struct_fields__]))
    payload = json.dumps(json.loads(original.encode()) | {name: value}, separators=(",", ":")).encode()
    cut = data.draw(st.integers(0, len(payload)))
    added = data.draw(st.text(max_size=2)).encode()
    for changed in (payload, payload[:cut], payload[:cut] + added + payload[cut:]):
        # No encoded message begins with a space: what does is read with care.
        assert read(type(original), changed) == read(type(original), b" " + changed)


@given(st.sampled_from(sorted(LaunchRequest.__struct_fields__)), json_values)
def test_a_field_of_another_type_is_rejected_or_harmless(name: str, value: Any) -> None:
    good = json.loads(LaunchRequest("l", 0, "task", "s", (), "1", ("a",)).encode())
    try:
        LaunchRequest.decode(json.dumps({**good, name: value}).encode())
    except MessageError as error:
        assert len(str(error)) < 200


@pytest.mark.parametrize("version", [0, 2, 99])
def test_an_unknown_format_is_named_in_the_error(version: int) -> None:
    document = json.loads(PodReport("l", 0, "failed").encode())
    with pytest.raises(UnknownFormat, match=f"format {version}, and this process reads format 1"):
        PodReport.decode(json.dumps({**document, "v": version}).encode())


@pytest.mark.parametrize("version", [None, True, "1", 1.0, {}])
def test_what_has_no_format_number_is_damaged(version: object) -> None:
    document = json.loads(PodReport("l", 0, "failed").encode())
    with pytest.raises(MessageError, match="without a format number") as caught:
        PodReport.decode(json.dumps({**document, "v": version}).encode())
    assert not isinstance(caught.value, UnknownFormat)


def test_no_repr_shows_arguments() -> None:
    request = LaunchRequest("l", 0, "task", "s", (), "1", ("python", "the-token"), pod_override={"a": "hidden"})
    assert "the-token" not in repr(request)
    assert "hidden" not in repr(request)
    assert "the-token" not in request.description


def test_descriptions_are_readable() -> None:
    request = LaunchRequest("l", 1, "task", "s", ("etl", "load", "2026-11-20", 2, 3), "1", ())
    assert request.description == "etl.load[3] try 2, attempt 2 (2026-11-20)"


@given(st.text(max_size=300), st.uuids(), st.integers(0, 500))
def test_pod_names_are_valid_and_belong_to_one_attempt(prefix: str, launch_id: Any, attempt: int) -> None:
    import re

    name = identifiers.pod_name(prefix, str(launch_id), attempt)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name)
    assert name == identifiers.pod_name(prefix, str(launch_id), attempt)
    assert name.endswith(f"{launch_id.hex}-{attempt}")
    assert identifiers.parse_job_id(identifiers.job_id(str(launch_id), attempt)) == (str(launch_id), attempt)
    assert identifiers.attempt_of_pod(name, str(launch_id)) == attempt
    assert identifiers.attempt_of_pod(name, identifiers.new_launch_id()) is None


@given(st.uuids(), st.uuids(version=4))
def test_ids_of_airflow_are_distinguished_from_ours(any_id: UUID, assigned: UUID) -> None:
    assert identifiers.is_launch_id(str(any_id))
    assert identifiers.is_assigned(str(assigned))
    own = identifiers.new_launch_id()
    assert identifiers.is_launch_id(own)
    assert not identifiers.is_assigned(own)
    assert UUID(own).version == 8


@pytest.mark.parametrize("text", [None, "", "x", "0" * 32, "{00000000-0000-4000-8000-000000000000}"])
def test_what_is_no_id_is_not_assigned_either(text: str | None) -> None:
    assert not identifiers.is_launch_id(text)
    assert not identifiers.is_assigned(text)


@pytest.mark.parametrize("name", ["etl", "{hex}", "-{hex}-0", "x-{hex}-00", "x-{hex}-0.y", "../x-{hex}-0", "X-{hex}-0",
                                  "x-{hex}-0\n", "x-{hex}-\u0660", "x-{hex}-0-1", "x" * 40 + "-{hex}-0"])  # fmt: skip
def test_other_names_belong_to_no_launch(name: str) -> None:
    launch_id = identifiers.new_launch_id()
    assert identifiers.attempt_of_pod(name.format(hex=launch_id.replace("-", "")), launch_id) is None


@pytest.mark.parametrize(
    ("weight", "level"), [(-5, 0), (0, 0), (1, 0), (2, 1), (3, 1), (9, 3), (10, 3), (100, 6), (10**9, 7)]
)
def test_priority_weights_map_to_levels(weight: int, level: int) -> None:
    assert redis_keys.priority_level(weight) == level


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", ["d", "t", "r", 1, "x"]), ("key", ["d", "t", "r", "1", -1]), ("key", [[], {}, None, 1, 1]),
        ("key", ["d", "t", "r", True, 1]), ("args", [1]), ("args", [None]), ("not_after_s", float("inf")),
        ("token_life_s", float("nan")),
    ],
)  # fmt: skip
def test_a_launch_whose_parts_have_odd_types_is_refused_and_never_described(field: str, value: object) -> None:
    """Its description, its arguments and its times are used where an error would end more than this launch."""
    request = LaunchRequest("l", 0, "task", "s", ("d", "t", "r", 1, -1), "7", ("--json-string", "x"))
    document = json.loads(request.encode()) | {field: value}
    with pytest.raises(MessageError, match=field):
        LaunchRequest.decode(json.dumps(document).encode())


def test_a_message_that_is_too_deep_is_refused() -> None:
    with pytest.raises(MessageError, match="not JSON"):
        PodReport.decode(b'{"v":1,"is":"result","x":' + b"[" * 100_000)


@pytest.mark.parametrize("job", ["l_" + "1" * 10, "l_" + "1" * 5000, "l_\u0663", "l" * 64 + "_0", "l_0\n", "l_-1"])
def test_other_ids_are_of_no_launch_job(job: str) -> None:
    assert identifiers.parse_job_id(job) is None


# --- names of a launch ------------------------------------------------------------------------------------------------
@given(st.uuids(), st.integers(0, 999_999_999), st.sampled_from(["", "-delete", "-pending-revoke"]))
def test_a_launch_is_found_by_each_of_its_names(launch: UUID, attempt: int, action: str) -> None:
    launch_id = str(launch)
    pod, job = identifiers.pod_name("etl-load", launch_id, attempt), identifiers.job_id(launch_id, attempt)
    for name in (pod, f"ns/{pod}", job + action, f"rq:job:{job}"):
        assert identifiers.launch_named(name) == (launch_id, attempt)
    assert identifiers.launch_named(launch_id) == (launch_id, None)
    assert identifiers.launch_of_job(job + action) == launch_id


@given(st.text())
def test_any_other_name_is_taken_for_a_launch_id(name: str) -> None:
    launch_id, attempt = identifiers.launch_named(name)
    assert attempt is None or launch_id
    assert identifiers.launch_of_job(name) in name
