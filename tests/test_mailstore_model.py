"""A mailbox beside a model that is a dictionary, through restarts and through another program's interference."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from reference_server.mailstore import Mailbox, MessageGone
from tests.stores import store_of

FLAGS = ("\\Seen", "\\Answered", "\\Flagged", "\\Deleted", "\\Draft", "$Junk", "work")
flag_sets = st.sets(st.sampled_from(FLAGS)).map(frozenset)
texts = st.binary(max_size=40).map(lambda text: text.replace(b"\r", b"").replace(b"\n", b"\r\n"))


class TwoMailboxes(RuleBasedStateMachine):
    """INBOX and Other; the model knows text and flags by UID, and every UID that was ever given."""

    uids = Bundle("uids")

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.store, self.alice = store_of(self.root)
        self.store.create(self.alice, "Other")
        self.model: dict[str, dict[int, tuple[bytes, frozenset[str]]]] = {"INBOX": {}, "Other": {}}
        self.highest = {"INBOX": 0, "Other": 0}
        self.validity = {name: self.box(name).uid_validity for name in self.model}

    def teardown(self) -> None:
        if hasattr(self, "root"):
            shutil.rmtree(self.root)

    def box(self, name: str) -> Mailbox:
        return self.store.mailbox(self.alice, name)

    def folder(self, name: str) -> Path:
        return self.root / "alice" / ("" if name == "INBOX" else f".{name}")

    def a_tick_later(self, name: str, part: str) -> None:
        """Another program's change is not in the same tick of the clock as one of ours."""
        path = self.folder(name) / part
        stamp = path.stat().st_mtime_ns + 20_000_000
        os.utime(path, ns=(stamp, stamp))

    def arrived(self, name: str, uid: int, text: bytes, flags: frozenset[str]) -> tuple[str, int]:
        assert uid > self.highest[name]
        self.highest[name] = uid
        self.model[name][uid] = (text, flags)
        return name, uid

    def newest(self, name: str) -> int:
        return self.box(name).messages()[-1].uid

    @rule(target=uids, text=texts)
    def delivered(self, text: bytes) -> tuple[str, int]:
        self.store.deliver([self.alice], text)
        return self.arrived("INBOX", self.newest("INBOX"), text, frozenset())

    @rule(target=uids, name=st.sampled_from(["INBOX", "Other"]), text=texts, number=st.uuids())
    def delivered_by_another_program(self, name: str, text: bytes, number: object) -> tuple[str, int]:
        (self.folder(name) / "new" / f"1700000000.{number}.host").write_bytes(text.replace(b"\r\n", b"\n"))
        self.a_tick_later(name, "new")
        return self.arrived(name, self.newest(name), text, frozenset())

    @rule(target=uids, name=st.sampled_from(["INBOX", "Other"]), text=texts, flags=flag_sets)
    def appended(self, name: str, text: bytes, flags: frozenset[str]) -> tuple[str, int]:
        return self.arrived(name, self.box(name).append(text, sorted(flags)), text, flags)

    @rule(message=uids, add=flag_sets, remove=flag_sets)
    def flagged(self, message: tuple[str, int], add: frozenset[str], remove: frozenset[str]) -> None:
        name, uid = message
        if uid not in self.model[name]:
            try:
                self.box(name).store_flags(uid, add=sorted(add))
            except MessageGone:
                return
            raise AssertionError("a message that is gone was changed")
        text, flags = self.model[name][uid]
        flags = (flags - remove) | add
        assert self.box(name).store_flags(uid, add=sorted(add), remove=sorted(remove)).flags == flags
        self.model[name][uid] = (text, flags)

    @rule(
        target=uids,
        messages=st.lists(uids, max_size=4),
        source=st.sampled_from(["INBOX", "Other"]),
        destination=st.sampled_from(["INBOX", "Other"]),
        move=st.booleans(),
    )
    def copied(self, messages: list[tuple[str, int]], source: str, destination: str, move: bool) -> object:
        wanted = sorted({uid for name, uid in messages if name == source and uid in self.model[source]})
        use = self.box(source).move if move else self.box(source).copy
        pairs = use(wanted, self.box(destination))
        assert [old for old, _ in pairs] == wanted
        found = [self.arrived(destination, new, *self.model[source][old]) for old, new in pairs]
        if move:
            for uid in wanted:
                del self.model[source][uid]
        return multiple(*found)

    @rule(messages=st.lists(consumes(uids), max_size=3))
    def removed(self, messages: list[tuple[str, int]]) -> None:
        for name in self.model:
            gone = [uid for where, uid in messages if where == name]
            self.box(name).remove(gone)
            for uid in gone:
                self.model[name].pop(uid, None)

    @rule(message=uids)
    def removed_by_another_program(self, message: tuple[str, int]) -> None:
        name, uid = message
        if uid in self.model[name]:
            order = sorted(self.model[name])
            # It knows nothing of UIDs: flag the message so that it can be told by its name.
            self.box(name).store_flags(uid, replace=["\\Draft", "\\Answered", "\\Deleted", "\\Flagged", "\\Seen"])
            marked = [other for other in order if other != uid and self.model[name][other][1] >= set(FLAGS[:5])]
            if not marked:
                [path] = (self.folder(name) / "cur").glob("*:2,DFRST")
                path.unlink()
                self.a_tick_later(name, "cur")
                del self.model[name][uid]
            else:
                self.box(name).store_flags(uid, replace=sorted(self.model[name][uid][1]))

    @rule(name=st.sampled_from(["INBOX", "Other"]))
    def claimed(self, name: str) -> None:
        self.box(name).messages(claim_recent=True)
        assert not any(message.recent for message in self.box(name).messages())

    @rule()
    def restarted(self) -> None:
        self.store, self.alice = store_of(self.root)

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        for name, model in self.model.items():
            box = self.box(name)
            assert box.uid_validity == self.validity[name]
            assert box.uid_next() > self.highest[name]
            found = box.messages()
            assert [message.uid for message in found] == sorted(model)
            for message in found:
                text, flags = model[message.uid]
                assert (box.read(message.uid), message.size, message.flags) == (text, len(text), flags)


TwoMailboxes.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestTwoMailboxes = TwoMailboxes.TestCase
