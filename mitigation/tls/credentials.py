"""What this end shows and what it believes: shared by all sessions of a process, replaceable while they run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mitigation.tls.errors import BadCredentials, EngineError
from mitigation.tls.gnutls import X509_FMT_PEM, Datum, check, ffi, library

# RFC 9132, section 7.1 and RFC 7525: ephemeral key exchange and AEAD only, nothing below 1.2. CCM_8 is last, for
# constrained CoAP stacks (RFC 7252, section 9.1.3.3).
_SUITES: Final = (
    "-KX-ALL:+ECDHE-ECDSA:+ECDHE-RSA:-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305"
    ":+AES-128-CCM:+AES-256-CCM:+AES-128-CCM-8:-MAC-ALL:+AEAD"
)
DTLS_PRIORITIES: Final = f"NORMAL:-VERS-ALL:+VERS-DTLS1.2:{_SUITES}"
TLS_PRIORITIES: Final = f"NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:{_SUITES}"

IP_UDP_HEADERS: Final = 48  # IPv6 and UDP; IPv4 takes 20 bytes less
TICKET_KEY_SIZE: Final = 64
COOKIE_KEY_SIZE: Final = 16


@dataclass(frozen=True, slots=True)
class CredentialFiles:
    """PEM files. `certificate` holds the leaf first, then its issuers; a client without one has None there.

    `more_ca` and `more_crl` are read as well where they exist.
    """

    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    crl: Path | None = None
    more_ca: Path | None = None
    more_crl: Path | None = None


class Loaded:
    """One generation of files inside libgnutls. A session keeps the generation that it began with alive."""

    __slots__ = ("pointer",)

    def __init__(self, files: CredentialFiles) -> None:
        made = ffi.new("void **")
        check(library().gnutls_certificate_allocate_credentials(made))
        self.pointer = ffi.gc(made[0], library().gnutls_certificate_free_credentials)
        self._trust(files.ca)
        if files.crl is not None:
            self._revoke(files.crl)
        if files.more_ca is not None and files.more_ca.exists():
            self._trust(files.more_ca)
            if files.more_crl is not None:
                self._revoke(files.more_crl)
        if files.certificate is not None:
            self._show(files.certificate, files.key or files.certificate)

    def _trust(self, path: Path) -> None:
        pem = _pem(path)
        found = library().gnutls_certificate_set_x509_trust_mem(self.pointer, pem.pointer, X509_FMT_PEM)
        if found <= 0:
            raise BadCredentials(f"no CA certificate can be read from {path}")

    def _revoke(self, path: Path) -> None:
        pem = _pem(path)
        found = library().gnutls_certificate_set_x509_crl_mem(self.pointer, pem.pointer, X509_FMT_PEM)
        if found <= 0:
            raise BadCredentials(f"no revocation list can be read from {path}, or its CA is not the one trusted")

    def _show(self, certificate: Path, key: Path) -> None:
        chain, secret = _pem(certificate), _pem(key)
        try:
            check(
                library().gnutls_certificate_set_x509_key_mem(self.pointer, chain.pointer, secret.pointer, X509_FMT_PEM)
            )
        except EngineError as error:
            raise BadCredentials(f"the certificate {certificate} and the key {key} cannot be used: {error}") from None


class Credentials:
    """Certificates, keys and limits for both transports; one object serves any number of sessions.

    `mtu` is the path MTU in bytes, IP and UDP headers included (RFC 9132, section 7.3: 1280 when unknown).
    `ticket_key` (64 bytes) and `cookie_key` (16 bytes) are the same on all workers behind one address, so that a
    client resumes, and a cookie holds, on any of them; without a ticket key a server issues no tickets.
    `require_alpn` refuses TLS peers that negotiate no ALPN at all. RFC 8323, section 8.2 wants "coap" on port 4646;
    some stacks send nothing, so a server tolerates silence by default, a client never does.
    `require_key_usage` wants clientAuth (of clients) or serverAuth (of servers) among the extended key usages.

    :raises BadCredentials: when a file cannot be read or does not fit the others.
    """

    def __init__(
        self,
        files: CredentialFiles,
        *,
        ticket_key: bytes | None = None,
        cookie_key: bytes | None = None,
        mtu: int = 1280,
        require_alpn: bool = False,
        require_key_usage: bool = True,
        dtls_priorities: str = DTLS_PRIORITIES,
        tls_priorities: str = TLS_PRIORITIES,
    ) -> None:
        self.files = files
        self.mtu = mtu
        self.require_alpn = require_alpn
        self.require_key_usage = require_key_usage
        self.ticket_key = _key(ticket_key, TICKET_KEY_SIZE, "ticket key")
        self.cookie_key = Datum(_sized(cookie_key or os.urandom(COOKIE_KEY_SIZE), COOKIE_KEY_SIZE, "cookie key"))
        self.dtls_priority = _priority(dtls_priorities)
        self.tls_priority = _priority(tls_priorities)
        self.loaded = Loaded(files)

    @property
    def datagram_mtu(self) -> int:
        """The largest UDP payload that fits the path MTU."""
        return self.mtu - IP_UDP_HEADERS

    def reload(self) -> None:
        """Read all files again; sessions begun from now on use them, running ones keep what they have.

        :raises BadCredentials: when something is wrong with them; the previous generation then stays in use.
        """
        self.loaded = Loaded(self.files)


def _pem(path: Path) -> Datum:
    try:
        return Datum(path.read_bytes())
    except OSError as error:
        raise BadCredentials(f"{path} cannot be read: {error.strerror}") from None


def _sized(key: bytes, size: int, name: str) -> bytes:
    if len(key) != size:
        raise BadCredentials(f"the {name} must be {size} bytes long, not {len(key)}")
    return key


def _key(key: bytes | None, size: int, name: str) -> Datum | None:
    return None if key is None else Datum(_sized(key, size, name))


def _priority(text: str) -> Any:
    made, position = ffi.new("void **"), ffi.new("const char **")
    if library().gnutls_priority_init(made, text.encode(), position) < 0:
        raise BadCredentials(f"the priority string is wrong at {ffi.string(position[0]).decode()!r}")
    return ffi.gc(made[0], library().gnutls_priority_deinit)
