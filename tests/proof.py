"""What a proof is: the results of a suite that was run against one server of the ledger, and what they are worth.

Owns: what counts as caught, as precise and as unproved, and the matrix in ``docs/ledger.md``.  Starts no process:
:mod:`tests.prove` runs the suites.

Caught: each requirement that the fault breaks was seen to fail (or, where it is no MUST, to be declined), and the
defect made a difference meanwhile; what is in WebMail, too, was seen there as well.  Precise: no other MUST failed but
the declared consequences.  A decoy fails nothing, and what it tempts was judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conformance import requirements
from conformance.check import Check
from reference_server.faults.ledger import Fault

#: Requirements that need not be tripped where nothing of them can be judged, and what a machine may lack for it.
#: Where something is judged, they are no different from others.
EXEMPT: Mapping[str, str] = {
    "PRT-08": "where localhost has one address only, there is no name that must be bound at two",
}

#: Clients speak first there, and sessions are what cookies make them: that a check fails in mail proves nothing here.
HTTP = "webmail"

Result = Mapping[str, Any]
_JUDGED = ("pass", "fail", "latitude")


@dataclass
class Proof:
    """What came out for one fault."""

    fault: Fault
    results: list[dict[str, Any]] = field(default_factory=list)
    hits: int = 0
    troubles: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def failed(self, requirement: str) -> list[Result]:
        """The results that show it broken."""
        row = requirements.load()[requirement]
        return [
            result
            for result in self._of(requirement)
            if result["verdict"] == "fail"
            or (result["verdict"] == "latitude" and row.level_for(result["service"]) != "MUST")
        ]

    def tripped(self) -> set[str]:
        """The checks that found it out, by name."""
        return {result["check"] for id_ in self.fault.breaks for result in self.failed(id_)}

    def allows(self, requirement: str) -> bool:
        """Whether it may fail."""
        declared = {*self.fault.breaks, *self.fault.consequences}
        return requirement in declared or requirement.partition("-")[0] in declared

    def complaints(self) -> list[str]:
        """What is wrong with the proof."""
        told = [f"trouble: {trouble}" for trouble in self.troubles]
        told += [f"{id_} was not caught{self._instead(id_)}" for id_ in self._missed()]
        told += [f"{id_} was not caught in {HTTP}" for id_ in self._overlooked()]
        if not self.hits:
            told.append("the defect was never met")
        if self.fault.is_decoy:
            told += [f"nothing of {id_} was judged{self._instead(id_)}" for id_ in self._untempted()]
        for result in self.results:
            if result["verdict"] == "error":
                told.append(f"{result['id']}: error: {result.get('reason', '')[-300:]}")
            elif result["verdict"] == "fail" and (
                self.fault.is_decoy or (result["level"] == "MUST" and not self.allows(result["requirement"]))
            ):
                told.append(f"{result['id']} failed as well: {result.get('actual', '')[:160]}")
        return told

    @property
    def deserves_another_try(self) -> bool:
        """Whether all that is wrong with it is that the suite could not tell: that may be the machine's fault.

        A verdict is never asked for twice.
        """
        unclear = {result["requirement"] for result in self.results if result["verdict"] == "inconclusive"}
        missed = self._missed() + self._untempted()
        wrong = len(self.complaints()) - (not self.hits)
        return (
            bool(missed) and wrong == len(missed) and all(any(row.startswith(id_) for row in unclear) for id_ in missed)
        )

    def _of(self, requirement: str) -> list[dict[str, Any]]:
        """Its results where the defect is; ``requirement`` may be a family."""
        return [
            result
            for result in self.results
            if requirement in (result["requirement"], result["requirement"].partition("-")[0])
            and result["service"] in self.fault.services
        ]

    def judged(self, requirement: str) -> bool:
        """Whether anything was said of it, for or against."""
        return any(result["verdict"] in _JUDGED for result in self._of(requirement))

    def _missed(self) -> list[str]:
        return [
            id_
            for id_ in self.fault.breaks
            if not self.failed(id_) and (id_ not in EXEMPT or self.judged(id_) or not self._not_assessable(id_))
        ]

    def _overlooked(self) -> list[str]:
        """Those that were seen elsewhere only, although all that was to be said of them in HTTP has been said."""
        if HTTP not in self.fault.services:
            return []
        seen = {id_: [result for result in self._of(id_) if result["service"] == HTTP] for id_ in self.fault.breaks}
        return [
            id_
            for id_, results in seen.items()
            if any(result["verdict"] in _JUDGED for result in results)
            and all(result["verdict"] != "inconclusive" for result in results)
            and self.failed(id_)
            and not any(result in results for result in self.failed(id_))
        ]

    def _not_assessable(self, requirement: str) -> bool:
        return {result["verdict"] for result in self._of(requirement)} == {"not_assessable"}

    def _untempted(self) -> list[str]:
        if not self.fault.is_decoy:
            return []
        return [id_ for id_ in self.fault.consequences if not self.judged(id_)]

    def _instead(self, requirement: str) -> str:
        """What the results were, and why, as far as they say."""
        found = self._of(requirement)
        if not found:
            return ": there is no such result"
        verdicts = ", ".join(sorted({result["verdict"] for result in found}))
        reason = next((result["reason"] for result in found if result.get("reason")), "")
        return f" ({verdicts}{': ' if reason else ''}{reason[:160]})"


def unproved(proofs: Iterable[Proof], every: Mapping[str, Check]) -> list[str]:
    """The checks that no fault trips, and exemptions from that which nobody needs; a line each."""
    proofs = list(proofs)
    tripped = {name for proof in proofs for name in proof.tripped()}
    judged = {result["requirement"] for proof in proofs for result in proof.results if result["verdict"] in _JUDGED}
    excused = EXEMPT.keys() - judged
    checks = {check.name: check.requirement for check in every.values()}
    told = [
        f"no fault trips {requirement} ({name})"
        for name, requirement in checks.items()
        if name not in tripped and requirement not in excused
    ]
    return sorted(told + [f"{id_} is exempt and has no check" for id_ in EXEMPT.keys() - set(checks.values())])


def ledger(proofs: Sequence[Proof]) -> str:
    """The matrix, as Markdown."""
    lines = [
        "# The ledger of faults",
        "",
        "Written by `nox -s prove`. Each line is a server that is wrong in one way; the suite must find out. Run one",
        "by hand with `listenspec serve --fault NAME`, and certify it with",
        "`listenspec certify --driver 'python -m conformance.drivers.reference --fault NAME'`.",
        "",
        "| fault | what it does | caught by (results that failed) | fails with it |",
        "| --- | --- | --- | --- |",
    ]
    faults = [proof for proof in proofs if not proof.fault.is_decoy]
    for proof in faults:
        caught = ", ".join(f"{id_} ({len(proof.failed(id_))})" for id_ in proof.fault.breaks)
        others = sorted({r["requirement"] for r in proof.results if r["verdict"] == "fail"} - set(proof.fault.breaks))
        lines.append(f"| {proof.fault.name} | {proof.fault.description} | {caught} | {', '.join(others) or '-'} |")
    decoys = [proof for proof in proofs if proof.fault.is_decoy]
    if decoys:
        lines += [
            "",
            "## Decoys",
            "",
            "Legal oddities. Not one of their results may be a failure.",
            "",
            "| decoy | what it does | tempts |",
            "| --- | --- | --- |",
        ]
        lines += [
            f"| {proof.fault.name} | {proof.fault.description} | {', '.join(proof.fault.consequences)} |"
            for proof in decoys
        ]
    by_requirement: dict[str, list[str]] = defaultdict(list)
    for proof in faults:
        for id_ in proof.fault.breaks:
            if proof.failed(id_):
                by_requirement[id_].append(proof.fault.name)
    lines += ["", "## By requirement", "", "| requirement | tripped by |", "| --- | --- |"]
    lines += [f"| {id_} | {', '.join(names)} |" for id_, names in sorted(by_requirement.items())]
    lines += [
        f"| {id_} | nothing here: {reason} |" for id_, reason in sorted(EXEMPT.items()) if id_ not in by_requirement
    ]
    lines += ["", f"{len(faults)} faults, {len(decoys)} decoys.", ""]
    return "\n".join(lines)
