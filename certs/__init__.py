"""A test certificate authority: certificates that are right, and ones that are wrong in exactly one way.

    from certs import Authority, Situation

    authority = Authority.create()
    chain, key = authority.issue(Situation.VALID).write(folder)

Nothing made here is worth anything outside a test: the authority lives in memory and is gone with it.
"""

from certs.authority import Authority, KeyType, Leaf, Situation

__all__ = ["Authority", "KeyType", "Leaf", "Situation"]
