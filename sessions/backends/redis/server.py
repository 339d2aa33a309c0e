"""The servers: their connections, and in a cluster which of them has a session.

Commands that can go together go in one send, packed and read by the driver's `Connection`. Nothing is sent twice, for
the first may have arrived. Only what a server refused to do is asked of another one: MOVED, ASK and NOSCRIPT say so.

Rejected: the driver's pool and client, which take 20 us more for a round trip than these lists. Its RedisCluster asks
who has which slot within the request that met a server that is down, of all servers in turn, and waits for each that
hangs; it sleeps for a quarter of a second where a slot has no server, and ends with an AttributeError where ASK names a
server that is new (8.1.0).
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

from redis import exceptions as errors
from redis.crc import key_slot

from ...errors import ConfigError, NoRoom, Unavailable
from ...events import publish, watchers
from ..outage import Outage, is_closed

Command = tuple[str | bytes | int, ...]
Call = tuple[str, Command, Command]  # the key it is about, the command, and the one for a server that lacks its script
Connect = Callable[[str, int], Any]

_SLOTS = 16384  # of a cluster: each key is in one of them, and each of them on one server
_REDIRECTS = 5  # that are followed for one command
_REDIRECTING = 0.4  # seconds for which they are followed, so that together they stay below two seconds


class Server:
    """A server, and connections to it. They are made as they are needed and kept: as many as threads were ever waiting
    for its answers at once.

    Args:
        address: host:port, or the path of a socket.
        connect: makes a connection of the driver, which opens it.
    """

    def __init__(self, address: str, connect: Callable[[], Any]) -> None:
        self.address, self._connect = address, connect
        self.outage = Outage(f"Redis at {address}", errors.ConnectionError, errors.TimeoutError, OSError)
        self._idle: list[Any] = []  # the latest is used first

    def send(self, what: str, *commands: Command) -> list[Any]:
        """Give all `commands` in one send, and return the answer to each; a refusal is an answer, too. If there is none
        (Unavailable), what the server has done of them is not known."""
        try:
            answers = self.outage.ask(self._exchange, commands)
            if isinstance(answers[-1], errors.ReadOnlyError):  # a replica by now
                raise answers[-1]
        except (errors.RedisError, OSError) as error:
            self.close()  # a new connection may lead to its successor
            raise self.unavailable(error) from error
        if watchers:
            publish("trip", to=f"Redis at {self.address}", what=what)
        return answers

    def unavailable(self, error: Exception) -> Unavailable:
        """Return what the server or the driver says as an error of the store."""
        kind = NoRoom if isinstance(error, errors.OutOfMemoryError) else Unavailable
        return kind(f"Redis at {self.address}: {str(error).rstrip('.')}")

    def close(self) -> None:
        """Close the idle connections; the next command opens a new one."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.disconnect()

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        idle, connection = self._idle, self._take()
        try:
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            answers = [_answer(connection) for _ in commands]
        except BaseException:  # what comes later would be taken for the answer to the next command
            connection.disconnect()
            raise
        if idle is self._idle:
            idle.append(connection)
        else:  # closed meanwhile
            connection.disconnect()
        return answers

    def _take(self) -> Any:
        """Return an idle connection of this process, unless the server has closed it; else a new one."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if connection.pid == os.getpid() and not is_closed(connection._sock):  # can_read() takes six times as long
                return connection
            connection.disconnect()
        connection = self._connect()
        connection.connect()
        return connection


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except errors.ResponseError as error:  # the answers to the other commands come all the same
        return error


class Servers:
    """The servers of a store: one, or those of a cluster, where each session has its own.

    A cluster is asked who has what at the start, and by one thread at a time while the server of a session is down: its
    replica may have taken over. That question goes to a server which is not known to be down, so it is waited for once.

    Args:
        nodes: host and port of the server, or of some in the cluster: the others are learned from them.
        cluster: whether it is one.
        connect: makes a connection of the driver to host and port.
    """

    def __init__(self, nodes: Sequence[tuple[str, int]], cluster: bool, connect: Connect) -> None:
        self._connect = connect
        self._named = [self._new(host, port) for host, port in nodes]  # in the url
        self._only = None if cluster else self._named[0]
        self._by_address = {server.address: server for server in self._named}
        self._slots = [self._named[0]] * _SLOTS
        self._looking = threading.Lock()

    def _new(self, host: str, port: int) -> Server:
        return Server(f"{host}:{port}" if port else host, partial(self._connect, host, port))

    def start(self) -> None:
        """Ask one of the servers that the url names who is in the cluster, or raise Unavailable; ConfigError where it
        is in none, or in one that was not expected."""
        if self._only:
            (answer,) = self._only.send("start", ("READWRITE",))  # means something in a cluster only
            if answer == b"OK":
                raise ConfigError(f"Redis at {self._only.address} is in a cluster: set tools.sessions.cluster to True")
            return
        failures = []
        for server in self._named:
            try:
                return self._look(server)
            except Unavailable as error:
                failures.append(str(error))
        raise Unavailable("; ".join(failures))

    def all(self) -> list[Server]:
        """Return the servers that have sessions; those that are down come last."""
        return sorted(self._by_address.values(), key=lambda server: server.outage.is_down)

    def of(self, name: str) -> Server:
        """Return the server that has a key."""
        return self._only or self._slots[key_slot(name.encode())]

    def refresh(self) -> None:
        """Learn who has what if a server of the cluster is down."""
        if not self._only and any(server.outage.is_down for server in self.all()):
            self._look_again()

    def ask(self, what: str, call: Call) -> Any:
        """Return what the server that has a key answers, or raise Unavailable."""
        name, command, whole = call
        end, before = monotonic() + _REDIRECTING, tuple[Command, ...]()
        if (server := self.of(name)).outage.is_down:
            self.refresh()
            server = self.of(name)
        for _ in range(_REDIRECTS):
            if monotonic() > end:
                raise Unavailable(f"Redis at {server.address}: no time is left to ask it, after others")
            *_, answer = server.send(what, *before, command)
            if not isinstance(answer, errors.RedisError):
                return answer
            if isinstance(answer, errors.NoScriptError) and command is not whole:
                command = whole
            elif isinstance(answer, errors.AskError) and not self._only:
                server = self._at(answer.host, answer.port, server)
                if isinstance(answer, errors.MovedError):  # an ASK to the driver, but for good, and for the whole slot
                    self._slots[answer.slot_id], before = server, ()
                else:
                    before = (("ASKING",),)
            elif isinstance(answer, errors.ClusterDownError) and not self._only:  # from one that has left, maybe
                self._look_again(server)
                asked, server, before = server, self.of(name), ()
                if server is asked:
                    break
            else:
                break
        raise server.unavailable(answer)

    def ask_all(self, server: Server, what: str, calls: Sequence[Call]) -> list[Any]:
        """Return the answers to several at once, or raise Unavailable. `server` is the one that has all their keys."""
        answers = zip(calls, server.send(what, *(command for _, command, _ in calls)), strict=True)
        return [self.ask(what, call) if isinstance(one, errors.RedisError) else one for call, one in answers]

    def close(self) -> None:
        """Close all idle connections."""
        for server in {*self._by_address.values(), *self._named}:
            server.close()

    def _look_again(self, doubted: Server | None = None) -> None:
        """Ask a server that is neither `doubted` nor known to be down, unless another thread is about it."""
        if self._looking.acquire(blocking=False):
            try:
                up = [server for server in self.all() if server is not doubted and not server.outage.is_down]
                with suppress(Unavailable, ConfigError):  # then the next request asks another one
                    self._look(secrets.choice(up or [*self.all(), *self._named]))
            finally:
                self._looking.release()

    def _look(self, server: Server) -> None:
        """Learn from a server who has which slots; those of whom it says nothing stay where they were."""
        (answer,) = server.send("who has what", ("CLUSTER", "SLOTS"))
        if isinstance(answer, errors.RedisError):
            if "cluster support disabled" in str(answer):
                raise ConfigError(
                    f"Redis at {server.address} is in no cluster: name one server, and set cluster to False"
                )
            raise server.unavailable(answer)
        slots = list(self._slots)
        for first, last, (host, port, *_), *_ in answer:  # the server, and then its replicas
            slots[first : last + 1] = [self._at((host or b"").decode(), port, server)] * (last + 1 - first)
        before, self._slots = self._by_address, slots
        self._by_address = {one.address: one for one in set(slots)}
        for address in before.keys() - self._by_address.keys():
            before[address].close()

    def _at(self, host: str, port: int, says: Server) -> Server:
        """Return the server at an address; without a host it is on that of the server which `says` so."""
        new = self._new(host or says.address.rpartition(":")[0], port)
        return self._by_address.setdefault(new.address, new)
