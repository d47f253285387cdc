"""Whether the peer's certificate is good: chain, time, revocation, purpose, name (RFC 5280, RFC 6125).

Asked inside the handshake and once more after a resumption, where libgnutls does not ask by itself.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from mitigation.tls.gnutls import (
    DT_DNS_HOSTNAME,
    DT_IP_ADDRESS,
    DT_KEY_PURPOSE_OID,
    PURPOSE_CLIENT,
    PURPOSE_SERVER,
    Alert,
    Verify,
    datum_bytes,
    error_name,
    ffi,
    library,
)


class Refusal(NamedTuple):
    """Why a peer is not accepted, and the alert that says so."""

    reason: str
    alert: Alert


_FINDINGS: Final = (
    (Verify.REVOKED, "it is revoked", Alert.CERTIFICATE_REVOKED),
    (Verify.EXPIRED, "it has expired", Alert.CERTIFICATE_EXPIRED),
    (Verify.NOT_ACTIVATED, "it is not valid yet", Alert.CERTIFICATE_EXPIRED),
    (Verify.SIGNER_NOT_FOUND, "it is not signed by the CA given", Alert.UNKNOWN_CA),
    (Verify.SIGNER_NOT_CA, "it is signed by a certificate that is no CA", Alert.UNKNOWN_CA),
    (Verify.MISMATCH | Verify.UNEXPECTED_OWNER, "its name does not match", Alert.BAD_CERTIFICATE),
    (Verify.PURPOSE_MISMATCH, "its extended key usage forbids this", Alert.BAD_CERTIFICATE),
    (Verify.INSECURE_ALGORITHM, "its signature algorithm is too weak", Alert.BAD_CERTIFICATE),
    (Verify.SIGNATURE_FAILURE, "its signature is wrong", Alert.BAD_CERTIFICATE),
    (Verify.SIGNER_CONSTRAINTS_FAILURE, "its issuer's constraints forbid it", Alert.BAD_CERTIFICATE),
    (Verify.UNKNOWN_CRIT_EXTENSIONS, "it has a critical extension we do not know", Alert.BAD_CERTIFICATE),
    (Verify.REVOCATION_DATA_SUPERSEDED, "the revocation list is out of date", Alert.BAD_CERTIFICATE),
    (Verify.REVOCATION_DATA_ISSUED_IN_FUTURE, "the revocation list is from the future", Alert.BAD_CERTIFICATE),
)


def peer_certificate(pointer: Any) -> bytes | None:
    """The leaf certificate the peer showed, now or in the session that is resumed."""
    count = ffi.new("unsigned int *")
    chain = library().gnutls_certificate_get_peers(pointer, count)
    return datum_bytes(chain[0]) if chain != ffi.NULL and count[0] else None


def verify(pointer: Any, *, server: bool, name: str | None, require_key_usage: bool) -> Refusal | None:
    """None when the peer of this session is who it must be.

    `server` tells our own role. `name` is what a client asked for: a DNS name or an IP address.
    """
    leaf = peer_certificate(pointer)
    if leaf is None:
        return Refusal("no certificate was shown", Alert.BAD_CERTIFICATE)
    status = _status(pointer, PURPOSE_CLIENT if server else PURPOSE_SERVER, name)
    if isinstance(status, Refusal):
        return status
    for bit, reason, alert in _FINDINGS:
        if status & bit:
            return Refusal(reason, alert)
    if status:
        return Refusal(f"it does not verify ({status:#x})", Alert.BAD_CERTIFICATE)
    return _check_leaf(leaf, server=server, name=name, require_key_usage=require_key_usage)


def ip_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _status(pointer: Any, purpose: bytes, name: str | None) -> int | Refusal:
    wanted = [(DT_KEY_PURPOSE_OID, purpose)]
    if name is not None:
        address = ip_address(name)
        wanted.append((DT_IP_ADDRESS, address.packed) if address else (DT_DNS_HOSTNAME, name.encode("idna")))
    buffers = [ffi.new("unsigned char[]", data + b"\0") for _, data in wanted]
    asked = ffi.new("gnutls_typed_vdata_st[]", len(wanted))
    for slot, (kind, data), buffer in zip(asked, wanted, buffers, strict=True):
        slot.type, slot.data, slot.size = kind, buffer, len(data)
    status = ffi.new("unsigned int *")
    code = library().gnutls_certificate_verify_peers(pointer, asked, len(wanted), status)
    return Refusal(f"it cannot be verified: {error_name(code)}", Alert.BAD_CERTIFICATE) if code < 0 else status[0]


def _check_leaf(leaf: bytes, *, server: bool, name: str | None, require_key_usage: bool) -> Refusal | None:
    """What libgnutls lets pass: a missing extended key usage, and a common name in place of a subjectAltName."""
    try:
        extensions = x509.load_der_x509_certificate(leaf).extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return Refusal("it cannot be parsed", Alert.BAD_CERTIFICATE)
    if require_key_usage and not _has_usage(extensions, server=server):
        return Refusal(f"it lacks the {'clientAuth' if server else 'serverAuth'} usage", Alert.BAD_CERTIFICATE)
    if name is not None and not _has_alternative_name(extensions, name):
        return Refusal("its name does not match", Alert.BAD_CERTIFICATE)
    return None


def _has_usage(extensions: x509.Extensions, *, server: bool) -> bool:
    wanted = ExtendedKeyUsageOID.CLIENT_AUTH if server else ExtendedKeyUsageOID.SERVER_AUTH
    try:
        return wanted in extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False


def _has_alternative_name(extensions: x509.Extensions, name: str) -> bool:
    """DNS-ID or iPAddress; a URI-ID or a common name alone does not count (RFC 9132, section 7.1)."""
    kind: type[x509.GeneralName] = x509.IPAddress if ip_address(name) else x509.DNSName
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return any(isinstance(entry, kind) for entry in names)
