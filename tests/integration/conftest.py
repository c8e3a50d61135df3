"""Airflow's logging is set up before the first test: set up in the middle of one, it would take the handlers of `caplog`."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _airflow_logs() -> None:
    from airflow import settings

    settings.initialize()
