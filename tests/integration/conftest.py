"""Airflow's logging is set up before the first test: set up in the middle of one, it would take the handlers of `caplog`.

Where the client library is imported, workers load credentials in this process, which saves each test a start of Airflow.
`kube.test_credential_loader` covers the processes that load them otherwise.
"""

from __future__ import annotations

import kubernetes_asyncio  # noqa: F401
import pytest


@pytest.fixture(scope="session", autouse=True)
def _airflow_logs() -> None:
    from airflow import settings

    settings.initialize()
