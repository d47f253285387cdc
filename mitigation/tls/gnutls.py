"""The calls of libgnutls.so.30 that we use, bound by cffi in ABI mode: no compiler, no header files.

Only declarations and constants stand here. Names are GnuTLS's own without the prefix, so that its manual
can be read beside this file.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from functools import cache
from typing import Any, Final

import cffi

from mitigation.tls.errors import EngineError, LibraryMissing

SONAME: Final = "libgnutls.so.30"
OLDEST: Final = (3, 6, 14)  # TLS 1.3 tickets under a rotated key, without CVE-2020-13777

ffi: Any = cffi.FFI()
ffi.cdef(
    """
typedef struct { unsigned char *data; unsigned int size; } gnutls_datum_t;
typedef struct { int type; unsigned char *data; unsigned int size; } gnutls_typed_vdata_st;
typedef struct { unsigned int record_seq, hsk_read_seq, hsk_write_seq; } gnutls_dtls_prestate_st;
struct timespec { long tv_sec; long tv_nsec; };

const char *gnutls_check_version(const char *);
const char *gnutls_strerror_name(int);
int gnutls_error_is_fatal(int);
extern void (*gnutls_free)(void *);

int gnutls_init(void **, unsigned int);
void gnutls_deinit(void *);
void gnutls_session_set_ptr(void *, void *);
void *gnutls_session_get_ptr(void *);
int gnutls_priority_init(void **, const char *, const char **);
void gnutls_priority_deinit(void *);
int gnutls_priority_set(void *, void *);
int gnutls_credentials_set(void *, int, void *);
int gnutls_server_name_set(void *, int, const void *, size_t);
int gnutls_alpn_set_protocols(void *, const gnutls_datum_t *, unsigned, unsigned);
int gnutls_alpn_get_selected_protocol(void *, gnutls_datum_t *);
void gnutls_handshake_set_max_packet_length(void *, size_t);

int gnutls_certificate_allocate_credentials(void **);
void gnutls_certificate_free_credentials(void *);
int gnutls_certificate_set_x509_key_mem(void *, const gnutls_datum_t *, const gnutls_datum_t *, int);
int gnutls_certificate_set_x509_trust_mem(void *, const gnutls_datum_t *, int);
int gnutls_certificate_set_x509_crl_mem(void *, const gnutls_datum_t *, int);
void gnutls_session_set_verify_function(void *, int (*)(void *));
void gnutls_certificate_server_set_request(void *, int);
void gnutls_certificate_send_x509_rdn_sequence(void *, int);
int gnutls_certificate_verify_peers(void *, gnutls_typed_vdata_st *, unsigned int, unsigned int *);
const gnutls_datum_t *gnutls_certificate_get_peers(void *, unsigned int *);

void gnutls_transport_set_ptr(void *, void *);
void gnutls_transport_set_pull_function(void *, ssize_t (*)(void *, void *, size_t));
void gnutls_transport_set_push_function(void *, ssize_t (*)(void *, const void *, size_t));
void gnutls_transport_set_pull_timeout_function(void *, int (*)(void *, unsigned int));

int gnutls_handshake(void *);
ssize_t gnutls_record_recv(void *, void *, size_t);
ssize_t gnutls_record_send(void *, const void *, size_t);
int gnutls_bye(void *, int);
int gnutls_alert_get(void *);
const char *gnutls_alert_get_name(int);
int gnutls_alert_send(void *, int, int);
int gnutls_alert_send_appropriate(void *, int);

void gnutls_dtls_set_timeouts(void *, unsigned, unsigned);
unsigned gnutls_dtls_get_timeout(void *);
void gnutls_dtls_set_mtu(void *, unsigned);
unsigned gnutls_dtls_get_data_mtu(void *);
int gnutls_dtls_cookie_send(gnutls_datum_t *, void *, size_t, gnutls_dtls_prestate_st *,
                            void *, ssize_t (*)(void *, const void *, size_t));
int gnutls_dtls_cookie_verify(gnutls_datum_t *, void *, size_t, void *, size_t, gnutls_dtls_prestate_st *);
void gnutls_dtls_prestate_set(void *, gnutls_dtls_prestate_st *);

int gnutls_session_ticket_enable_server(void *, const gnutls_datum_t *);
int gnutls_session_get_data2(void *, gnutls_datum_t *);
int gnutls_session_set_data(void *, const void *, size_t);
int gnutls_session_is_resumed(void *);
unsigned gnutls_session_get_flags(void *);
int gnutls_protocol_get_version(void *);
const char *gnutls_protocol_get_name(int);
int gnutls_cipher_get(void *);
const char *gnutls_cipher_get_name(int);
"""
)


class Init(IntFlag):
    """Flags of gnutls_init."""

    SERVER = 1
    CLIENT = 2
    DATAGRAM = 4
    NONBLOCK = 8
    NO_SIGNAL = 64
    FORCE_CLIENT_CERT = 512


class Code(IntEnum):
    """Return codes that are handled one by one; every other fatal code ends the association."""

    SUCCESS = 0
    LARGE_PACKET = -7
    FATAL_ALERT_RECEIVED = -12
    UNEXPECTED_PACKET = -15
    WARNING_ALERT_RECEIVED = -16
    AGAIN = -28
    REHANDSHAKE = -37
    CERTIFICATE_ERROR = -43
    NO_CERTIFICATE_FOUND = -49
    INTERRUPTED = -52
    PREMATURE_TERMINATION = -110
    CERTIFICATE_REQUIRED = -112
    TIMEDOUT = -319


class Alert(IntEnum):
    """TLS alert descriptions (RFC 8446, section 6) that we send."""

    CLOSE_NOTIFY = 0
    HANDSHAKE_FAILURE = 40
    BAD_CERTIFICATE = 42
    CERTIFICATE_REVOKED = 44
    CERTIFICATE_EXPIRED = 45
    UNKNOWN_CA = 48
    ACCESS_DENIED = 49
    NO_RENEGOTIATION = 100
    CERTIFICATE_REQUIRED = 116
    NO_APPLICATION_PROTOCOL = 120


class Verify(IntFlag):
    """Bits of gnutls_certificate_status_t."""

    INVALID = 1 << 1
    REVOKED = 1 << 5
    SIGNER_NOT_FOUND = 1 << 6
    SIGNER_NOT_CA = 1 << 7
    INSECURE_ALGORITHM = 1 << 8
    NOT_ACTIVATED = 1 << 9
    EXPIRED = 1 << 10
    SIGNATURE_FAILURE = 1 << 11
    REVOCATION_DATA_SUPERSEDED = 1 << 12
    UNEXPECTED_OWNER = 1 << 14
    REVOCATION_DATA_ISSUED_IN_FUTURE = 1 << 15
    SIGNER_CONSTRAINTS_FAILURE = 1 << 16
    MISMATCH = 1 << 17
    PURPOSE_MISMATCH = 1 << 18
    UNKNOWN_CRIT_EXTENSIONS = 1 << 21


CRD_CERTIFICATE: Final = 1
X509_FMT_PEM: Final = 1
NAME_DNS: Final = 1
CERT_REQUIRE: Final = 2
SHUT_RDWR: Final = 0
SHUT_WR: Final = 1
AL_WARNING: Final = 1
AL_FATAL: Final = 2
ALPN_MANDATORY: Final = 1
DT_DNS_HOSTNAME: Final = 1
DT_KEY_PURPOSE_OID: Final = 2
DT_IP_ADDRESS: Final = 4
PURPOSE_SERVER: Final = b"1.3.6.1.5.5.7.3.1"
PURPOSE_CLIENT: Final = b"1.3.6.1.5.5.7.3.2"
SFLAGS_SESSION_TICKET: Final = 128
INT_MAX: Final = 0x7FFFFFFF


@cache
def library() -> Any:
    """The loaded library.

    :raises LibraryMissing: with a sentence that tells what to install.
    """
    try:
        loaded: Any = ffi.dlopen(SONAME)
    except OSError as error:
        raise LibraryMissing(f"{SONAME} cannot be loaded ({error}): install the system package libgnutls30") from None
    found = ffi.string(loaded.gnutls_check_version(ffi.NULL)).decode()
    if tuple(int(part) for part in found.split(".")[:3]) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise LibraryMissing(f"{SONAME} is version {found}, at least {wanted} is needed")
    return loaded


def available() -> str:
    """The version of the GnuTLS library in use.

    :raises LibraryMissing: when there is none that will do.
    """
    return text(library().gnutls_check_version(ffi.NULL))


def error_name(code: int) -> str:
    return text(library().gnutls_strerror_name(code)) or "unknown error"


def alert_name(description: int) -> str:
    return text(library().gnutls_alert_get_name(description)) or f"alert {description}"


def check(code: int) -> int:
    """Pass a return code on.

    :raises EngineError: when it is negative.
    """
    if code < 0:
        raise EngineError(code, error_name(code))
    return code


class Datum:
    """A gnutls_datum_t (`.pointer`) that keeps its bytes alive as long as itself."""

    __slots__ = ("_bytes", "pointer")

    def __init__(self, data: bytes) -> None:
        self._bytes = ffi.new("unsigned char[]", data)
        self.pointer = ffi.new("gnutls_datum_t *", {"data": self._bytes, "size": len(data)})


def datum_bytes(pointer: Any) -> bytes:
    return bytes(ffi.buffer(pointer.data, pointer.size)) if pointer.size else b""


def text(pointer: Any) -> str:
    """A C string of libgnutls; empty for NULL."""
    return "" if pointer == ffi.NULL else ffi.string(pointer).decode("ascii", "replace")
