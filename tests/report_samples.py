"""Runs as they come out of the suite, for the tests of reports."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from rich.console import Console

from conformance.report import json_report, junit
from conformance.report.model import Result, Run, TargetName, TranscriptEvent, Verdict
from conformance.report.terminal import summary

GOLDEN = Path(__file__).parent.parent / "fixtures" / "reports"

NASTY = "\x1b[2J\x00 \ud800 ]]> <&\"' \u202e \ufffe \x9b"
"""What no renderer may pass on as it is: escapes, NUL, a lone surrogate, markup, direction overrides."""

DOVECOT = TargetName("Dovecot", "2.3.19", "dovecot")


def result(
    id_: str,
    verdict: Verdict = Verdict.PASS,
    *,
    level: str = "MUST",
    expected: str = "",
    actual: str = "",
    reason: str = "",
    transcript: tuple[TranscriptEvent, ...] = (),
    check: str = "test_limits.py::test_channels_share_one_limit",
) -> Result:
    """A result with the id ``id_`` and everything that goes with its verdict."""
    requirement, service, channel = id_.split("/")
    return Result(
        id_, requirement, level, service, channel, check, verdict, expected, actual, reason,
        0.21, transcript, f"listenspec certify dovecot --only {id_}",
    )  # fmt: skip


def run(*results: Result, target: TargetName = DOVECOT, troubles: tuple[str, ...] = ()) -> Run:
    """A run of nine point eight seconds with ``results``."""
    return Run(target, "2026-11-23T06:00:00Z", 9.8, results, troubles, "0.1.0")


def said(at: float, connection: int, source: str, data: str, *, tls: bool = False) -> TranscriptEvent:
    """One entry of a transcript."""
    return TranscriptEvent(at, connection, source, data, tls)


def broken() -> Run:
    """A run with every verdict, two failures and a peer that sends what it should not."""
    dialogue = (
        *(said(0.01 * n, n, "note", "connected") for n in range(1, 8)),
        said(0.081, 8, "server", "* OK [CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ "
             "AUTH=PLAIN AUTH=LOGIN] Dovecot (Debian) ready to serve whoever comes, and wordy beyond all need about "
             "doing so, which takes more than the three lines that a reader is asked to look at.\\r\\n", tls=True),
        said(0.082, 8, "client", "a1 NOOP\\r\\n", tls=True),
        said(0.083, 8, "server", "a1 OK NOOP completed.\\r\\n", tls=True),
        said(0.09, 8, "server", "* BAD " + NASTY, tls=True),
        said(0.1, 8, "note", "closed by the server: FIN after close_notify", tls=True),
        said(0.101, 1, "client", "b1 NOOP\\r\\n"),
        said(0.102, 1, "server", "b1 OK NOOP completed.\\r\\n"),
    )  # fmt: skip
    return run(
        result("PRT-01/pop3/plain", check="test_ports.py::test_each_port_serves"),
        result("PRT-01/imap/plain", check="test_ports.py::test_each_port_serves"),
        result("PRT-01/imap/implicit", check="test_ports.py::test_each_port_serves"),
        result("LIM-01/imap/plain"),
        result("LIM-02/imap/plain"),
        result("LIM-02/pop3/plain", Verdict.NOT_OFFERED, reason="pop3 does not offer max_connections"),
        result("LIM-11/pop3/plain", Verdict.NOT_OFFERED, reason="pop3 does not offer max_connections"),
        result(
            "LIM-25/imap/plain", Verdict.FAIL, level="SHOULD",
            expected="an untagged BYE", actual="* NO go away " + NASTY,
        ),
        result(
            "LIM-11/imap/implicit",
            Verdict.FAIL,
            expected="at most 3 sessions served at once over ports 20143 (plain) and 20993 (implicit TLS)",
            actual="4 were: 3 through the plain port, then one more through the implicit TLS port, which answered NOOP",
            transcript=dialogue,
        ),
        result("LIM-17/imap/-", Verdict.NOT_ASSESSABLE, reason="this machine has no IPv6"),
        result("LIM-21/imap/-", Verdict.LATITUDE, level="SHOULD", reason="a held session took 1.4 s to answer"),
        result(
            "IDL-01/imap/plain", Verdict.INCONCLUSIVE,
            reason="the observer itself was 1.2 s late: this machine was too busy to judge",
        ),
        result(
            "IDL-15/pop3/plain", Verdict.LATITUDE, level="SHOULD",
            reason="-ERR Disconnected for inactivity.", check="test_idle.py::test_pop3_leaves_without_a_word",
        ),
        result("IDL-24/pop3/-", Verdict.ERROR, reason="the driver ended with status 1\nTraceback: " + NASTY),
    )  # fmt: skip


def sound() -> Run:
    """A run in which everything holds."""
    return run(
        result("PRT-01/smtp/plain"),
        result("LIM-01/smtp/plain"),
        result("LIM-01/smtp/implicit"),
        result("IDL-20/smtp/-", level="SHOULD"),
        target=TargetName("listenspec reference server", "0.1.0", "reference"),
    )


def golden() -> dict[str, str]:
    """Every form of both runs, by the name of its file in fixtures/reports."""
    files: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, sample in (("broken", broken()), ("sound", sound())):
            for columns, verbose in ((80, 0), (120, 1)):
                console = Console(width=columns, file=io.StringIO(), highlight=False)
                summary(sample, verbose, console)
                files[f"{name}-{columns}.txt"] = console.file.getvalue()  # type: ignore[attr-defined]
            files[f"{name}.xml"] = junit.document(sample)
            json_report.write(sample, path := Path(folder, name))
            files[f"{name}.json"] = path.read_text()
    return files


if __name__ == "__main__":
    # python -m tests.report_samples: look at the difference before it is committed.
    for file, text in golden().items():
        (GOLDEN / file).write_text(text, "utf-8")
