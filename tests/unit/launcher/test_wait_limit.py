"""How long and how often a launch is tried: Airflow's default of 0 retries does not count, wherever it stands."""

from __future__ import annotations

import pytest
from airflow.configuration import AirflowConfigParser, conf

from podrelay.errors import ConfigError
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


@pytest.mark.parametrize(("written", "tries"), [("0", None), ("3", 3), ("-1", None)])
def test_the_configured_number_of_tries_counts(
    monkeypatch: pytest.MonkeyPatch, written: str, tries: int | None
) -> None:
    monkeypatch.setenv(OPTION, written)
    assert load_wait_limit(conf, SETTINGS).tries_max == tries


@pytest.mark.parametrize(("own", "tries"), [(0, 0), (5, 5), (-1, None)])
def test_our_own_number_of_tries_goes_first(monkeypatch: pytest.MonkeyPatch, own: int, tries: int | None) -> None:
    monkeypatch.setenv(OPTION, "3")
    settings = Settings(redis_url="redis://x", fernet_key="", launch_retries_max=own)
    assert load_wait_limit(conf, settings).tries_max == tries


@pytest.mark.parametrize("section", ["kubernetes_executor", "red=kubernetes_executor"])
def test_a_zero_in_a_file_does_not_count(monkeypatch: pytest.MonkeyPatch, section: str) -> None:
    """Airflow writes it into each airflow.cfg that it generates."""
    monkeypatch.delenv(OPTION, raising=False)
    parser = AirflowConfigParser()
    parser.read_string(f"[{section}]\ntask_publish_max_retries = 0\n")
    assert load_wait_limit(parser, SETTINGS, "red" if "red" in section else None).tries_max is None


def test_an_invalid_number_of_tries_names_its_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OPTION, "many")
    with pytest.raises(ConfigError, match="task_publish_max_retries"):
        load_wait_limit(conf, SETTINGS)


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
