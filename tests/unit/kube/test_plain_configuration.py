"""A client's configuration as plain data, on its way between two processes."""

from __future__ import annotations

import json
import os
import ssl
from pathlib import Path

import pytest

from podrelay_workers.kube.authorization import headers_of
from podrelay_workers.kube.credentials import Credentials
from podrelay_workers.kube.memory_file import path_of
from podrelay_workers.kube.plain_configuration import PlainConfiguration


def test_it_comes_back_as_it_was_and_shows_no_secret() -> None:
    made = PlainConfiguration(
        "https://a", verify_ssl=False, ssl_ca_cert=b"\xff\x00", cert_file="/a/path", key_file=b"s3cret-key",
        proxy="http://u:s3cret@p", proxy_headers={"a": "s3cret"}, authorization="Bearer s3cret", token_file="/t",
    )  # fmt: skip
    back = PlainConfiguration.of_json(json.loads(json.dumps(made.as_json())))
    assert back == made
    assert headers_of(back) == {"Authorization": "Bearer s3cret"}
    assert "s3cret" not in repr(back)


def test_https_is_https_however_it_is_written() -> None:
    found = Credentials(PlainConfiguration("HTTPS://a", authorization="Bearer s3cret", tls_server_name="b"))
    assert isinstance(found.tls, ssl.SSLContext)
    assert found.request_options() == {"server_hostname": "b"}


def test_a_token_file_that_is_empty_leaves_the_token_of_before(tmp_path: Path) -> None:
    path = tmp_path / "token"
    made = PlainConfiguration("https://a", authorization="Bearer one", token_file=str(path))
    path.write_text("two\n")
    made.refresh_api_key_hook(made)
    assert made.authorization == "Bearer two"
    path.write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        made.refresh_api_key_hook(made)
    assert made.authorization == "Bearer two"


def test_a_file_in_memory_is_gone_after_its_use() -> None:
    before = descriptors()
    with path_of(b"content") as path:
        assert path is not None
        assert Path(path).read_bytes() == b"content"
        assert not os.get_inheritable(int(path.rpartition("/")[2]))
    assert descriptors() == before
    with path_of("/a/path") as path:
        assert path == "/a/path"


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
