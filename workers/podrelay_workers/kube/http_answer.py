"""Reads one HTTP/1.1 answer of a server that is not trusted, with httptools. Pure; used by `connection_pool`."""

from __future__ import annotations

from typing import NamedTuple

import httptools
from multidict import CIMultiDict

# aiohttp's limit for one header is 8 kB, Go's for all headers 1 MB.
HEAD_MAX = 1 << 16
# Head and body: no object is larger, etcd stores 1.5 MB.
ANSWER_MAX = 16 << 20


class BadAnswer(OSError):
    """The answer breaks the protocol, or is longer than any object."""


class Answer(NamedTuple):
    """`fields` are the names and values of the headers as they arrived: most answers are used without them."""

    status: int
    reason: str
    fields: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def headers(self) -> CIMultiDict[str]:
        return CIMultiDict((name.decode("latin-1"), _text(value)) for name, value in self.fields)

    def values_of(self, name: bytes) -> list[str]:
        """The values of the headers of this name, which is in lower case."""
        return [_text(value) for known, value in self.fields if known.lower() == name]


def _text(value: bytes) -> str:
    return value.rstrip().decode("utf-8", "surrogateescape")


class AnswerReader:
    """Is fed with the bytes that arrive for one answer, `begin` for the next. The parser calls the methods named `on_...`."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.begin()

    def begin(self) -> None:
        """The next answer on the same connection, after one that was complete and `keeps` it."""
        # After the answer: may the connection be used again?
        self.keeps = False
        self._fed = 0
        self._reason = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._has_head = False
        self._body: list[bytes] = []
        self._answer: Answer | None = None

    def feed(self, data: bytes) -> Answer | None:
        """The answer, if it is complete. Bytes that follow it end the connection (`keeps`).

        :raises BadAnswer: whatever else arrives cannot be trusted either.
        """
        self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.keeps = False
            if self._answer is None:
                raise BadAnswer(f"the answer is not HTTP/1.1: {error}") from error
        if self._answer is None:
            if self._fed > ANSWER_MAX:
                raise BadAnswer(f"the answer is longer than {ANSWER_MAX} bytes")
            if self._fed > HEAD_MAX and not self._has_head:
                raise BadAnswer(f"the head of the answer is longer than {HEAD_MAX} bytes")
        return self._answer

    def feed_end(self) -> Answer | None:
        """The connection has ended: the answer, if it has no length and so is complete by this."""
        if self._answer is None and self._has_head:
            codings = [value.lower() for name, value in self._fields if name.lower() == b"transfer-encoding"]
            has_length = any(name.lower() == b"content-length" for name, _ in self._fields)
            if not has_length and b"chunked" not in b",".join(codings):
                self._complete()
        return self._answer

    # --- called by the parser -----------------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        if self._answer is not None:
            self.keeps = False

    def on_status(self, part: bytes) -> None:
        if self._answer is None:
            self._reason += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:  # else a trailer
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        if self._parser.get_http_version() not in ("1.0", "1.1"):
            raise BadAnswer("unknown version")
        self._has_head = True

    def on_body(self, part: bytes) -> None:
        if self._answer is None:
            self._body.append(part)

    def on_message_complete(self) -> None:
        if self._answer is not None:
            return
        if self._parser.get_status_code() < 200:  # an interim answer: the one that counts follows
            self._has_head, self._reason = False, b""
            self._fields.clear()
            return
        self.keeps = self._parser.should_keep_alive()
        self._complete()

    def _complete(self) -> None:
        reason, body = self._reason.decode("latin-1"), b"".join(self._body)
        self._answer = Answer(self._parser.get_status_code(), reason, self._fields, body)
