"""The server as a program: ``python -m reference_server CONFIG``.

Owns: the command line, signals (SIGHUP reads the file again; SIGTERM and SIGINT stop), and what is told on the way:
log lines for people, JSON lines for a driver.  Knows nothing of what the server does.

Exit status: 0 when it was stopped, 2 when it could not start, with the reason.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from reference_server.configuration import Configuration
from reference_server.idle import PATIENCE
from reference_server.server import Parts, Server, StartError
from reference_server.settings import ServerSettings, SettingsError

log = logging.getLogger("reference_server")

#: Descriptors that are needed beside one for each connection: listeners, mail that is being written, the loop's own.
SPARE = 32
#: And so many more are good to have: for clients that are refused or have taken leave, and are still listened to.
COMFORT = 1024


def main(
    arguments: Sequence[str] | None = None,
    parts: Parts | None = None,
    change: Callable[[ServerSettings], ServerSettings] = lambda settings: settings,
) -> int:
    """Run the program; its exit status.

    ``parts`` and ``change`` (of the settings that were read) are for servers that are wrong on purpose.
    """
    parser = argparse.ArgumentParser(prog="python -m reference_server", description="Run the reference mail server.")
    parser.add_argument("config", type=Path, help="settings, TOML or JSON")
    parser.add_argument("--events", action="store_true", help="tell a driver what happens, in JSON lines on stdout")
    parser.add_argument("--exit-with-stdin", action="store_true", help="stop when standard input ends")
    parser.add_argument("--no-uvloop", action="store_true", help="do not use uvloop where it is installed")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    options = parser.parse_args(arguments)
    level = logging.DEBUG if options.verbose else logging.WARNING if options.events else logging.INFO
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    configuration = (parts or Parts()).configuration(options.config, change)
    try:
        run(
            configuration.load(),
            parts=parts,
            configuration=configuration,
            tell=_tell if options.events else None,
            with_stdin=options.exit_with_stdin,
            uvloop=not options.no_uvloop,
        )
    except (SettingsError, StartError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def run(
    settings: ServerSettings,
    *,
    parts: Parts | None = None,
    configuration: Configuration | None = None,
    tell: Callable[..., None] | None = None,
    started: Callable[[Server], None] | None = None,
    with_stdin: bool = False,
    uvloop: bool = True,
) -> None:
    """Run a server until it is told to stop.  Raises :class:`StartError`.

    ``configuration`` is read again at a SIGHUP, and can be changed by Remote Admin; ``tell`` is called with the events
    of the contract, ``started`` once with the server when it listens.
    """
    with asyncio.Runner(loop_factory=_loop_factory() if uvloop else None) as runner:
        server = Server(settings, parts, configuration)
        reread = None if configuration is None else configuration.load
        runner.run(_serve(server, reread, tell, started, with_stdin))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(
    server: Server,
    reread: Callable[[], ServerSettings] | None,
    tell: Callable[..., None] | None,
    started: Callable[[Server], None] | None,
    with_stdin: bool,
) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    reloading = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if reread is not None:
        loop.add_signal_handler(signal.SIGHUP, reloading.set)
    await server.start()
    _allow_descriptors(server.settings)
    # What was made up to here stays, and need not be looked at for rubbish again and again.
    gc.freeze()
    gc.enable()
    for engine in server.engines.values():
        log.info("%s listens on %s", engine.name, ", ".join(str(door) for door in engine.listeners))
    if tell is not None:
        timers = {
            service: {"trickle": PATIENCE * timeout}
            for service in server.engines
            if (timeout := server.settings.services[service].idle_timeout) is not None
        }
        tell("ready", pids=[os.getpid()], timers=timers)
    if started is not None:
        started(server)
    if with_stdin:
        threading.Thread(target=_await_end_of_stdin, args=(loop, stopping), daemon=True).start()
    reloader = loop.create_task(_reload_when_asked(server, reloading, reread, tell))
    await stopping.wait()
    reloader.cancel()
    await server.stop()
    if server.bugs:
        log.error("%d exceptions that should never have happened are logged above", server.bugs)


async def _reload_when_asked(
    server: Server,
    asked: asyncio.Event,
    reread: Callable[[], ServerSettings] | None,
    tell: Callable[..., None] | None,
) -> None:
    while reread is not None:
        await asked.wait()
        asked.clear()
        problem: str | None = None
        try:
            await server.reload(reread())
            _allow_descriptors(server.settings)
        except (SettingsError, StartError) as error:
            problem = str(error)
            log.error("the new settings were refused, the old ones stay:\n%s", problem)
        except Exception as error:
            # A mistake of ours must not cost the server its ears for the next SIGHUP.
            problem = f"{type(error).__name__}: {error}"
            log.exception("the reload broke")
        else:
            log.info("the new settings are in force")
        if tell is not None:
            tell("reloaded", **({} if problem is None else {"error": problem}))


def _allow_descriptors(settings: ServerSettings) -> None:
    """See to it that all the connections that are configured can be open at once, where the system lets us."""
    connections = sum(table.max_connections for table in settings.services.values() if table.enabled)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or connections + SPARE <= soft:
        return
    wanted = connections + COMFORT
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < connections + SPARE:
        log.warning("%d connections are configured, but only %d open files are allowed here", connections, allowed)


def _await_end_of_stdin(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    # A thread, because standard input may be a file, which no selector takes.
    with suppress(OSError):
        while os.read(0, 4096):
            continue
    if not loop.is_closed():
        loop.call_soon_threadsafe(stopping.set)


def _tell(event: str, **details: Any) -> None:
    # A driver that has gone needs to be told nothing, and that is no reason to stop serving.
    with suppress(OSError):
        print(json.dumps({"event": event, **details}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
