"""Options: every default is valid, and the error for an invalid value names the option."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from podrelay.errors import ConfigError
from podrelay.get_provider_info import OPTIONS, get_provider_info
from podrelay.settings import Settings, load_settings


class Options:
    """A configuration with some options set."""

    def __init__(self, **options: str) -> None:
        self.options = options

    def get(self, section: str, key: str, **kwargs: Any) -> str | None:
        assert section == "podrelay"
        return self.options.get(key, OPTIONS[key]["default"])


def test_defaults_are_valid_and_equal_in_both_places() -> None:
    settings = load_settings(Options())
    plain = Settings(redis_url=settings.redis_url, fernet_key="")
    assert settings == plain


def test_every_setting_is_documented() -> None:
    assert set(OPTIONS) == set(Settings.__dataclass_fields__)
    for name, option in OPTIONS.items():
        if name.endswith("_s"):
            assert "Seconds" in option["description"], name


def test_the_provider_info_is_what_airflow_accepts() -> None:
    airflow = find_spec("airflow")  # importing it could take longer than a unit test may
    assert airflow is not None
    assert airflow.origin is not None
    schema = json.loads(Path(airflow.origin).with_name("provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("redis_url", "localhost:6379"), ("redis_url", ""), ("deployment", "Not Valid"), ("deployment", ""),
        ("redis_timeout_s", "soon"), ("redis_timeout_s", "30"), ("launcher_concurrency", "0"),
        ("launcher_concurrency", "many"), ("launch_lease_s", "-1"), ("redis_sentinels", "host-without-port"),
        ("result_batch_size", "1.5"), ("workload_in_secret", "maybe"), ("workload_in_secret", "2"),
        ("result_batch_size", "1.5"), ("redis_sentinel_tls", "perhaps"), ("redis_sentinel_tls", "True"),
        ("warm_pods_max", "-1"), ("warm_pods_max", "10001"), ("warm_pods_min", "many"), ("warm_pods_min", "3"),
        ("warm_pod_idle_s", "9"), ("warm_assign_timeout_s", "0.1"), ("warm_assign_timeout_s", "61"),
        ("redis_sentinel_master", "mymaster"), ("redis_sentinel_password", "p"), ("redis_sentinel_username", "u"),
    ],
)  # fmt: skip
def test_an_invalid_value_names_its_option(option: str, value: str) -> None:
    with pytest.raises(ConfigError, match=option):
        load_settings(Options(**{option: value}))


@pytest.mark.parametrize(
    ("text", "value"),
    [("True", True), ("t", True), ("1", True), ("FALSE", False), ("f", False), ("0", False), ("", False)],
)
def test_a_flag_is_read_as_airflow_reads_it(text: str, value: bool) -> None:
    assert load_settings(Options(workload_in_secret=text)).workload_in_secret is value


def test_a_range_is_written_without_exponents() -> None:
    with pytest.raises(ConfigError, match=r"results_max_length = 1 must be between 1000 and 100000000\.$"):
        load_settings(Options(results_max_length="1"))
    with pytest.raises(ConfigError, match=r"redis_timeout_s = 30 must be between 0\.05 and 1\.$"):
        load_settings(Options(redis_timeout_s="30"))


def test_no_secret_in_the_repr() -> None:
    settings = load_settings(Options(redis_url="redis://user:hunter2@host/0", fernet_key="secret-key"))
    assert "hunter2" not in repr(settings)
    sentinel = {"redis_sentinels": "a:1", "redis_sentinel_username": "u", "redis_sentinel_password": "hunter2"}
    assert "hunter2" not in repr(load_settings(Options(**sentinel)))
    assert "secret-key" not in repr(settings)


def test_sentinels_are_read() -> None:
    assert load_settings(Options(redis_sentinels="a:1, b:2")).redis_sentinels == (("a", 1), ("b", 2))
    options = {"redis_url": "rediss://h", "redis_sentinels": "a:1", "redis_sentinel_tls": "true"}
    assert load_settings(Options(**options)).redis_sentinel_tls


def test_a_user_of_the_sentinels_needs_a_password() -> None:
    with pytest.raises(ConfigError, match="redis_sentinel_password is empty"):
        load_settings(Options(redis_sentinels="a:1", redis_sentinel_username="u"))


def test_no_more_warm_pods_are_kept_than_there_may_be() -> None:
    with pytest.raises(ConfigError, match="warm_pods_min = 5 exceeds warm_pods_max = 4: raise warm_pods_max"):
        load_settings(Options(warm_pods_max="4", warm_pods_min="5"))
    settings = load_settings(Options(warm_pods_max="4", warm_pods_min="4"))
    assert (settings.warm_pods_max, settings.warm_pods_min) == (4, 4)
