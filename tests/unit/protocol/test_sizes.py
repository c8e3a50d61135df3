"""How long messages can be: one set of numbers for Python and for the scripts, and reports that always fit."""

from __future__ import annotations

import re
from importlib.resources import files

from cryptography.fernet import Fernet

from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.jobs import launch_data
from podrelay.protocol.messages import LaunchRequest, PodReport
from podrelay.protocol.sizes import JOB_MAX, REPORT_MAX, REQUEST_MAX, RESULT_MAX

CIPHER = PayloadCipher(Fernet.generate_key().decode(), "etl")


def test_the_scripts_have_the_same_limits() -> None:
    prelude = files("podrelay.protocol").joinpath("lua", "prelude.lua").read_text("utf-8")
    found = re.search(r"^local JOB_MAX, RESULT_MAX, VALUE_MAX = (\d+), (\d+), \d+$", prelude, re.MULTILINE)
    assert found is not None
    assert (int(found[1]), int(found[2])) == (JOB_MAX, RESULT_MAX)


def test_the_longest_request_fits_into_a_job() -> None:
    request = LaunchRequest("l", 0, "task", "s", (), "7", ("",))
    longest = LaunchRequest("l", 0, "task", "s", (), "7", ("x" * (REQUEST_MAX - len(request.encode())),))
    assert len(longest.encode()) == REQUEST_MAX
    assert JOB_MAX - 200 <= len(launch_data(longest, CIPHER)) <= JOB_MAX


def test_a_report_of_any_length_fits_into_the_stream() -> None:
    for letter in ("x", "\u00e4", "\U0001f600"):
        text = letter * 20_000
        report = PodReport("l", 3, "failed", text, text, text, text, text, text, text, text, text, text, 137, image=text,
                           log_tail=(text,) * 20)  # fmt: skip
        encoded = report.encode()
        assert len(encoded) <= REPORT_MAX
        assert len(CIPHER.reports.encrypt(encoded)) <= RESULT_MAX
        again = PodReport.decode(encoded)
        assert (again.launch_id, again.attempt, again.outcome, again.exit_code) == ("l", 3, "failed", 137)
        assert text.startswith(again.message) and len(again.message) == 1200


def test_an_ordinary_report_is_not_shortened() -> None:
    report = PodReport("l", 0, "failed", message="m" * 5000, log_tail=tuple(f"line {n}" * 50 for n in range(20)))
    assert PodReport.decode(report.encode()) == report
