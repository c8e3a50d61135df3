"""redis_url and redis_sentinels: each form that people write is read rightly, or refused with the form to write."""

from __future__ import annotations

import ssl
import traceback
from typing import Any

import pytest

from podrelay.errors import ConfigError
from podrelay.redis_address import parse_redis_url, parse_sentinels
from podrelay.settings import load_settings
from tests.unit.test_settings import Options

LOCAL = {"host": "host", "port": 6379}


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://host", LOCAL),
        ("redis://host/", LOCAL),
        ("redis://host:1234/5", {"host": "host", "port": 1234, "db": 5}),
        ("redis://host?db=5", {**LOCAL, "db": 5}),
        ("redis://:pw@host", {**LOCAL, "password": "pw"}),
        ("redis://user:p%40s%2Fs%3F%23%25@host", {**LOCAL, "username": "user", "password": "p@s/s?#%"}),
        ("redis://user:p@ss@host", {**LOCAL, "username": "user", "password": "p@ss"}),
        ("redis://user:p:ss@host", {**LOCAL, "username": "user", "password": "p:ss"}),
        ("redis://host?username=u&password=p%26w", {**LOCAL, "username": "u", "password": "p&w"}),
        ("redis://[::1]", {"host": "::1", "port": 6379}),
        ("redis://[fe80::1%eth0]:7/1", {"host": "fe80::1%eth0", "port": 7, "db": 1}),
        ("redis://redis_1.my-net.example.:7", {"host": "redis_1.my-net.example.", "port": 7}),
        ("redis://host?protocol=3", {**LOCAL, "protocol": 3}),
        ("unix:///run/redis.sock", {"path": "/run/redis.sock"}),
        ("unix:///run/re%20dis@1.sock?db=2", {"path": "/run/re dis@1.sock", "db": 2}),
        ("unix://user:pw@/run/redis.sock", {"path": "/run/redis.sock", "username": "user", "password": "pw"}),
        ("rediss://host", {**LOCAL, "ssl_check_hostname": True}),
        (
            "rediss://host?ssl_ca_certs=%2Fca.pem&ssl_check_hostname=False&ssl_min_version=TLSv1.3",
            {
                **LOCAL,
                "ssl_ca_certs": "/ca.pem",
                "ssl_check_hostname": False,
                "ssl_min_version": ssl.TLSVersion.TLSv1_3,
            },
        ),
        ("rediss://host?ssl_cert_reqs=none", {**LOCAL, "ssl_cert_reqs": "none", "ssl_check_hostname": False}),
    ],
)
def test_an_address_is_read(url: str, options: dict[str, Any]) -> None:
    assert parse_redis_url(url).options == options


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("host:6379", "must start with redis://"),
        ("http://host", "must start with redis://"),
        ("REDIS://host", "must start with redis://"),
        ("redis:host", "must start with redis://"),
        ("redis://", "no valid host"),
        ("redis://:6379/0", "no valid host"),
        ("redis://:pw@:6379/0", "no valid host"),
        ("redis://host:", "not a port"),
        ("redis://host:0", "not a port"),
        ("redis://host:65536", "not a port"),
        ("redis://host:redis", "not a port"),
        ("redis://user:SECRET", "not a port"),
        ("redis://::1:6379", "IPv6 address in brackets"),
        ("redis://[::1", "no valid host"),
        ("redis://a:1,b:2", r"\[podrelay\] redis_sentinels"),
        ("redis://ho st", "blank"),
        ("redis://host/\n0", "blank"),
        ("redis://ho\tst", "blank"),
        ("redis://:SEC/RET@host", "%2F"),
        ("redis://:ab@SEC/RET@host", "%40"),
        ("redis://:ab@SEC?RET@host", "%3F"),
        ("redis://:SEC#RET@host", "%23"),
        ("redis://:SEC?RET@host/0?db=1", "%3F"),
        ("redis://host#fragment", "%23"),
        ("redis://host/blue", "database is not a number"),
        ("redis://host/0/1", "database is not a number"),
        ("redis://host/-1", "database is not a number"),
        ("redis://host/1.0", "database is not a number"),
        ("redis://host/99999999999", "database is not a number"),
        ("redis://host?db=blue", "database is not a number"),
        ("redis://host/0?db=1", "database twice"),
        ("redis://host?db=1&db=2", "db twice"),
        ("redis://u@host?username=v", "username twice"),
        ("redis://:SECRET@host?password=v", "password twice"),
        ("redis://host?protocol=4", "protocol must be 2 or 3"),
        ("redis://host?protocol=three", "protocol must be 2 or 3"),
        ("redis://host?decode_responses=true", "sets decode_responses itself"),
        ("redis://host?socket_timeout=5", "redis_timeout_s"),
        ("redis://host?retry_on_timeout=1", "sets retry_on_timeout itself"),
        ("redis://host?max_connections=3", "sets max_connections itself"),
        ("redis://host?SECRET", "option 1 behind the . is unknown"),
        ("redis://host?db=1&foo=bar", "option 2 behind the . is unknown"),
        ("rediss://host?ssl_ca_cert=/ca", "did you mean ssl_ca_certs"),
        ("redis://host?db", "db has no value"),
        ("rediss://host?ssl_ca_certs=", "ssl_ca_certs has no value"),
        ("redis://host?ssl_ca_certs=/ca", "ssl_ca_certs needs TLS. Write rediss://"),
        ("unix:///r.sock?ssl_cert_reqs=none", "ssl_cert_reqs needs TLS"),
        ("rediss://host?ssl_cert_reqs=CERT_NONE", "must be required, optional or none"),
        ("rediss://host?ssl_cert_reqs=CERT_REQUIRED", "must be required, optional or none"),
        ("rediss://host?ssl_cert_reqs=False", "must be required, optional or none"),
        ("rediss://host?ssl_check_hostname=maybe", "must be true or false"),
        ("rediss://host?ssl_min_version=TLS1.2", "must be TLSv1.2 or TLSv1.3"),
        ("rediss://host?ssl_keyfile=/key", "ssl_keyfile needs ssl_certfile"),
        ("unix://", "full path"),
        ("unix:///", "full path"),
        ("unix://run/redis.sock", "three slashes"),
        ("unix://:SEC@RET/x@/run/redis.sock", "three slashes"),
    ],
)
def test_a_mistake_is_one_line_that_shows_no_secret(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_settings(Options(redis_url=url))
    shown = "".join(traceback.format_exception(caught.value))
    assert "redis_url" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not any(part in shown for part in ("SEC", "RET"))


def test_no_secret_in_the_repr_of_an_address() -> None:
    assert "hunter2" not in repr(parse_redis_url("redis://user:hunter2@host"))


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("", ()),
        ("a:1, b.example:2 ,\n c-3:26379,", (("a", 1), ("b.example", 2), ("c-3", 26379))),
        ("[::1]:26379,10.0.0.1:1", (("::1", 26379), ("10.0.0.1", 1))),
    ],
)
def test_sentinels_are_read(text: str, addresses: tuple[tuple[str, int], ...]) -> None:
    assert parse_sentinels(text) == addresses


@pytest.mark.parametrize(
    "text",
    [
        "a", "a:", ":1", "a:b", "a:0", "a:65536", "a:1;b:2", "a:1 b:2", "a:1\nb:2", "a 1", "::1:26379", "[::1]", "[::1:26379",
        "redis://a:1", "rediss://a:1", "a:1,redis://:SECRET@b:2", ":SECRET@a:1", "a:1/mymaster", "a:1,b",
    ],
)  # fmt: skip
def test_sentinels_in_another_form_are_refused_with_the_form_to_write(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"redis_sentinels.*write host:port, \[::1\]:port for IPv6, and commas"
    ) as caught:
        load_settings(Options(redis_sentinels=text, redis_sentinel_master="m"))
    assert "SECRET" not in str(caught.value)


def test_a_master_needs_sentinels() -> None:
    with pytest.raises(ConfigError, match="redis_sentinels is empty"):
        load_settings(Options(redis_sentinel_master="m"))


def test_a_prefix_of_rq_that_splits_the_deployment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQ_KEY_PREFIX", "rq")
    load_settings(Options())
    for prefix in ("other", "rq:blue", ""):
        monkeypatch.setenv("RQ_KEY_PREFIX", prefix)
        with pytest.raises(ConfigError, match=r"RQ_KEY_PREFIX.*unset it"):
            load_settings(Options())
