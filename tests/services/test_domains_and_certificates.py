"""Who may ask: domains that never overlap, clients, certificates."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from mitigation.exceptions import MalformedRequest, NotFound, UnfitPolicy
from mitigation.models import Audit, Change, Credential, Domain, DomainPrefix
from mitigation.pki.authority import Authority, initialise, open_authority
from mitigation.pki.home import Home
from mitigation.services import certificates, domains


@pytest.fixture
def authority(tmp_path: Path, now: datetime) -> Authority:
    home = Home(tmp_path)
    initialise(home, names=["localhost"], addresses=["127.0.0.1"], now=now)
    return open_authority(home)


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("198.51.100.0/24", "lies in 198.51.100.0/24 of domain a.example"),
        ("198.51.100.128/25", "lies in 198.51.100.0/24 of domain a.example"),
        ("198.51.0.0/16", "contains 198.51.100.0/24 of domain a.example"),
        ("2001:db8:100:7::/64", "lies in 2001:db8:100::/48 of domain a.example"),
        ("192.0.2.1/24", "is not a prefix"),
        ("nonsense", "is not a prefix"),
    ],
)
def test_prefixes_of_two_domains_never_overlap(cast: Any, now: datetime, prefix: str, words: str) -> None:
    before = DomainPrefix.objects.count()

    with pytest.raises(MalformedRequest, match=words):
        domains.add_domain("b.example", prefixes=["192.0.2.0/24", prefix], actor="test", now=now)

    assert DomainPrefix.objects.count() == before
    assert not Domain.objects.filter(name="b.example").exists()


def test_names_are_checked_and_unique(cast: Any, now: datetime) -> None:
    for bad in ("", "a b", "../etc", "x" * 300, "-x"):
        with pytest.raises(MalformedRequest):
            domains.add_domain(bad, prefixes=["192.0.2.0/24"], actor="test", now=now)
    with pytest.raises(MalformedRequest, match="exists already"):
        domains.add_client("alice", domain="m.example", actor="test", now=now)
    with pytest.raises(NotFound, match="no domain named"):
        domains.add_client("carol", domain="nowhere.example", actor="test", now=now)


def test_an_issued_certificate_is_registered_and_its_key_is_nowhere(
    cast: Any, authority: Authority, now: datetime
) -> None:
    issued = certificates.issue(cast.alice, authority, actor="test", now=now)

    row = Credential.objects.get()
    assert certificates.find_usable(row.fingerprint, now=now) == row
    assert row.client == cast.alice
    key_lines = [line for line in issued.key_pem.splitlines() if not line.startswith(b"-----")]
    for table in (Credential, Audit):
        for values in table.objects.values():  # type: ignore[attr-defined]
            assert not any(line.decode() in str(values) for line in key_lines)


@pytest.mark.rows("SIG-AUT-008")
def test_revoking_takes_effect_in_the_row_the_list_and_the_change_log(
    cast: Any, authority: Authority, now: datetime
) -> None:
    certificates.issue(cast.alice, authority, actor="test", now=now)
    row = Credential.objects.get()

    certificates.revoke(row.serial, reason="stolen", actor="eve", now=now)
    assert certificates.publish_revocations(authority, now=now) == 1

    assert certificates.find_usable(row.fingerprint, now=now) is None
    crl = x509.load_pem_x509_crl(authority.home.revocation_list.read_bytes())
    assert [entry.serial_number for entry in crl] == [int(row.serial, 16)]
    newest = Change.objects.order_by("-number").first()
    assert newest is not None
    assert (newest.topic, newest.object_id) == ("credential", row.pk)
    assert certificates.revoke(row.serial.upper(), reason="again", actor="eve", now=now).revocation_reason == "stolen"
    with pytest.raises(NotFound):
        certificates.revoke("abc123", reason="", actor="eve", now=now)


def test_a_disabled_client_or_an_expired_certificate_is_not_usable(
    cast: Any, authority: Authority, now: datetime
) -> None:
    from datetime import timedelta

    certificates.issue(cast.alice, authority, actor="test", now=now)
    row = Credential.objects.get()

    assert certificates.find_usable(row.fingerprint, now=now + timedelta(days=366)) is None
    cast.alice.enabled = False
    cast.alice.save(update_fields=["enabled"])
    assert certificates.find_usable(row.fingerprint, now=now) is None


def test_a_domains_policy_is_changed_and_audited(cast: Any, now: datetime) -> None:
    domains.change_domain("a.example", {"conflict_policy": "refuse-new"}, actor="test", now=now)

    assert Domain.objects.get(name="a.example").conflict_policy == "refuse-new"
    audit = Audit.objects.get(action="domain-set")
    assert (audit.before, audit.after) == ({"conflict_policy": "both"}, {"conflict_policy": "refuse-new"})
    for name, values, error in (
        ("a.example", {"name": "x"}, MalformedRequest),
        ("a.example", {}, MalformedRequest),
        ("a.example", {"attack_over_after": -1}, UnfitPolicy),
        ("a.example", {"conflict_policy": "whatever"}, UnfitPolicy),
        ("nobody", {"attack_over_after": 1}, NotFound),
    ):
        with pytest.raises(error):
            domains.change_domain(name, values, actor="test", now=now)
