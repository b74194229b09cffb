"""The proof that every check can fail: the suite against each server of the ledger that is wrong on purpose.

Owns: which checks are run against which fault, what counts as caught, and the matrix in ``docs/ledger.md``.

    python -m tests.prove [NAME ...]      these faults; without names all of them, and the matrix is written

Caught means: each requirement that the fault breaks was seen to fail (or, where it is no MUST, to be declined), and
the defect made a difference while that was seen.  Precise means: no other MUST failed but the declared consequences.
A decoy fails nothing.  The exit status is 1 when one of this does not hold, or when a check has no fault that trips it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conformance import requirements
from conformance.check import Check, all_checks
from conformance.suite import Selection, Suite
from reference_server.faults.ledger import FAULTS, HITS, Fault

LEDGER = Path(__file__).parent.parent / "docs" / "ledger.md"
AT_ONCE = 3
#: Results beside those concerned, the same ones for a fault each time.
SAMPLE = 24
WITHIN = 180.0


@dataclass
class Proof:
    """What came out for one fault."""

    fault: Fault
    results: list[dict[str, Any]] = field(default_factory=list)
    hits: int = 0
    troubles: list[str] = field(default_factory=list)

    def failed(self, requirement: str) -> list[dict[str, Any]]:
        """The results that show it broken."""
        row = requirements.load()[requirement]
        return [
            result
            for result in self.results
            if result["requirement"] == requirement
            and result["service"] in self.fault.services
            and (
                result["verdict"] == "fail"
                or (result["verdict"] == "latitude" and row.level_for(result["service"]) != "MUST")
            )
        ]

    def allows(self, requirement: str) -> bool:
        """Whether it may fail."""
        declared = {*self.fault.breaks, *self.fault.consequences}
        return requirement in declared or requirement.partition("-")[0] in declared

    def complaints(self) -> list[str]:
        """What is wrong with the proof."""
        told = [f"trouble: {trouble}" for trouble in self.troubles]
        told += [f"{id_} was not caught" for id_ in self.fault.breaks if not self.failed(id_)]
        if not self.hits:
            told.append("the defect was never met")
        for result in self.results:
            if result["verdict"] == "error":
                told.append(f"{result['id']}: error: {result.get('reason', '')[:200]}")
            elif result["verdict"] == "fail" and (
                self.fault.is_decoy or (result["level"] == "MUST" and not self.allows(result["requirement"]))
            ):
                told.append(f"{result['id']} failed as well: {result.get('actual', '')[:160]}")
        return told


def every_result(fault: Fault | None = None) -> dict[str, Check]:
    """All result ids of the reference server with their checks."""
    suite = Suite.create("reference", None, Selection())
    try:
        return {case.id: check for check in all_checks() for case in suite.cases(check)}
    finally:
        suite.close()


def chosen(fault: Fault, every: dict[str, Check]) -> list[str]:
    """Every result of the requirements that the fault breaks, and a sample of the others.

    A decoy is tempted by what its description names, in ``consequences``.
    """
    concerned = set(fault.breaks) or set(fault.consequences)
    wanted = [
        id_
        for id_, check in every.items()
        if id_.split("/")[1] in fault.services
        and (check.requirement in concerned or (fault.is_decoy and check.requirement.partition("-")[0] in concerned))
    ]
    others = [id_ for id_ in every if id_ not in wanted]
    return wanted + random.Random(fault.name).sample(others, min(SAMPLE, len(others)))


def prove(fault: Fault, every: dict[str, Check]) -> Proof:
    """Run the suite against one fault."""
    proof = Proof(fault)
    with tempfile.TemporaryDirectory() as folder:
        report, hits = Path(folder) / "report.json", Path(folder) / "hits"
        driver = shlex.join([sys.executable, "-P", "-m", "conformance.drivers.reference", "--fault", fault.name])
        command = [sys.executable, "-m", "conformance", "certify", "--driver", driver, "--json", str(report)]
        command += [f"--only={id_}" for id_ in chosen(fault, every)]
        environment = {**os.environ, HITS: str(hits)}
        try:
            ended = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=WITHIN, check=False
            )
        except subprocess.TimeoutExpired:
            proof.troubles.append(f"the run did not end within {WITHIN:g} s")
            return proof
        if not report.exists():
            proof.troubles.append(ended.stderr.strip()[-400:] or f"no report, exit status {ended.returncode}")
            return proof
        document = json.loads(report.read_text())
        proof.results = document["results"]
        proof.troubles += document.get("troubles", [])
        proof.hits = hits.stat().st_size if hits.exists() else 0
    return proof


def unproved(proofs: Iterable[Proof], every: dict[str, Check]) -> list[str]:
    """Requirements with a check that no fault trips."""
    tripped = {id_ for proof in proofs for id_ in proof.fault.breaks if proof.failed(id_)}
    return sorted({check.requirement for check in every.values()} - tripped)


def ledger(proofs: Sequence[Proof], seconds: float) -> str:
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
    for proof in proofs:
        if proof.fault.is_decoy:
            continue
        caught = ", ".join(f"{id_} ({len(proof.failed(id_))})" for id_ in proof.fault.breaks)
        others = sorted({r["requirement"] for r in proof.results if r["verdict"] == "fail"} - set(proof.fault.breaks))
        lines.append(f"| {proof.fault.name} | {proof.fault.description} | {caught} | {', '.join(others) or '-'} |")
    decoys = [proof for proof in proofs if proof.fault.is_decoy]
    if decoys:
        lines += ["", "Legal oddities, of which none may be taken for a fault:", ""]
        lines += [f"- {proof.fault.name}: {proof.fault.description}" for proof in decoys]
    by_requirement: dict[str, list[str]] = defaultdict(list)
    for proof in proofs:
        for id_ in proof.fault.breaks:
            if proof.failed(id_):
                by_requirement[id_].append(proof.fault.name)
    lines += ["", "| requirement | tripped by |", "| --- | --- |"]
    lines += [f"| {id_} | {', '.join(names)} |" for id_, names in sorted(by_requirement.items())]
    lines += ["", f"{len(proofs)} servers.", ""]
    del seconds
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the proof; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove", description="Prove that every check can fail.")
    parser.add_argument("names", nargs="*", help="faults (default: all)")
    parser.add_argument("--part", help="K/N: only every N-th fault, beginning with the K-th", metavar="K/N")
    options = parser.parse_args(arguments)
    names = options.names or list(FAULTS)
    if options.part:
        first, _, step = options.part.partition("/")
        names = names[int(first) % int(step) :: int(step)]
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        parser.error(f"there is no fault {', '.join(unknown)}")
    began = time.monotonic()
    every = every_result()
    proofs: list[Proof] = []
    bad = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for proof in pool.map(lambda name: prove(FAULTS[name], every), names):
            proofs.append(proof)
            complaints = proof.complaints()
            bad += bool(complaints)
            print(f"{'NOT PROVED' if complaints else 'ok':10} {proof.fault.name} ({proof.hits} hits)", flush=True)
            for complaint in complaints:
                print(f"           {complaint}", flush=True)
    seconds = time.monotonic() - began
    if not options.names and not options.part:
        LEDGER.write_text(ledger(proofs, seconds))
        missing = unproved(proofs, every)
        if missing:
            bad += 1
            print(f"no fault trips the checks of {', '.join(missing)}")
    print(f"{len(proofs) - bad} passed, {bad} failed")
    print(f"{seconds:.0f} s", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
