"""Whose process it is that serves an address of this machine, as Linux tells it in /proc."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

from services import account

# Nothing else is stopped. An editor that forwards a port, or a systemd that starts a server when somebody asks, listens
# in its place: with its children it would take this site along, and whoever was to let it go on.
_SERVERS = {"memcached", "postgres", "pgbouncer", "redis-server", "valkey-server"}
_LISTENING = "0A"  # the state of a socket in /proc/net/tcp


class NotOurs(RuntimeError):
    """There is no server at the address that the laboratory may stop; the message says why."""


def servers_at(address: str) -> list[int]:
    """The ids of the processes that serve an address of this machine.

    Args:
        address: host:port.

    Raises:
        NotOurs: it is on another machine; nobody listens there; it is not of the account as which `make services`
            starts its servers: another one may have other users; or it is some other program.
    """
    try:
        host, _, port = address.rpartition(":")
        found = {info[4][0] for info in socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)}
    except (OSError, ValueError) as error:
        raise NotOurs(f"{address} is no address that can be looked up.") from error
    addresses = {ipaddress.ip_address(text) for text in found}
    if not all(one.is_loopback for one in addresses):
        raise NotOurs(f"The server at {address} is on another machine.")
    pids = _holders({inode for one in addresses for inode in _sockets(one, int(port))})
    if not pids:
        raise NotOurs(f"No server at {address} belongs to the account of this site.")
    import pwd  # POSIX only

    ours = pwd.getpwnam(str(account()["user"])).pw_uid if account() else os.geteuid()
    if any(Path(f"/proc/{pid}").stat().st_uid != ours for pid in pids):
        raise NotOurs(f"The server at {address} was not started by make services: it belongs to another account.")
    if others := {_program(pid) for pid in pids} - _SERVERS:
        raise NotOurs(f"{min(others)} listens at {address}, and is none of the servers that make services starts.")
    return sorted(pids)


def _sockets(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> set[str]:
    """The inodes of the sockets that listen on an address, or on all."""
    table = Path("/proc/net/tcp6" if address.version == 6 else "/proc/net/tcp")
    wanted = {f"{_as_in_proc(one.packed)}:{port:04X}" for one in (address, type(address)(0))}
    try:
        lines = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError as error:
        raise NotOurs("This system does not tell which process a server is; Linux does, in /proc.") from error
    return {f"socket:[{line[9]}]" for line in lines if line[1] in wanted and line[3] == _LISTENING}


def _as_in_proc(packed: bytes) -> str:
    """An address as /proc writes it: words of 32 bits in this machine's order of bytes."""
    words = [packed[i : i + 4] for i in range(0, len(packed), 4)]
    return "".join((word[::-1] if sys.byteorder == "little" else word).hex() for word in words).upper()


def _holders(sockets: set[str]) -> set[int]:
    """The processes that have one of the sockets open, among those that may be looked into."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):  # somebody else's, or it has ended
            if any(_target(entry) in sockets for entry in folder.iterdir()):
                found.add(int(folder.parent.name))
    return found


def _program(pid: int) -> str:
    """The name of the program that a process runs."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _target(entry: Path) -> str:
    try:
        return os.readlink(entry)
    except FileNotFoundError:  # closed meanwhile
        return ""
