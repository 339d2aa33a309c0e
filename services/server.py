"""A server of one's own that is a single process: started on a loopback port, stopped, killed, paused."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from . import ServiceError, account, free_port

_SECONDS = 30  # a start takes 10 ms; only a machine under heavy load, or a defect, gets there


class Server(ABC):
    """A program on a port of 127.0.0.1, which any program of this machine may use.

    Args:
        folder: where its log goes; made if it is missing.
        port: 0 for a free one; it keeps it over a restart.
        options: more arguments of its command line.
    """

    name: ClassVar[str]
    program: ClassVar[str]
    package: ClassVar[str]  # of Debian

    def __init__(self, folder: Path, port: int = 0, options: Sequence[str] = ()) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.options = list(options)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @abstractmethod
    def arguments(self) -> list[str]:
        """The command line, without the program and `options`."""

    @abstractmethod
    def answered_by(self) -> int:
        """The process id of the server that answers at the address; 0 if none does."""

    def answers(self) -> bool:
        """Whether it is this server, and no other one, that answers at the address."""
        return self.process is not None and self.answered_by() == self.process.pid

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ServiceError: the program is missing, or the server ended or does not answer; with what it printed.
        """
        program = shutil.which(self.program, path="/usr/bin:/usr/local/bin:/opt/homebrew/bin")
        if program is None:
            raise ServiceError(f"{self.name} is missing. Install it with: sudo apt-get install {self.package}")
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / f"{self.name}.log"
        # A session is started for it, so that Ctrl-C in the terminal ends the site and not its sessions.
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [program, *self.arguments(), *self.options],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **account(),
            )  # fmt: skip
        end = time.monotonic() + _SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                said = log.read_text(errors="replace").strip()
                raise ServiceError(f"{self.name} did not start on {self.address}: {said or 'it says nothing'}")
            time.sleep(0.005)

    def ask(self, question: bytes) -> bytes:
        """Send a command, and return the beginning of the answer; nothing if there is none."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(question)
                return connection.recv(4096)
        except OSError:
            return b""

    def stop(self) -> None:
        """End it, gently, and wait for the end. Stopping a stopped one does nothing."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, signum: int) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(signum)
        process.send_signal(signal.SIGCONT)  # a paused one would never see the SIGTERM
        try:
            process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """Stop it and start it on the same port. It comes back empty, unless its options say otherwise."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections, and takes new ones, but answers nothing. All its threads have stopped when
        this returns."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """SIGCONT: it goes on."""
        self._running().send_signal(signal.SIGCONT)

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise ServiceError(f"{self.name} is not running")
        return self.process
