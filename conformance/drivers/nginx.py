"""The driver of nginx: webmail and administration as private static sites behind a password.

Owns: what this nginx is declared to have.  ``nginx_conf`` knows how settings are written, ``nginx_instance`` how nginx
is run, ``program`` how a driver talks.  What was measured, and why it is declared in this way, stands in
docs/targets/nginx.md.

    python -m conformance.drivers.nginx describe | run SCENARIO.json
"""

from __future__ import annotations

import sys
from typing import Any

from conformance import procfs
from conformance.drivers import nginx_conf, nginx_instance
from conformance.drivers.asked import Asked, JsonObject
from conformance.drivers.program import main

_INSTALL = "nginx-light libnginx-mod-stream"


def _describe() -> dict[str, Any]:
    offers = [
        "bind",
        "ports",
        "idle_timeout",
        "implicit_tls",
        "certificate",
        "require_tls_for_login",
        "reload",
    ]
    notes = ["It has no upgrade to TLS in place (RFC 2817)."]
    if nginx_instance.version() and nginx_instance.module("stream") is None:
        notes.append("Limits and restrictions need its stream module: apt install libnginx-mod-stream")
    else:
        offers += ["max_connections", "max_connections_per_ip", "restrictions"]
        notes.append("Connections are counted and chosen by its stream module, in front of its HTTP server.")
    service = {
        "offers": offers,
        "limit": {"scope": "service", "surplus": "close", "recovery": 1},
        "per_ip": {"stage": "connect", "scope": "service"},
        "tls": {"versions": ["1.2", "1.3"]},
        "ipv6": procfs.has_ipv6(),
        "restrictions": {"stage": "accept"},
        "timers": {
            "before_login": {"reset_by": "commands"},
            "handshake": {"reset_by": "nothing"},
            "after_login": {"reset_by": "commands"},
            "trickle": {"reset_by": "nothing"},
        },
        "idle_timeout_min": 0.1,
        "idle_timeout_step": 0.001,
        "defaults": {"idle_timeout": 75},
        "login": {"by": "name", "path": nginx_conf.LOGIN_PATH, "scheme": "basic"},
        "notes": notes,
    }
    return {
        "format": 1,
        "name": "nginx",
        "version": nginx_instance.version(),
        "services": dict.fromkeys(nginx_conf.SERVICES, service),
    }


class Nginx:
    """One private instance."""

    def __init__(self) -> None:
        self._description: dict[str, Any] | None = None
        self._instance = nginx_instance.Instance()
        self._place: nginx_conf.Place | None = None

    def describe(self) -> JsonObject:
        """What is declared of nginx; the version is empty where it is not installed."""
        if self._description is None:
            self._description = _describe()
        return self._description

    def start(self, asked: Asked) -> JsonObject:
        """Write both sites, start nginx and wait until every listener is open."""
        binary = nginx_instance.installed(_INSTALL)
        self._place = nginx_conf.Place(
            folder=asked.data.resolve() / ".nginx",
            stream=nginx_instance.module("stream"),
            user=nginx_instance.worker_user(),
        )
        files = nginx_conf.files(asked, self._place)
        return {"pids": self._instance.start(binary, self._place.folder, asked, files)}

    def reload(self, asked: Asked) -> None:
        """Have nginx read its files again, if it finds nothing wrong with them."""
        assert self._place is not None
        self._instance.reload(asked, nginx_conf.files(asked, self._place))

    def death(self) -> str | None:
        """How the master process ended by itself."""
        return self._instance.death()

    def stop(self) -> None:
        """End nginx and its clients."""
        self._instance.stop()


if __name__ == "__main__":
    sys.exit(main(Nginx(), sys.argv[1:]))
