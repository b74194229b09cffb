"""What a person reads: in any width, without colours, and whatever a peer may have sent."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from conformance.report.live import EVERY, LiveProgress
from conformance.report.model import Run, TargetName, Verdict
from conformance.report.terminal import explain, summary
from tests.report_samples import NASTY, broken, result, run, said, sound


def read(sample: Run, verbose: int = 0, *, width: int = 80, terminal: bool = False) -> str:
    """The summary of ``sample`` as it comes out."""
    console = Console(
        width=width,
        file=io.StringIO(),
        force_terminal=terminal,
        highlight=False,
        color_system="standard" if terminal else None,
    )
    summary(sample, verbose, console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def last_paragraph(text: str) -> str:
    """The closing words, as one line."""
    return " ".join(text.rstrip().rsplit("\n\n", 1)[1].split())


# -- the summary ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_but_a_command_is_wider_than_the_window(width: int) -> None:
    lines = read(broken(), 1, width=width).splitlines()
    assert [line for line in lines if len(line) > width and "listenspec certify" not in line] == []


def test_a_command_is_never_folded_so_that_it_can_be_copied() -> None:
    assert "  repeat    listenspec certify dovecot --only LIM-11/imap/implicit\n" in read(broken(), width=40)


def test_the_table_counts_for_each_service_and_family() -> None:
    table = read(broken()).split("\n\n")[1]
    lines = table.splitlines()
    assert lines[0].split() == ["service", "family", "pass", "fail", "latitude", "not", "examined", "unsettled"]
    assert lines[5].split() == ["LIM", "simultaneous", "connections", "2", "2", "1", "1", "-"]
    assert lines[-1].split() == ["all", "5", "2", "2", "3", "2"]


def test_a_column_for_what_was_not_settled_appears_only_when_there_is_some() -> None:
    assert "unsettled" not in read(sound())


def test_services_and_families_come_in_their_usual_order() -> None:
    ids = ("LIM-01/admin/-", "PRT-01/ldap/-", "LIM-01/smtp/-", "PRT-01/smtp/-")
    table = read(run(*(result(id_) for id_ in ids))).split("\n\n")[1]
    assert re.findall(r"^(\w*) +([A-Z]{3}) ", table, re.MULTILINE) == [
        ("smtp", "PRT"), ("", "LIM"), ("ldap", "PRT"), ("admin", "LIM"),
    ]  # fmt: skip


def test_a_failure_comes_with_everything_that_is_needed_to_believe_it() -> None:
    shown = read(broken(), width=120)
    failure = shown[shown.index("FAIL  LIM-11/imap/implicit  (MUST)") :].split("\n\n")[0]
    assert failure.splitlines()[1:3] == [
        "  Plain and implicit TLS connections of a service count against one limit.",
        "  expected  at most 3 sessions served at once over ports 20143 (plain) and 20993 (implicit TLS)",
    ]
    assert "  actual    4 were: 3 through the plain port" in failure
    assert "  transcript, its last 12 of 14 entries\n     0.030 #3      -- connected\n" in failure
    assert "     0.082 #8  TLS C: a1 NOOP\\r\\n\n     0.083 #8  TLS S: a1 OK NOOP completed.\\r\\n\n" in failure
    assert "     0.102 #1      S: b1 OK NOOP completed.\\r\\n\n" in failure
    assert failure.endswith("  repeat    listenspec certify dovecot --only LIM-11/imap/implicit")


def test_a_must_that_failed_comes_before_a_should_that_failed() -> None:
    shown = read(broken())
    assert shown.index("FAIL  LIM-11/imap/implicit  (MUST)") < shown.index("FAIL  LIM-25/imap/plain  (SHOULD)")


def test_latitude_is_counted_and_told_one_by_one_when_asked_for() -> None:
    assert "2 latitude: declined in a way that is allowed (-v lists them)\n" in read(broken())
    assert "\n  LIM-21/imap/-: a held session took 1.4 s to answer\n" in read(broken(), 1)


def test_what_was_not_examined_is_grouped_by_its_reason() -> None:
    assert "  pop3 does not offer max_connections\n    LIM-02, LIM-11\n" in read(broken())
    assert "  pop3 does not offer max_connections\n    LIM-02/pop3/plain, LIM-11/pop3/plain\n" in read(broken(), 1)


def test_a_reason_that_many_share_is_told_once() -> None:
    many = run(*(result(f"LIM-{n:02}/imap/plain", Verdict.ERROR, reason="the driver died") for n in range(1, 21)))
    assert read(many).count("the driver died") == 1
    assert "LIM-08/imap/plain (MUST), and 12 more (-v names them)" in " ".join(read(many).split())
    assert "LIM-20/imap/plain (MUST)" in read(many, 1)


def test_what_could_not_be_settled_comes_with_what_to_do() -> None:
    shown = read(broken())
    assert "Run these again, on a\nquieter machine:\n  the observer itself was 1.2 s late" in shown
    assert "    repeat  listenspec certify dovecot --only IDL-01/imap/plain\n" in shown
    assert "1 error. The driver or the suite broke; this says nothing about the server:\n" in shown


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (
            sound(),
            "CONFORMANT after 9.8 s: every MUST that was examined holds. 3 requirements examined: 4 pass.",
        ),
        (
            run(result("LIM-01/imap/-"), result("LIM-27/imap/-", Verdict.FAIL, level="SHOULD")),
            "CONFORMANT after 9.8 s: every MUST that was examined holds; 1 lesser requirement failed. "
            "2 requirements examined: 1 pass, 1 fail.",
        ),
        (
            broken(),
            "NOT CONFORMANT after 9.8 s: 1 MUST requirement broken. 7 requirements examined: "
            "5 pass, 2 fail, 2 latitude, 1 inconclusive, 1 error, 3 not examined.",
        ),
        (run(), "INCOMPLETE after 9.8 s: nothing was examined."),
        (run(troubles=("it broke",)), "INCOMPLETE after 9.8 s: the run went wrong, see above."),
        (
            run(result("LIM-21/imap/-", level="SHOULD")),
            "INCOMPLETE after 9.8 s: no MUST was examined. 1 requirement examined: 1 pass.",
        ),
        (
            run(result("LIM-01/imap/-", Verdict.INCONCLUSIVE, reason="busy")),
            "INCOMPLETE after 9.8 s: 1 MUST result could not be settled. 0 requirements examined: 1 inconclusive.",
        ),
    ],
)
def test_the_last_words_are_the_verdict(sample: Run, words: str) -> None:
    assert last_paragraph(read(sample)) == words


def test_what_went_wrong_besides_is_told() -> None:
    assert "\nWhat went wrong besides:\n- the driver\n  lied\n" in read(run(troubles=("the driver\nlied",)))


def hostile() -> Run:
    """A run in which every text that could come from outside is hostile."""
    nasty = result(
        f"LIM-01/{NASTY}/{NASTY}", Verdict.FAIL, expected=NASTY, actual=NASTY, reason=NASTY, check=NASTY,
        transcript=(said(1, 1, NASTY, NASTY),),
    )  # fmt: skip
    others = [result(f"LIM-02/{NASTY}/-", verdict, reason=NASTY) for verdict in Verdict if verdict is not Verdict.FAIL]
    return run(nasty, *others, target=TargetName(NASTY, NASTY, NASTY), troubles=(NASTY,))


def test_no_byte_of_a_peer_reaches_the_terminal_unescaped() -> None:
    shown = read(hostile(), 1)
    assert all(character.isprintable() for character in shown.replace("\n", ""))


def test_markup_in_what_a_peer_sent_is_shown_and_not_obeyed() -> None:
    found = result("LIM-01/imap/plain", Verdict.FAIL, actual="[bold red]x[/] [link=http://a]y[/link] :smile:")
    assert "[bold red]x[/] [link=http://a]y[/link] :smile:" in read(run(found), terminal=True)


def test_without_colours_not_one_escape_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[" in read(broken(), terminal=True)
    assert "\x1b" not in read(broken())
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(width=80, file=io.StringIO(), force_terminal=True, highlight=False)
    summary(broken(), console=console)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", console.file.getvalue())  # type: ignore[attr-defined]


def test_an_explanation_is_plain_text() -> None:
    failed = next(found for found in broken().results if found.id == "LIM-11/imap/implicit")
    told = explain(failed)
    assert told.splitlines()[0] == "FAIL  LIM-11/imap/implicit  (MUST)"
    assert "\x1b" not in told
    unsettled = explain(result("IDL-01/imap/plain", Verdict.INCONCLUSIVE, reason="late"))
    assert "  reason    late\n" in unsettled


# -- progress ------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that stands until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_without_a_terminal_there_are_a_few_plain_lines(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    console = Console(width=80, file=io.StringIO(), force_terminal=term == "dumb", no_color=True, highlight=False)
    clock = Clock()
    with LiveProgress(console, clock) as progress:
        progress.started("Dovecot 2.3.19", 400)
        for number in range(100):
            clock.now += EVERY / 40
            progress.result(result(f"LIM-01/imap/{number}"))
        progress.waiting("idle observations")
        progress.result(result("LIM-02/imap/-", Verdict.NOT_OFFERED, reason="no limit"))
        progress.result(result("LIM-11/imap/implicit", Verdict.FAIL, expected="3", actual="4 " + NASTY + "x" * 400))
        progress.finished(sound())
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[:3] == [
        "examining Dovecot 2.3.19: 400 results to come",
        "40 of 400 after 5 s  40 pass",
        "80 of 400 after 10 s  80 pass",
    ]
    assert len(lines) == 4
    assert lines[3].startswith("fail LIM-11/imap/implicit: 4 \\x1b[2J\\x00")
    assert lines[3].endswith("xxx ...")
    assert lines[3].isprintable()


def test_on_a_terminal_two_lines_live_and_leave_only_what_failed() -> None:
    file = io.StringIO()
    console = Console(width=120, file=file, force_terminal=True, no_color=True, highlight=False)
    with LiveProgress(console) as progress:
        progress.started("Dovecot " + NASTY, 2)
        progress.result(result("LIM-01/imap/plain"))
        progress.result(result("LIM-11/imap/implicit", Verdict.FAIL, actual="4"))
        progress.finished(sound())
    written = file.getvalue()
    shown = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", written)
    assert "fail LIM-11/imap/implicit: 4\n" in shown
    assert "2 of 2 after 0 s  1 pass  1 fail" in shown
    assert written.endswith("\x1b[?25h\r\x1b[1A\x1b[2K\x1b[1A\x1b[2K"), "both lines are gone and the cursor shows"
    assert "\x1b[2J" not in written


def test_a_reason_of_many_lines_is_told_by_its_first(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveProgress(Console(stderr=True, highlight=False)) as progress:
        progress.started("Dovecot", 1)
        progress.result(result("LIM-01/imap/plain", Verdict.ERROR, reason="the driver died\nTraceback"))
    assert capsys.readouterr().err.splitlines()[1] == "error LIM-01/imap/plain: the driver died"


def test_a_run_that_never_began_can_be_closed() -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=True)
    progress = LiveProgress(console)
    progress.close()
    progress.close()
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
