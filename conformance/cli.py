"""The command ``listenspec``: what can be typed, and which part of the program answers.

Owns: the commands, their options, and the exit statuses for what a user got wrong.  Deliberately decides nothing else:
every command is one call into the module that knows.  Those modules are imported when they are needed, so that
``--help`` and a misspelt name are answered at once.
"""

from __future__ import annotations

import argparse
import difflib
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NoReturn

from conformance.requirements import FAMILIES, SERVICES, load

#: A command that was not understood, or a file that cannot be used.
USAGE: Final = 2
#: Nothing could be examined.
INCOMPLETE: Final = 3
#: What a shell reports of a program that SIGINT or SIGPIPE ended.
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

SCHEMAS: Final = ("settings", "scenario", "api", "describe", "events", "report")
CHANNELS: Final = ("plain", "explicit", "implicit", "-")

_STATUSES: Final = "Exit status: 0 conformant, 1 not conformant, 2 the command was not understood, 3 incomplete."


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; the exit status (contract: 0 conformant, 1 not, 2 usage, 3 incomplete)."""
    try:
        options = _parser().parse_args(arguments)
        status: int = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("listenspec: interrupted", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        return _cannot_write(error)
    return status


def _cannot_write(error: OSError) -> int:
    """Nobody reads any more, or the disk is full."""
    try:
        sys.stdout.flush()
    except OSError:
        # What is still buffered must not be complained about a second time when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE if isinstance(error, BrokenPipeError) else _complain(error, USAGE)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and where help is."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="listenspec",
        description="Does this mail server really listen the way it is configured?",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    certify = _command(commands, "certify", _certify, "examine a mail server and say whether it conforms", _STATUSES)
    certify.add_argument(
        "target",
        nargs="?",
        metavar="TARGET",
        help="what to examine: reference (the default), dovecot, postfix, slapd, nginx",
    )
    certify.add_argument(
        "--driver", type=_driver, metavar="'CMD ARGS'", help="examine another server, through a driver of your own"
    )
    for option, read, metavar, values in (
        ("--service", _service, "NAME", ", ".join(SERVICES)),
        ("--family", _family, "LIM", ", ".join(FAMILIES)),
        ("--only", _result_id, "RESULT-ID", "a result, such as LIM-11/imap/implicit"),
    ):
        words = f"only this, and it may be given again: {values}"
        certify.add_argument(option, action="append", default=[], type=read, metavar=metavar, help=words)
    certify.add_argument("--events", type=Path, metavar="FILE", help="write each result as it comes (JSON Lines)")
    _report_options(certify)

    serve = _command(commands, "serve", _serve, "run the reference server")
    serve.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG", help="its settings (TOML or JSON); without them, a demo"
    )
    serve.add_argument(
        "--offset", type=int, default=1000, metavar="N", help="what the demo adds to the usual ports (default: 1000)"
    )
    serve.add_argument("--fault", metavar="NAME", help="one thing that the server is to do wrong")
    _command(commands, "faults", _faults, "list what a server may be told to do wrong")

    listing = _command(commands, "requirements", _requirements, "list what is required, or all about one requirement")
    listing.add_argument("name", nargs="?", type=_requirement_or_family, metavar="ID|FAMILY", help="LIM-11, or LIM")

    schema = _command(commands, "schema", _schema, "print the JSON Schema of a document")
    schema.add_argument("name", type=_schema_name, metavar="NAME", help=", ".join(SCHEMAS))

    report = _command(commands, "report", _report, "show a finished run again, from what --events wrote")
    report.add_argument("events", type=Path, metavar="EVENTS")
    _report_options(report)
    return parser


def _command(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    description = f"{summary[0].upper()}{summary[1:]}."
    command = commands.add_parser(name, help=summary, description=description, epilog=epilog, allow_abbrev=False)
    command.set_defaults(run=run)
    return command


def _report_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", type=Path, metavar="FILE", help="write the whole report as JSON")
    command.add_argument("--junit", type=Path, metavar="FILE", help="write it as JUnit XML")
    command.add_argument("-v", "--verbose", action="count", default=0, help="name every result that did not just pass")


class _Version(argparse.Action):
    """Asks for the version only when somebody wants to know."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from conformance.report.model import suite_version

        print(f"listenspec {suite_version()}")
        parser.exit()


# -- names -----------------------------------------------------------------------------------------------------------


def _known(kind: str, name: str, names: Iterable[str]) -> str:
    """``name``, if it is one of ``names``; else an error that offers the nearest."""
    known = list(names)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    raise argparse.ArgumentTypeError(f"there is no {kind} {name!r}; {hint}")


def _service(name: str) -> str:
    return _known("service", name.lower(), SERVICES)


def _family(name: str) -> str:
    return _known("family", name.upper(), FAMILIES)


def _schema_name(name: str) -> str:
    return _known("schema", name.lower(), SCHEMAS)


def _requirement_or_family(name: str) -> str:
    name = name.upper()
    if name in FAMILIES:
        return name
    return _known("requirement", name, load()) if "-" in name else _family(name)


def _result_id(written: str) -> str:
    parts = written.split("/")
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"{written!r} is not a result id, which is like LIM-11/imap/implicit")
    requirement, service, channel = parts
    requirement = _known("requirement", requirement.upper(), load())
    service = _known("service", service.lower(), SERVICES)
    if not load()[requirement].applies_to(service):
        raise argparse.ArgumentTypeError(f"{requirement} is not about {service}")
    return f"{requirement}/{service}/{_known('channel', channel.lower(), CHANNELS)}"


def _driver(command: str) -> str:
    try:
        program = shlex.split(command)[:1]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{command!r}: {error}") from None
    if not program or shutil.which(program[0]) is None:
        raise argparse.ArgumentTypeError(f"{command!r} does not begin with a program that can be run")
    return command


# -- commands --------------------------------------------------------------------------------------------------------


def _certify(options: argparse.Namespace) -> int:
    from conformance.driver_process import DriverError
    from conformance.plugin import certify
    from conformance.suite import UsageError

    try:
        return certify(
            target=options.target,
            driver=options.driver,
            services=options.service,
            families=options.family,
            only=options.only,
            json_file=options.json,
            junit_file=options.junit,
            events_file=options.events,
            verbose=options.verbose,
        )
    except BrokenPipeError:
        raise
    except (UsageError, OSError) as error:
        return _complain(error, USAGE)
    except DriverError as error:
        return _complain(error, INCOMPLETE)


def _serve(options: argparse.Namespace) -> int:
    from conformance.serve import serve

    return serve(options.config, offset=options.offset, fault=options.fault)


def _faults(_: argparse.Namespace) -> int:
    from conformance.serve import list_faults

    list_faults()
    return 0


def _requirements(options: argparse.Namespace) -> int:
    from conformance import listing

    listing.show(options.name)
    return 0


def _schema(options: argparse.Namespace) -> int:
    import json

    from conformance import contract
    from conformance.report import schema as report
    from reference_server import settings

    match options.name:
        case "settings" | "scenario" | "api" as name:
            schema = settings.json_schema(name)
        case "describe" | "events" as name:
            schema = contract.json_schema(name)
        case _:
            schema = report.json_schema()
    print(json.dumps(schema, indent=2))
    return 0


def _report(options: argparse.Namespace) -> int:
    from conformance.report import json_report, junit
    from conformance.report.events import read_events
    from conformance.report.model import ReportError
    from conformance.report.terminal import summary

    try:
        run = read_events(options.events).in_order()
        if options.json is not None:
            json_report.write(run, options.json)
        if options.junit is not None:
            junit.write(run, options.junit)
    except (ReportError, OSError) as error:
        return _complain(error, USAGE)
    summary(run, options.verbose)
    return run.exit_status


def _complain(error: Exception, status: int) -> int:
    what = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    print(f"listenspec: {what}", file=sys.stderr)
    return status
