"""A run as JUnit XML, which continuous integration services read.

Owns: how verdicts are told in a vocabulary that has only failure, error and skipped.  The dialect is the one that the
Jenkins xUnit plugin checks: a suite has name, tests, failures, errors, skipped, time, timestamp and hostname; a case
has name, classname and time, then at most one verdict, then what was printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from conformance.report.model import FAMILIES, Result, Run, Verdict, printable
from conformance.report.whole_file import write_whole


def write(run: Run, path: Path) -> None:
    """Write ``run`` to ``path``, in place of what was there.  ``OSError`` when that cannot be done."""
    write_whole(path, document(run))


def document(run: Run) -> str:
    """``run`` as XML: a suite a family, a case a result; troubles of the run as errors of a suite of their own."""
    root = ET.Element("testsuites", {"name": f"listenspec {_clean(str(run.target))}", "time": _seconds(run.duration)})
    results = {family: [result for result in run.results if result.family == family] for family in _families(run)}
    for family, found in results.items():
        suite = _suite(root, run, f"{family} {FAMILIES.get(family, '')}".strip(), found)
        for result in found:
            _case(suite, result)
    if run.troubles:
        suite = _suite(root, run, "run", (), troubles=len(run.troubles))
        for number, trouble in enumerate(run.troubles, 1):
            case = ET.SubElement(suite, "testcase", {"name": f"trouble {number}", "classname": "run", "time": "0.000"})
            _verdict(case, "error", trouble, "trouble")
    total = {key: sum(int(suite.get(key, "0")) for suite in root) for key in ("tests", "failures", "errors")}
    root.attrib.update({key: str(count) for key, count in total.items()})
    ET.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _families(run: Run) -> list[str]:
    seen = dict.fromkeys(result.family for result in run.results)
    return [*(family for family in FAMILIES if family in seen), *(family for family in seen if family not in FAMILIES)]


def _suite(root: ET.Element, run: Run, name: str, results: Sequence[Result], *, troubles: int = 0) -> ET.Element:
    verdicts = [result.verdict for result in results]
    attributes = {
        "name": _clean(name),
        "tests": len(results) + troubles,
        "failures": verdicts.count(Verdict.FAIL),
        "errors": sum(verdict.unsettled for verdict in verdicts) + troubles,
        "skipped": sum(not verdict.examined and not verdict.unsettled for verdict in verdicts),
        "time": _seconds(sum(result.duration for result in results)),
        # The schema's dateTime has no zone and no fraction of a second.
        "timestamp": _clean(run.started)[:19],
        "hostname": "localhost",
    }
    return ET.SubElement(root, "testsuite", {key: str(value) for key, value in attributes.items()})


def _case(suite: ET.Element, result: Result) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        {"name": _clean(result.id), "classname": _clean(result.check), "time": _seconds(result.duration)},
    )
    match result.verdict:
        case Verdict.PASS:
            pass
        case Verdict.LATITUDE:
            ET.SubElement(case, "system-out").text = _clean(f"latitude: {result.reason}")
        case Verdict.FAIL:
            message = f"expected {result.expected}; saw {result.actual}"
            _verdict(case, "failure", message, result.level, _evidence(result))
        case Verdict.NOT_OFFERED | Verdict.NOT_ASSESSABLE:
            ET.SubElement(case, "skipped", {"message": _clean(f"{result.verdict}: {result.reason}")})
        case Verdict.INCONCLUSIVE | Verdict.ERROR:
            _verdict(case, "error", result.reason, result.verdict, _evidence(result))


def _verdict(case: ET.Element, tag: str, message: str, kind: str, details: str = "") -> None:
    element = ET.SubElement(case, tag, {"message": _clean(message), "type": _clean(kind)})
    element.text = _clean(details) or None


def _evidence(result: Result) -> str:
    """What somebody needs who reads the failure in a browser, far from the machine that it happened on."""
    lines = [f"{result.level} {result.requirement}: {result.text}"]
    lines += [
        f"{event.at:9.4f} #{event.connection} {event.source}{' (TLS)' if event.tls else ''}: {event.data}"
        for event in result.transcript
    ]
    if result.repro:
        lines.append(f"repeat: {result.repro}")
    return "\n".join(lines)


def _clean(text: str) -> str:
    """XML 1.0 2.2 cannot have every character; none that is printable is among those that it cannot have."""
    return "\n".join(map(printable, text.split("\n")))


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"
