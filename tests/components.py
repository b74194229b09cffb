"""Programs of the system that some tests need: how each is recognised, and how it is had.

Owns: the mark ``@needs("dovecot")``.  A test so marked is skipped where the program is missing, and says what to
install; with ``LISTENSPEC_REQUIRE_COMPONENTS=1`` in the environment, as in CI, it fails instead, so that nothing
is left out unnoticed.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

REQUIRED = os.environ.get("LISTENSPEC_REQUIRE_COMPONENTS") == "1"

#: Daemons live where an ordinary user's PATH does not look.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


@dataclass(frozen=True, slots=True)
class Component:
    """``is_there`` looks for it; ``remedy`` is what to do where it is not."""

    is_there: Callable[[], bool]
    remedy: str


def program(name: str) -> str | None:
    """The path of a program, daemons included."""
    return shutil.which(name, path=_PATH)


def _program(name: str, package: str | None = None) -> Component:
    return Component(lambda: program(name) is not None, f"apt install {package or name}")


def _dovecot() -> bool:
    return program("dovecot") is not None and all(
        os.access(f"/usr/lib/dovecot/{part}", os.X_OK) for part in ("imap", "pop3")
    )


def _postfix() -> bool:
    return program("postconf") is not None and os.access("/usr/lib/postfix/sbin/master", os.X_OK)


def _nginx_module(name: str) -> bool:
    binary = program("nginx")
    if binary is None:
        return False
    built = subprocess.run([binary, "-V"], capture_output=True, text=True, check=False).stderr
    if re.search(rf"--with-{name}(?!\S)", built):
        return True
    folder = re.search(r"--modules-path=(\S+)", built)
    return folder is not None and os.path.exists(f"{folder.group(1)}/ngx_{name}_module.so")


def _slapd() -> bool:
    return program("slapd") is not None and program("slapadd") is not None


def _swaks() -> bool:
    # Without this library of Perl's it has no TLS.
    return program("swaks") is not None and bool(glob.glob("/usr/lib/*/perl5/*/Net/SSLeay.pm"))


COMPONENTS: Mapping[str, Component] = {
    "curl": _program("curl"),
    "dovecot": Component(_dovecot, "apt install dovecot-imapd dovecot-pop3d"),
    "faketime": Component(lambda: bool(glob.glob("/usr/lib/*/faketime/libfaketime.so.1")), "apt install faketime"),
    "ldapsearch": _program("ldapsearch", "ldap-utils"),
    "mbsync": _program("mbsync", "isync"),
    "mpop": _program("mpop"),
    "msmtp": _program("msmtp"),
    "mutt": _program("mutt"),
    "nginx": _program("nginx", "nginx-light"),
    "nginx-mail": Component(lambda: _nginx_module("mail"), "apt install nginx-light libnginx-mod-mail"),
    "nginx-stream": Component(lambda: _nginx_module("stream"), "apt install nginx-light libnginx-mod-stream"),
    "openssl": _program("openssl"),
    "postfix": Component(_postfix, "apt install postfix"),
    "prlimit": _program("prlimit", "util-linux"),
    "root": Component(lambda: os.geteuid() == 0, "run the tests as root"),
    "slapd": Component(_slapd, "apt install slapd"),
    "smtp-source": _program("smtp-source", "postfix"),
    "swaks": Component(_swaks, "apt install swaks libnet-ssleay-perl"),
}


def needs(*names: str) -> pytest.MarkDecorator:
    """Mark a test that cannot do without these components; the names are those of ``COMPONENTS``."""
    for name in names:
        if name not in COMPONENTS:
            raise LookupError(f"no component is called {name}; there are {', '.join(COMPONENTS)}")
    return pytest.mark.needs(*names)


def missing(names: tuple[str, ...]) -> str | None:
    """Why a test cannot run that needs these; None when it can."""
    for name in names:
        component = COMPONENTS[name]
        if not component.is_there():
            return f"needs {name} ({component.remedy})"
    return None
