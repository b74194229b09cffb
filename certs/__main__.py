"""``python -m certs DIR``: a folder with a test authority's root and one certificate for each situation.

Owns: the layout of that folder and its index.  Deliberately knows nothing of how certificates are made.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from certs.authority import Authority, KeyType, Situation

INDEX = "index.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the folder; exit status 0, or 2 when it cannot be made."""
    parser = argparse.ArgumentParser(
        prog="python -m certs",
        description="Make a test certificate authority and a server certificate for each situation.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="made when it is missing; else it must be empty")
    parser.add_argument("--name", action="append", default=[], help="another host name (repeatable)")
    parser.add_argument("--address", action="append", default=[], help="another IP address (repeatable)")
    asked = parser.parse_args(arguments)
    try:
        _make(asked.folder, asked.name, asked.address)
    except (OSError, ValueError) as error:
        print(f"certs: {error}", file=sys.stderr)
        return 2
    return 0


def _make(folder: Path, names: Sequence[str], addresses: Sequence[str]) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not (folder / INDEX).is_file():
        raise ValueError(f"{folder} is not an empty folder, and nothing in it is overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority.create()
    (folder / "root.pem").write_bytes(authority.root_pem)
    (folder / "intermediate.pem").write_bytes(authority.intermediate_pem)
    print(f"{folder}/root.pem: the root; tell clients to trust it")
    index = []
    for situation in Situation:
        for key_type in get_args(KeyType):
            name = f"{situation.value}-{key_type}"
            leaf = authority.issue(situation, key_type, names=names, addresses=addresses)
            chain, key = leaf.write(folder / name)
            index.append(
                {
                    "situation": situation.value,
                    "key_type": key_type,
                    "meaning": situation.meaning,
                    "chain": str(chain.relative_to(folder)),
                    "key": str(key.relative_to(folder)),
                }
            )
            print(f"{folder}/{name}/ (chain.pem, key.pem): {situation.meaning}")
    document = {"root": "root.pem", "intermediate": "intermediate.pem", "certificates": index}
    (folder / INDEX).write_text(json.dumps(document, indent=2) + "\n")
    print(f"{folder}/{INDEX}: the list of them")


if __name__ == "__main__":
    sys.exit(main())
