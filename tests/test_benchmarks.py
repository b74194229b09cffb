"""The measurements measure what they say: real transactions, mail that is really stored, ratios to the first row."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.contestants import HOST, Contestant, running
from benchmarks.load import SMTP_SOURCE, Load
from benchmarks.table import Measurement, Row, document, machine

PROGRAMS = ("own", *(["smtp-source"] if SMTP_SOURCE else []))


def test_a_table_compares_with_its_first_row() -> None:
    rows = (Row("theirs", 200.0, (100.0, 200.0, 300.0)), Row("ours", 500.0, (500.0,)))
    lines = Measurement("Transactions", "1/s", rows, higher_is_better=True).lines()
    assert [line.split() for line in lines[3:]] == [
        ["theirs", "200", "1.00", "100", "to", "300"],
        ["ours", "500", "2.50", "500", "to", "500"],
    ]


def test_the_document_says_which_machine_it_was() -> None:
    made = document(machine(), [])
    assert made["measurements"] == []
    assert {"date", "processor", "memory", "python", "aiosmtpd"} <= set(made["about"])


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "aiosmtpd"])
def test_every_message_that_is_sent_is_stored(tmp_path: Path, program: str, ours: bool) -> None:
    with running(Contestant("contestant", ours=ours, stores=True), tmp_path) as server:
        for kept in (False, True):
            seconds = Load(program, 4, kept).send(20, HOST, server.port, server.contestant.recipient)
            assert seconds > 0
        assert server.stored() == 40
        assert server.memory() > 1_000_000
    assert server.process.poll() is not None


def test_a_refusal_is_not_measured(tmp_path: Path) -> None:
    with (
        running(Contestant("contestant", ours=True, stores=True), tmp_path) as server,
        pytest.raises(RuntimeError, match="550"),
    ):
        Load("own", 2, kept=False).send(5, HOST, server.port, "nobody@bench.test")
