"""aiosmtpd as a program of its own: ``python -m benchmarks.aiosmtpd_server PORT [--mailbox FOLDER] [--uvloop]``.

Owns: nothing but the start.  It runs in the main thread, which is kinder to it than its own Controller, and with the
handlers that come with it: Sink, which keeps nothing, and Mailbox, which writes Maildir and does not sync.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import warnings
from collections.abc import Callable
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from aiosmtpd.handlers import Mailbox, Sink
    from aiosmtpd.smtp import SMTP


async def serve(port: int, handler: Any) -> None:
    """Until SIGTERM."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    server = await loop.create_server(lambda: SMTP(handler, hostname="bench.test"), "127.0.0.1", port, backlog=1024)
    print("ready", flush=True)
    await stopping.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--mailbox")
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if options.uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    handler = Mailbox(options.mailbox) if options.mailbox else Sink()
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(options.port, handler))


if __name__ == "__main__":
    main()
