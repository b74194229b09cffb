"""A server with a fault as a program: ``python -m reference_server.faults NAME CONFIG``.

Owns: the command line.  Everything behind the name of the fault is as for ``python -m reference_server``;
``python -m reference_server.faults NAME --describe`` reads what a driver would say of the right server and says what it
is to say of this one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from reference_server.__main__ import main as serve
from reference_server.faults.ledger import FAULTS
from reference_server.server import Parts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] not in FAULTS:
        print("usage: python -m reference_server.faults NAME CONFIG; the names are:", file=sys.stderr)
        print("\n".join(f"  {fault.name}: {fault.description}" for fault in FAULTS.values()), file=sys.stderr)
        return 2
    fault, rest = FAULTS[arguments[0]], arguments[1:]
    if rest == ["--describe"]:
        print(json.dumps(fault.describe(json.load(sys.stdin))))
        return 0
    return serve(rest, fault.build(Parts()), fault.change)


if __name__ == "__main__":
    sys.exit(main())
