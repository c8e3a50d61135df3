"""Messages that quote the pod lose its token and nothing else."""

from __future__ import annotations

import json

import pytest

from podrelay_workers.launcher.redaction import redact

TOKEN = "eyJhbGciOiJIUzUxMiJ9.eyJzdWIiOiIwMTk5In0.c2lnbmF0dXJlLXRoYXQtbm9ib2R5LW1heS1zZWU"
PLAIN = "a-plain-token-of-some-other-kind"


def args_with(token: str) -> tuple[str, ...]:
    workload = {"token": token, "ti": {"id": "0199", "dag_id": "etl_of_the_whole_company"}, "type": "ExecuteTask"}
    return ("python", "-m", "airflow.sdk.execution_time.execute_workload", "--json-string", json.dumps(workload))


@pytest.mark.parametrize("token", [TOKEN, PLAIN])
def test_no_quotation_shows_the_token(token: str) -> None:
    args = args_with(token)
    quotations = [
        f"spec.containers[0].args: Invalid value: {json.dumps(list(args))}: too long",
        f"denied: {args[-1]}",
        f"denied: {json.dumps(json.dumps(list(args)))}",
        f"denied: {token!r} and {token}{token}",
        f"denied: {args[-1][:40]}",
        f"cut: ...{token[: len(token) // 2]}",
        f"{token[: len(token) // 2]}...",
    ]
    for text in quotations:
        shown = redact(text, args)
        assert token[:13] not in shown, shown
        assert token[-10:] not in shown, shown
        assert "***" in shown


def test_all_other_text_stays() -> None:
    text = (
        'Pod "etl-of-the-whole-company-0199" is invalid: spec.containers[0].image: Required value; '
        "python -m airflow.sdk.execution_time.execute_workload of etl_of_the_whole_company"
    )
    assert redact(text, args_with(TOKEN)) == text
    assert redact("", args_with(TOKEN)) == ""
    assert redact(text, ()) == text


def test_any_signed_token_is_redacted() -> None:
    assert redact(f"Bearer {TOKEN}, and the rest", ("true",)) == "Bearer ***, and the rest"
