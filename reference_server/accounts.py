"""Who has mail here, whose address is whose, and who may sign in.

Owns: the accounts of one configuration.  Knows no mail and no protocol.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from reference_server import passwords
from reference_server.settings_model import AccountSettings


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who has mail here."""

    name: str
    address: str
    admin: bool = False
    discard: bool = False


@dataclass(frozen=True, slots=True)
class _Login:
    """An account with what proves that somebody is its owner: a digest of the password, or a hash line."""

    account: Account
    digest: bytes
    line: str | None


class Accounts:
    """All accounts; unchanging.  A reload makes new ones."""

    def __init__(self, settings: Sequence[AccountSettings]) -> None:
        self._key = secrets.token_bytes(32)
        logins = [self._login(each) for each in settings]
        self.all: tuple[Account, ...] = tuple(login.account for login in logins)
        self._logins = {login.account.name: login for login in logins}
        self._names = {account.name.casefold(): account for account in reversed(self.all)}
        self._addresses = {account.address.casefold(): account for account in reversed(self.all)}
        domains = {address.rpartition("@")[2] for address in self._addresses}
        # RFC 5321 4.5.1: mail to postmaster is taken at every domain there is, whether or not somebody is set up.
        for postmaster in ("postmaster", *(f"postmaster@{domain}" for domain in domains)):
            if self.all:
                self._addresses.setdefault(postmaster, self._postmaster())
        # Somebody who guesses names must not see by the clock which ones exist: where one account has a hash,
        # all logins cost one.
        lines = [login.line for login in logins if login.line is not None]
        self._decoy = max(lines, key=passwords.cost_of) if lines else None
        self._nobody = _Login(Account("", ""), secrets.token_bytes(32), None)

    def named(self, name: str) -> Account | None:
        """Instant: who has that name, without regard to case; for looking people up, not for signing in."""
        login = self._logins.get(name)
        return self._names.get(name.casefold()) if login is None else login.account

    def recipient(self, address: str) -> Account | None:
        """Instant: whose address this is, without regard to case; ``postmaster`` needs no domain."""
        return self._addresses.get(address.casefold())

    def authenticate(self, name: str, password: str) -> Account | None:
        """Whose name and password these are."""
        login = self._logins.get(name, self._nobody)
        try:
            matches = hmac.compare_digest(self._digest(password), login.digest)
            line = login.line or self._decoy
            if line is not None:
                right_hash = passwords.matches(password, line)
                if login.line is not None:
                    matches = right_hash
        except UnicodeEncodeError:
            return None
        return login.account if matches and login is not self._nobody else None

    def _postmaster(self) -> Account:
        kept = [account for account in self.all if not account.discard] or self.all
        return next((account for account in kept if account.admin), kept[0])

    def _login(self, settings: AccountSettings) -> _Login:
        account = Account(settings.name, settings.address or settings.name, settings.admin, settings.discard)
        if settings.password is not None:
            return _Login(account, self._digest(settings.password.get_secret_value()), None)
        line = settings.password_hash.get_secret_value() if settings.password_hash is not None else None
        return _Login(account, secrets.token_bytes(32), line)

    def _digest(self, password: str) -> bytes:
        """Equally long for all passwords, so that a comparison tells nothing of the length either."""
        return hmac.digest(self._key, password.encode(), "sha256")
