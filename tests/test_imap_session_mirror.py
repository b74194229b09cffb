"""Several IMAP clients in one mailbox: what each was told must fit together at all times, and in the end be true."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from reference_server.mailstore import MailStore
from tests.imap_sessions import ALICE, Talk, stores_below

FLAGS = ("\\Seen", "\\Deleted", "\\Flagged", "$Later")
SILENT_ABOUT_REMOVALS = ("FETCH", "STORE", "SEARCH")
_NEWS = re.compile(r"\* (?:([0-9]+) (EXISTS|EXPUNGE|FETCH)(?: \((.*)\))?|.*)")


class Mirror:
    """A client that believes what it is told: UIDs and flags by number, None for what it has not asked about yet."""

    def __init__(self, store: MailStore) -> None:
        self.uids: list[int | None] = []
        self.flags: list[set[str] | None] = []
        self.talk = Talk(store, "NOOP")
        self.do("SELECT INBOX")

    def do(self, command: str) -> None:
        *news, end = self.talk.say(command)
        assert end.startswith("t "), end
        assert not end.startswith("t BAD"), end
        whole = re.sub(r"\{1\}\n.", "", "\n".join(news))  # the one octet that is ever fetched
        for line in whole.splitlines():
            self.hear(line, command.split(maxsplit=1)[0])
        if ".SILENT" in command:
            self.flags = [None] * len(self.flags)

    def hear(self, line: str, verb: str) -> None:
        found = _NEWS.fullmatch(line)
        assert found, line
        if found[2] is None:
            return
        number = int(found[1])
        match found[2]:
            case "EXISTS":
                # RFC 3501 7.3.1: it never shrinks but by EXPUNGE.
                assert number >= len(self.uids)
                more = number - len(self.uids)
                self.uids += [None] * more
                self.flags += [None] * more
            case "EXPUNGE":
                assert verb not in SILENT_ABOUT_REMOVALS, "RFC 3501 7.4.1"
                assert 1 <= number <= len(self.uids)
                del self.uids[number - 1]
                del self.flags[number - 1]
            case "FETCH":
                assert 1 <= number <= len(self.uids)
                if uid := re.search(r"UID ([0-9]+)", found[3]):
                    assert self.uids[number - 1] in (None, int(uid[1])), "a number means another message"
                    self.uids[number - 1] = int(uid[1])
                if flags := re.search(r"FLAGS \(([^)]*)\)", found[3]):
                    self.flags[number - 1] = set(flags[1].split()) - {"\\Recent"}

    def settle(self) -> None:
        """Ask for what is not known."""
        self.do("NOOP")
        if None in self.uids or None in self.flags:
            self.do("FETCH 1:* (UID FLAGS)")


NUMBER = st.integers(1, 6)
COMMAND = st.one_of(
    st.just("NOOP"),
    st.just("EXPUNGE"),
    st.builds("STORE {}:* {}FLAGS{} ({})".format, st.just("*"), st.sampled_from(("", "+", "-")),
              st.sampled_from(("", ".SILENT")), st.sampled_from(FLAGS)),
    st.builds("UID STORE {} {}FLAGS{} ({})".format, NUMBER, st.sampled_from(("", "+", "-")),
              st.sampled_from(("", ".SILENT")), st.sampled_from(FLAGS)),
    st.builds("UID FETCH {}:* (FLAGS)".format, NUMBER),
    st.just("FETCH *:1 (UID)"),
    st.builds("FETCH * (UID FLAGS BODY{}[]<0.1>)".format, st.sampled_from(("", ".PEEK"))),
    st.builds("UID COPY {} INBOX".format, NUMBER),
    st.builds("UID MOVE {} {}".format, NUMBER, st.sampled_from(("INBOX", "other"))),
    st.builds("UID EXPUNGE {}".format, NUMBER),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), COMMAND), max_size=15))
def test_what_clients_were_told_is_the_truth(commands: list[tuple[int, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = stores_below(Path(folder))()
        store.create(ALICE, "other")
        inbox = store.mailbox(ALICE, "INBOX")
        for text in (b"a", b"b", b"c"):
            inbox.append(text)
        mirrors = [Mirror(store) for _ in range(3)]
        for who, command in commands:
            mirrors[who].do(command)
        for mirror in mirrors:
            mirror.settle()
            truth = inbox.messages()
            assert mirror.uids == [message.uid for message in truth]
            assert mirror.flags == [set(message.flags) for message in truth]
