"""Password hashes: scrypt (RFC 7914), written as one line of text.

Owns: making a hash, telling whether a text is one, and checking a password against it.  Deliberately knows no
account.  ``python -m reference_server.passwords`` asks for a password and prints the line for a configuration.

The line is ``$scrypt$ln=15,r=8,p=1$SALT$HASH``, as the password-hashing competition's string format has it:
costs as powers of two, salt and hash in base64 without padding.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets

_LINE = re.compile(
    r"\$scrypt\$ln=([1-9][0-9]?),r=([1-9][0-9]?),p=([1-9][0-9]?)\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})",
    re.ASCII,
)
_COSTS = (15, 8, 1)
_MAX_COSTS = (20, 32, 16)
"""Logarithm of the cost, block size, parallelism; a hash with higher ones is refused as a way to stall the server."""


def hashed(password: str) -> str:
    """A line that ``password_hash`` takes; takes about 0.1 s and 32 MiB."""
    salt = secrets.token_bytes(16)
    digest = _scrypt(password, salt, _COSTS, 32)
    log2_cost, block, parallel = _COSTS
    return f"$scrypt$ln={log2_cost},r={block},p={parallel}${_encode(salt)}${_encode(digest)}"


def is_well_formed(line: str) -> bool:
    """Whether ``line`` is a hash that :func:`matches` can check at a bearable price."""
    parts = _LINE.fullmatch(line)
    if parts is None:
        return False
    if any(cost > most for cost, most in zip(_costs(parts), _MAX_COSTS, strict=True)):
        return False
    try:
        _decode(parts[4]), _decode(parts[5])
    except binascii.Error:
        return False
    return True


def matches(password: str, line: str) -> bool:
    """Whether ``line`` was made from ``password``.  Raises ValueError when it is no such line."""
    parts = _LINE.fullmatch(line)
    if parts is None or not is_well_formed(line):
        raise ValueError("not a password hash of this server's kind")
    digest = _decode(parts[5])
    again = _scrypt(password, _decode(parts[4]), _costs(parts), len(digest))
    return hmac.compare_digest(digest, again)


def cost_of(line: str) -> int:
    """How long :func:`matches` takes on ``line``, in blocks mixed.  Raises ValueError when it is no such line."""
    parts = _LINE.fullmatch(line)
    if parts is None:
        raise ValueError("not a password hash of this server's kind")
    log2_cost, block, parallel = _costs(parts)
    return block * parallel << log2_cost


def _costs(parts: re.Match[str]) -> tuple[int, int, int]:
    return int(parts[1]), int(parts[2]), int(parts[3])


def _scrypt(password: str, salt: bytes, costs: tuple[int, int, int], length: int) -> bytes:
    log2_cost, block, parallel = costs
    cost = 1 << log2_cost
    return hashlib.scrypt(
        password.encode(),
        salt=salt,
        n=cost,
        r=block,
        p=parallel,
        maxmem=256 * block * (cost + parallel + 2),
        dklen=length,
    )


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii").rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


if __name__ == "__main__":
    import getpass

    print(hashed(getpass.getpass()))
