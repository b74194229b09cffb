"""A run as one JSON document.

Owns: writing it, so that whoever looks finds a whole report or none.  The shape is :mod:`conformance.report.model`'s.
"""

from __future__ import annotations

import json
from pathlib import Path

from conformance.report.model import Run
from conformance.report.whole_file import write_whole


def write(run: Run, path: Path) -> None:
    """Write ``run`` to ``path``, in place of what was there.  ``OSError`` when that cannot be done."""
    write_whole(path, json.dumps(run.to_dict(), indent=1) + "\n")
