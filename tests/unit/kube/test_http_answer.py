"""Answers of an HTTP server that may send anything, however they are cut."""

from __future__ import annotations

import pytest

from podrelay_workers.kube.http_answer import ANSWER_MAX, HEAD_MAX, Answer, AnswerReader, BadAnswer

PLAIN = b'HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}'
CHUNKED = b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4;x=y\r\n{"a"\r\n3\r\n:1}\r\n0\r\nTrailer: t\r\n\r\n'
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + PLAIN


def read(data: bytes, piece: int = 1000) -> tuple[Answer | None, AnswerReader]:
    reader = AnswerReader()
    for start in range(0, len(data), piece):
        if answer := reader.feed(data[start : start + piece]):
            return answer, reader
    return None, reader


@pytest.mark.parametrize("piece", [1, 2, 7, 1000])
@pytest.mark.parametrize(("data", "status"), [(PLAIN, 201), (CHUNKED, 200), (INTERIM, 201)])
def test_an_answer_is_read_however_it_is_cut(data: bytes, status: int, piece: int) -> None:
    answer, reader = read(data, piece)
    assert answer is not None
    assert (answer.status, answer.body) == (status, b'{"a":1}')
    assert reader.keeps
    for end in range(len(data)):
        assert read(data[:end], piece)[0] is None, "a part is no answer"


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_one_reader_reads_the_answers_of_a_connection_one_by_one(piece: int) -> None:
    reader = AnswerReader()
    for data in (PLAIN, CHUNKED, b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\n", INTERIM, PLAIN):
        found = [reader.feed(data[start : start + piece]) for start in range(0, len(data), piece)]
        assert found[:-1] == [None] * (len(found) - 1)
        assert found[-1] == read(data)[0]
        assert reader.keeps
        reader.begin()


@pytest.mark.parametrize("more", [b"next", PLAIN, b"HTTP/1.1 500 Late\r\nX: y\r\nContent-Length: 1\r\n\r\n!", b"\x00"])
@pytest.mark.parametrize("data", [PLAIN, CHUNKED])
def test_bytes_behind_an_answer_end_the_connection_and_are_no_part_of_it(data: bytes, more: bytes) -> None:
    answer, reader = read(data + more)
    assert answer == read(data)[0]
    assert not reader.keeps


def test_headers_of_one_name_are_all_kept() -> None:
    data = b'HTTP/1.1 200 OK\r\nWarning: 299 - "a"\r\nwarning: \t299 - "\xc3\xa9" \r\nContent-Length: 0\r\n\r\n'
    answer, _ = read(data)
    assert answer is not None
    assert answer.headers.getall("WARNING") == ['299 - "a"', '299 - "é"']


@pytest.mark.parametrize(
    ("head", "keeps"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
    ],
)
def test_a_connection_is_used_again_unless_the_server_ends_it(head: bytes, keeps: bool) -> None:
    answer, reader = read(head)
    assert answer is not None
    assert reader.keeps == keeps


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    answer, reader = read(b"HTTP/1.1 200 OK\r\n\r\nabc")
    assert answer is None
    answer = reader.feed_end()
    assert answer is not None
    assert (answer.status, answer.body, reader.keeps) == (200, b"abc", False)


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\n", PLAIN[:-1], CHUNKED[:-1]])
def test_a_part_of_an_answer_is_none_at_the_end_of_the_connection(data: bytes) -> None:
    assert read(data)[1].feed_end() is None


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 0200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n0123456789",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    ],
)
def test_an_answer_that_breaks_the_protocol_is_refused(data: bytes) -> None:
    with pytest.raises(BadAnswer):
        read(data)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * HEAD_MAX * 5,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * HEAD_MAX,
        b"HTTP/1.1 200 " + b"x" * HEAD_MAX * 5,
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (ANSWER_MAX + 1) + b"x" * ANSWER_MAX,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * ANSWER_MAX,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"100000\r\n%b\r\n" % (b"x" * 0x100000) * 17,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"x" * ANSWER_MAX,
        b"HTTP/1.1 100 Continue\r\n\r\n" * (ANSWER_MAX // 25 + 1),
    ],
)
def test_nothing_longer_than_an_object_is_kept(data: bytes) -> None:
    with pytest.raises(BadAnswer):
        read(data, 1 << 16)
