"""Connections that a test reads and writes itself."""

from __future__ import annotations

import socket

from .conftest import Running


def connect(server: Running, *, receives: int | None = None) -> socket.socket:
    """A connection, which takes hardly more bytes than it ``receives`` before they are read."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.settimeout(30)
    if receives is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    connection.connect((host, int(port)))
    return connection


def everything(connection: socket.socket) -> bytes:
    """What arrives until the server closes the connection."""
    chunks = []
    try:
        while chunk := connection.recv(65536):
            chunks.append(chunk)
    except ConnectionResetError:
        pass
    return b"".join(chunks)
