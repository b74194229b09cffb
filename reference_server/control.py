"""What whoever administers a running server can see and change, from any thread.

Owns: the way from a worker thread into the event loop and back: who is connected, cutting somebody off, and taking on
other settings by the same path as a reload.  Knows no page, no protocol and no form.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from reference_server.address_range import IPAddress
from reference_server.configuration import Configuration
from reference_server.session import Channel
from reference_server.settings import ServerSettings, Service

if TYPE_CHECKING:
    from reference_server.server import Server

T = TypeVar("T")

#: How long the event loop may take to answer (seconds).
WITHIN: Final = 15.0


@dataclass(frozen=True, slots=True)
class Guest:
    """Somebody who is connected.  ``age`` and ``idle`` in seconds; ``idle`` is None while the server is at work."""

    service: Service
    address: IPAddress
    port: int
    local_port: int
    channel: Channel
    age: float
    idle: float | None


class ReadOnly(Exception):
    """There is no settings file that could be changed."""


def _anything(_: ServerSettings) -> None:
    """Whatever the server can run with may be."""


class Control:
    """A running server as seen from its administration."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop, configuration: Configuration | None) -> None:
        self._server = server
        self._loop = loop
        self._configuration = configuration
        self._changing = threading.Lock()

    @property
    def settings(self) -> ServerSettings:
        """What is in force."""
        return self._server.settings

    @property
    def folder(self) -> Path:
        """The folder of the settings file.  Raises :class:`ReadOnly`."""
        return self._file().folder

    @property
    def file(self) -> Path:
        """The settings file.  Raises :class:`ReadOnly`."""
        return self._file().file

    def document(self) -> dict[str, Any]:
        """The settings as they are written in the file.  Raises :class:`ReadOnly`, OSError, ``ValueError``."""
        return self._file().document()

    def guests(self) -> list[Guest]:
        """All who are connected, those who came first first."""
        return self._on_loop(self._guests)

    def counts(self) -> dict[Service, int]:
        """How many are connected to each service that runs."""
        engines = self._server.engines
        return self._on_loop(lambda: {service: engine.admission.count for service, engine in engines.items()})

    def cut(self, service: Service, address: IPAddress, port: int) -> bool:
        """End somebody's connection: whether there was one."""
        return self._on_loop(lambda: self._cut(service, address, port))

    def apply(
        self, change: Callable[[dict[str, Any]], Mapping[str, Any]], check: Callable[[ServerSettings], None] = _anything
    ) -> None:
        """Have the file changed and the server take it on: both, or neither.

        ``change`` is given the document and gives back another one; ``check`` may raise what it likes about what that
        one means.  Raises SettingsError and StartError with nothing changed; :class:`ReadOnly`; OSError and
        ``ValueError`` when the file cannot be written.
        """
        with self._changing:
            file = self._file()
            draft = file.draft(change(file.document()))
            check(draft.settings)
            former = self._server.settings
            self._reload(draft.settings)
            try:
                file.put(draft)
            except OSError:
                self._reload(former)
                raise

    # -- on the event loop -------------------------------------------------------------------------------------------

    def _guests(self) -> list[Guest]:
        found = []
        for service, engine in self._server.engines.items():
            now = engine.now()
            for connection in engine.connections:
                heard = engine.clock.heard_at(connection)
                found.append(
                    Guest(
                        service,
                        connection.peer.address,
                        connection.peer.port,
                        connection.peer.local_port,
                        connection.channel,
                        now - connection.since,
                        None if heard is None else now - heard,
                    )
                )
        return sorted(found, key=lambda guest: -guest.age)

    def _cut(self, service: Service, address: IPAddress, port: int) -> bool:
        engine = self._server.engines.get(service)
        chosen = [
            each
            for each in (engine.connections if engine is not None else ())
            if each.peer.address == address and each.peer.port == port
        ]
        for connection in chosen:
            connection.cut()
        return bool(chosen)

    def _on_loop(self, ask: Callable[[], T]) -> T:
        async def answer() -> T:
            return ask()

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result(WITHIN)

    def _reload(self, settings: ServerSettings) -> None:
        reload = asyncio.run_coroutine_threadsafe(self._server.reload(settings), self._loop)
        try:
            reload.result(WITHIN)
        except TimeoutError:
            reload.cancel()  # what was not taken on in time is not taken on behind everybody's back either
            raise

    def _file(self) -> Configuration:
        if self._configuration is None:
            raise ReadOnly("this server was started without a settings file")
        return self._configuration
