"""A pool of PostgreSQL connections that a branch does not share with its parent.

Both VMs have the same sockets after a branch: what one of them sends on a connection of before would get into the other's session. So the
pool is thrown away when the generation changes, and nothing is sent on its connections, not even PostgreSQL's goodbye: their descriptors are
closed, no more. Where the host has given the branch an address of its own, the parent's is gone by then, and with it the way for a reset.
"""

import os
import threading

import psycopg


def generation() -> str:
    try:
        with open("/run/guestd/generation", encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return "none"


class Pool:
    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._lock = threading.Lock()
        self._generation = generation()
        self._idle: list[psycopg.Connection] = []

    def take(self) -> tuple[psycopg.Connection, str]:
        """A connection, and the generation that it is of, to be given back with it."""
        with self._lock:
            self._follow()
            of = self._generation
            if self._idle:
                return self._idle.pop(), of
        return psycopg.connect(self._conninfo), of

    def give_back(self, connection: psycopg.Connection, of: str) -> None:
        with self._lock:
            self._follow()
            if of == self._generation and not connection.closed:
                self._idle.append(connection)
                return
        drop(connection)

    def _follow(self) -> None:
        now = generation()
        if now != self._generation:
            self._generation = now
            for connection in self._idle:
                drop(connection)
            self._idle.clear()


def drop(connection: psycopg.Connection) -> None:
    """Closes the socket without a word to the server, by putting /dev/null in its place."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, connection.fileno(), inheritable=False)
    os.close(null)
    connection.close()
