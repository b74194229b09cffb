"""The proof that every check can fail: the suite against each server of the ledger that is wrong on purpose.

Owns: which checks are run against which fault, running them, and which faults are proved when not all are.  What a
proof is worth is :mod:`tests.proof`'s, how servers and suites are had quickly :mod:`conformance.drivers.warm`'s.

    python -m tests.prove                       all; docs/ledger.md is written, and a check without a fault complains
    python -m tests.prove NAME ...              these
    python -m tests.prove --changed-since REV --part commits/8 --seconds 150
                                                those that changes since then concern, and every eighth fault, others
                                                with every commit; none is begun that may not be through after 150 s

The exit status is 1 when something was not proved.
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
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from _pytest.config import default_plugins

from conformance.check import Check, all_checks
from conformance.drivers import OF_SERVERS, reference
from conformance.drivers.warm import Warm
from conformance.suite import Selection, Suite
from conformance.watches import WATCHES
from reference_server.faults.ledger import FAULTS, HITS, Fault
from tests.proof import Proof, ledger, unproved

ROOT = Path(__file__).parent.parent
LEDGER = ROOT / "docs" / "ledger.md"
#: Most of a proof is waiting for time-outs and for what does not come.
AT_ONCE = 3 * (os.cpu_count() or 1)
#: Results beside those concerned: so many for which no other server has to be started, and so many under one more
#: scenario.  The same ones for a fault each time, others for another.
SAMPLE, FAR_SAMPLE = 12, 6
WITHIN = 240.0
#: Seconds that a proof may take when time is short; those that take longer are begun first otherwise.
USUALLY = 25.0
SLOW: Mapping[str, float] = {
    "leaves-surplus-clients-waiting": 120.0,
    "flood-blocks-everybody": 100.0,
    "greets-late": 90.0,
    "forgets-who-waits": 45.0,
    "leaks-on-goodbye": 40.0,
}
#: Close to what is allowed: proved with no other proof beside them.
QUIETLY = frozenset({"ends-idle-clients-late"})

Every = Mapping[str, Check]


def every_result() -> dict[str, Check]:
    """All result ids of the reference server with their checks."""
    suite = Suite.create("reference", None, Selection())
    try:
        return {case.id: check for check in all_checks() for case in suite.cases(check)}
    finally:
        suite.close()


def _scenarios(check: Check) -> set[str]:
    return {check.scenario, *check.scenarios, *(WATCHES[name].scenario for name in check.watches)}


def chosen(fault: Fault, every: Every) -> list[str]:
    """Every result of the requirements that the fault breaks, and a sample of the others.

    A decoy is tempted by what its description names, in ``consequences``.
    """
    concerned = {*fault.breaks} or {*fault.consequences}
    wanted = [
        id_
        for id_, check in every.items()
        if id_.split("/")[1] in fault.services
        and (check.requirement in concerned or (fault.is_decoy and check.requirement.partition("-")[0] in concerned))
    ]
    described = fault.describe(reference.describe())["services"]
    every = {id_: check for id_, check in every.items() if id_.split("/")[1] in described}
    draw = random.Random(fault.name)
    started = {"general"}.union(*(_scenarios(every[id_]) for id_ in wanted))
    near = [id_ for id_ in every if id_ not in wanted and _scenarios(every[id_]) <= started]
    far = [id_ for id_ in every if not _scenarios(every[id_]) <= started]
    if far:
        started |= _scenarios(every[draw.choice(far)])
        far = [id_ for id_ in far if _scenarios(every[id_]) <= started]
    return wanted + draw.sample(near, min(SAMPLE, len(near))) + draw.sample(far, min(FAR_SAMPLE, len(far)))


def warm_process() -> Warm:
    """From which servers and whole examinations are forked."""
    suite = ("conformance.cli", "conformance.plugin", "conformance.certification", "conformance.clients")
    checks = (f"conformance.checks.{check.name.partition('.')[0]}" for check in all_checks())
    faults = (fault.build.__module__ for fault in FAULTS.values())
    pytests = (f"_pytest.{plugin}" for plugin in default_plugins)
    return Warm(dict.fromkeys([*OF_SERVERS, *suite, *pytests, *checks, *faults]))


def prove(fault: Fault, every: Every, warm: Warm) -> Proof:
    """Run the suite against one fault."""
    proof, began = Proof(fault), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="listenspec-proof-") as folder:
        report, hits, output = Path(folder) / "report.json", Path(folder) / "hits", Path(folder) / "output"
        driver = shlex.join(warm.command("conformance.drivers.reference", "--fault", fault.name))
        words = ["conformance.cli", "certify", "--driver", driver, "--json", str(report)]
        words += [f"--only={id_}" for id_ in chosen(fault, every)]
        with output.open("wb") as told:
            status = warm.run(words, {**os.environ, HITS: str(hits)}, told.fileno(), WITHIN)
        if status is None:
            proof.troubles.append(f"the run did not end within {WITHIN:g} s")
        elif not report.exists():
            proof.troubles.append(output.read_text().strip()[-400:] or f"no report, exit status {status}")
        else:
            document = json.loads(report.read_text())
            proof.results = document["results"]
            proof.troubles += document.get("troubles", [])
        proof.hits = hits.stat().st_size if hits.exists() else 0
    proof.seconds = time.monotonic() - began
    return proof


# -- which faults ----------------------------------------------------------------------------------------------------


def concerned_by(paths: Iterable[str], every: Every) -> list[str]:
    """The faults that a change of these files concerns, as far as that can be told from their names.

    A module of faults concerns its faults, a module of checks the faults that its checks are to find; the ledger
    itself and the proof concern all.
    """
    modules = {Path(path).stem for path in paths if path.startswith("reference_server/faults/")}
    checks = {Path(path).name for path in paths if path.startswith("conformance/checks/test_")}
    everybody = modules & {"ledger", "__init__", "__main__"} or {"tests/proof.py", "conformance/drivers/warm.py"} & set(
        paths
    )
    rows = {check.requirement for check in every.values() if check.name.partition("::")[0] in checks}
    tempted = rows | {row.partition("-")[0] for row in rows}
    return [
        name
        for name, fault in FAULTS.items()
        if everybody
        or fault.build.__module__.rpartition(".")[2] in modules
        or rows & set(fault.breaks)
        or (fault.is_decoy and tempted & set(fault.consequences))
    ]


def _changed_since(revision: str) -> list[str]:
    command = ["git", "-C", str(ROOT), "diff", "--name-only", revision, "--"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def part(names: Sequence[str], which: str) -> list[str]:
    """Every N-th of ``names`` for ``"K/N"``, beginning with the K-th; ``"commits/N"`` begins with another each time."""
    first, _, step = which.partition("/")
    number = commits() if first == "commits" else int(first)
    return list(names[number % int(step) :: int(step)])


def in_turn(names: Sequence[str], number: int) -> list[str]:
    """Beginning with another each time, so that those for which there is no time are not always the same."""
    start = (number * 7) % len(names) if names else 0
    return [*names[start:], *names[:start]]


def commits() -> int:
    """How many commits there are up to now."""
    command = ["git", "-C", str(ROOT), "rev-list", "--count", "HEAD"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


# -- the run ---------------------------------------------------------------------------------------------------------


def _say(proof: Proof) -> None:
    complaints = proof.complaints()
    word = "NOT PROVED" if complaints else "ok"
    print(f"{word:10} {proof.fault.name} ({proof.hits} hits, {proof.seconds:.0f} s)", flush=True)
    for complaint in complaints:
        print(f"           {complaint}", flush=True)


def prove_all(names: Sequence[str], every: Every, seconds: float | None) -> tuple[list[Proof], list[str]]:
    """The proofs of ``names``, told as they come, and those for which there was no time."""
    began, left_out = time.monotonic(), []

    def attempt(name: str) -> Proof | None:
        if seconds is not None and time.monotonic() - began + SLOW.get(name, USUALLY) > seconds:
            left_out.append(name)
            return None
        return prove(FAULTS[name], every, warm)

    proofs: list[Proof] = []
    unclear: list[Proof] = []
    with warm_process() as warm:
        others = [name for name in names if name not in QUIETLY]
        for workers, batch in ((1, [name for name in names if name in QUIETLY]), (AT_ONCE, others)):
            with ThreadPoolExecutor(workers) as pool:
                for proof in pool.map(attempt, batch):
                    if proof is not None:
                        (unclear if proof.deserves_another_try else proofs).append(proof)
                        _say(proof)
        for proof in unclear:
            proofs.append(prove(proof.fault, every, warm))
            print("once more:")
            _say(proofs[-1])
    return sorted(proofs, key=lambda proof: proof.fault.name), left_out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the proof; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove", description="Prove that every check can fail.")
    parser.add_argument("names", nargs="*", help="faults (default: all)")
    parser.add_argument("--changed-since", metavar="REV", help="faults that changes since this git revision concern")
    parser.add_argument("--part", metavar="K/N", help="every N-th fault, from the K-th; commits/N takes turns")
    parser.add_argument("--seconds", type=float, help="begin no proof that may end later than this")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in FAULTS]
    if unknown:
        parser.error(f"there is no fault {', '.join(unknown)}")
    began = time.monotonic()
    every = every_result()
    names = list(options.names)
    if options.changed_since:
        names += in_turn(concerned_by(_changed_since(options.changed_since), every), commits())
    if options.part:
        names += part(list(FAULTS), options.part)
    whole = not (options.names or options.changed_since or options.part)
    if whole:
        names = sorted(FAULTS, key=lambda name: -SLOW.get(name, 0.0))
    proofs, left_out = prove_all(list(dict.fromkeys(names)), every, options.seconds)
    bad = sum(bool(proof.complaints()) for proof in proofs)
    if left_out:
        print(f"no time for {', '.join(left_out)}")
    elif whole:
        LEDGER.write_text(ledger(proofs))
        missing = unproved(proofs, every)
        bad += bool(missing)
        print(*missing, sep="\n")
    print(f"{len(proofs)} servers in {time.monotonic() - began:.0f} s")
    print(f"{len(proofs) - bad} passed, {bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
