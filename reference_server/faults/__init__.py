"""Servers that are wrong on purpose, each in one way.

Owns: the ledger of faults: what each does wrong, which requirements it breaks, and what else may break with it.  They
prove that the suite's checks can fail, and they are there for people who want to see how their client takes it
(``listenspec faults``, ``listenspec serve --fault NAME``).  A fault is put in where the server is put together
(``server.Parts``) or into the settings it is given; the server itself knows nothing of it, and nothing outside this
package imports it but the programs that run one.
"""

from __future__ import annotations

from reference_server.faults.ledger import FAULTS, Fault, hit

__all__ = ["FAULTS", "Fault", "hit"]
