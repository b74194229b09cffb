"""Everything that is run to look after this project; `nox -l` lists it, plain `nox` runs the tests.

Owns: which tools run with which arguments.  CI calls these sessions and nothing else, so that what passes here
passes there.
"""

from __future__ import annotations

import nox

nox.needs_version = ">=2024.4"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests"]
nox.options.error_on_missing_interpreters = False

PACKAGES = ("reference_server", "conformance", "certs")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; arguments behind -- go to pytest."""
    session.install("-e", ".[dev]")
    # uvloop is a bonus: nothing is built from source for it, and the server does without.
    session.install("--only-binary", "uvloop", "uvloop", success_codes=[0, 1, 2], silent=True)
    session.run("pytest", *(session.posargs or ("-n", "2")))


@nox.session
def lint(session: nox.Session) -> None:
    """Look for mistakes and bad style with ruff."""
    session.install("ruff>=0.6")
    session.run("ruff", "check", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of every package, strictly."""
    session.install("-e", ".[dev]")
    session.run("mypy", *session.posargs)


@nox.session
def architecture(session: nox.Session) -> None:
    """Check who imports whom, and that the house rules are kept."""
    session.install("-e", ".[dev]")
    session.run("lint-imports")
    session.run("pytest", "tests/architecture", *session.posargs)


@nox.session
def certify(session: nox.Session) -> None:
    """Certify the reference server, or the TARGET behind --, from an installed package."""
    session.install(".")
    session.run("listenspec", "certify", *session.posargs)


@nox.session
def prove(session: nox.Session) -> None:
    """Prove that every check can fail, against servers that are wrong on purpose; names or --part K/N behind --."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "tests.prove", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure transactions a second and memory an idle connection, beside aiosmtpd."""
    session.install("-e", ".[dev]")
    session.install("--only-binary", "uvloop", "uvloop", success_codes=[0, 1, 2], silent=True)
    session.run("python", "-m", "benchmarks", *session.posargs)
