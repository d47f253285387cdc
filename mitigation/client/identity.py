"""What a client keeps: its certificate and key, its cuid, and the last mid it used."""

from __future__ import annotations

import fcntl
import json
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from mitigation.protocol.constants import MAXIMUM_MID
from mitigation.protocol.cuid import cuid_of
from mitigation.tls import CredentialFiles, Credentials, Identity

ROLLOVER = 3_221_225_471  # with no attack, mids begin anew here (RFC 9132, section 4.4.1.1)


@dataclass(frozen=True, slots=True)
class Files:
    """PEM files of one client."""

    ca: Path
    certificate: Path
    key: Path

    def credentials(self) -> Credentials:
        """Raises tls.BadCredentials for files that cannot be read or do not belong together."""
        return Credentials(CredentialFiles(ca=self.ca, certificate=self.certificate, key=self.key))

    def cuid(self) -> str:
        der = ssl.PEM_cert_to_DER_cert(self.certificate.read_text())
        return cuid_of(Identity.from_certificate(der).subject_public_key_info())


class Mids:
    """The last mid used for one cuid, in a file, so that a restart goes on above it (RFC 9132, section 4.4.1.1)."""

    def __init__(self, cuid: str, directory: Path | None = None) -> None:
        self._path = (directory or state_directory()) / f"{cuid}.json"

    def last(self) -> int | None:
        """The mid used last; None before the first."""
        try:
            return int(json.loads(self._path.read_text())["mid"])
        except FileNotFoundError:
            return None

    def take(self) -> int:
        """A mid above all used before; two processes never get the same one."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            last = self.last()
            mid = 1 if last is None else last + 1
            if mid > min(ROLLOVER, MAXIMUM_MID):
                mid = 0
            self._write(mid)
        return mid

    def note(self, mid: int) -> None:
        """A mid that somebody chose by hand was used."""
        last = self.last()
        if last is None or mid > last:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write(mid)

    def _write(self, mid: int) -> None:
        fresh = self._path.with_suffix(".new")
        with fresh.open("w") as file:
            json.dump({"mid": mid}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)


def state_directory() -> Path:
    """Where clients keep state, by the XDG rules."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "dots-client"
