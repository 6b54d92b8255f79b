"""HTTP/1.1 for clients that take their time: uvicorn limits connections that are idle after an answer, no others."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import HTTP_KINDS, ProblemResponse
from .headers import SECURITY_HEADERS

READ_BYTES = 16 * 2**10


class TimedProtocol(H11Protocol):
    """Closes a connection on which no whole request head arrives within ``head_seconds``.

    The time begins with the connection, and after an answer with the first byte that comes; where the rest of a body
    was refused unread, with the answer. Until then uvicorn's limit holds.

    A client that has not taken within ``write_seconds`` what was written at once, an answer or a part of one that
    comes in parts, is cut off, whether the connection was to be closed after that or not.
    """

    head_seconds: float
    write_seconds: float
    _closing: asyncio.TimerHandle | None = None
    _cutting_off: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol, like the others."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # writing is paused for as long as anything is left
        # What arrives at once is parsed at once, and thousands of one-byte chunks take a while each.
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        self._watch()

    def pause_writing(self) -> None:
        """The client takes no more for now."""
        super().pause_writing()
        self._cutting_off = self.loop.call_later(self.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It has taken everything."""
        super().resume_writing()
        self._reprieve()

    def data_received(self, data: bytes) -> None:
        """May complete a head."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Called by uvicorn after the last byte of an answer."""
        super().on_response_complete()
        if self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        super().connection_lost(exc)
        self._forget()
        self._reprieve()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP like every other refusal, unless that comes within or after another answer."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        if self.cycle is not None:
            # The app may be at the request whose body this was.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        answer = ProblemResponse(HTTP_KINDS[400], msg, instance="/", headers={"Connection": "close"})
        answer.headers.update(SECURITY_HEADERS)
        head = h11.Response(status_code=answer.status_code, headers=answer.raw_headers)
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _reprieve(self) -> None:
        if self._cutting_off is not None:
            self._cutting_off.cancel()
            self._cutting_off = None

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._closing is None and not self.transport.is_closing():
            self._closing = self.loop.call_later(self.head_seconds, self.transport.close)

    def _forget(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None


def timed_protocol(head_seconds: float, write_seconds: float) -> type[TimedProtocol]:
    """The class that uvicorn takes, with its limits."""
    return type("TimedProtocol", (TimedProtocol,), {"head_seconds": head_seconds, "write_seconds": write_seconds})
