"""How long and how often a launch is tried: what the user has set counts, a provider's default does not."""

from __future__ import annotations

import pytest
from airflow.configuration import AirflowConfigParser, conf

from podrelay.settings import Settings
from podrelay_workers.launcher.wait_limit import WaitLimit, load_wait_limit

SETTINGS = Settings(redis_url="redis://x", fernet_key="")
OPTION = "AIRFLOW__KUBERNETES_EXECUTOR__TASK_PUBLISH_MAX_RETRIES"


def test_the_default_waits_as_long_as_a_task_may_be_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OPTION, raising=False)
    monkeypatch.setenv("AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT", "321")
    assert load_wait_limit(conf, SETTINGS) == WaitLimit(321.0, None)


def test_our_own_option_goes_first() -> None:
    settings = Settings(redis_url="redis://x", fernet_key="", capacity_wait_s=5.0)
    assert load_wait_limit(conf, settings).wait_s == 5.0


@pytest.mark.parametrize(("written", "tries"), [("0", 0), ("3", 3), ("-1", None)])
def test_the_configured_number_of_tries_counts(
    monkeypatch: pytest.MonkeyPatch, written: str, tries: int | None
) -> None:
    monkeypatch.setenv(OPTION, written)
    assert load_wait_limit(conf, SETTINGS).tries_max == tries


TEAMS = "AIRFLOW__RED___KUBERNETES_EXECUTOR__TASK_PUBLISH_MAX_RETRIES"


def test_a_team_has_a_number_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with every option: without the team's prefix it does not apply to the team."""
    monkeypatch.setenv(OPTION, "3")
    assert load_wait_limit(conf, SETTINGS, "red").tries_max is None
    monkeypatch.setenv(TEAMS, "5")
    assert load_wait_limit(conf, SETTINGS, "red").tries_max == 5
    assert load_wait_limit(conf, SETTINGS, "blue").tries_max is None
    assert load_wait_limit(conf, SETTINGS).tries_max == 3


def test_the_number_of_tries_of_a_team_may_be_in_the_configuration_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OPTION, raising=False)
    parser = AirflowConfigParser()
    parser.read_string("[red=kubernetes_executor]\ntask_publish_max_retries = 4\n")
    assert load_wait_limit(parser, SETTINGS, "red").tries_max == 4
    assert load_wait_limit(parser, SETTINGS, "blue").tries_max is None
