"""Certificates of other authorities: an ordered list says for whom each stands (RFC 7589, section 7), on both channels."""

from __future__ import annotations

import http.client
import ipaddress
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from data_trees import ACCEPT, MODULE, ace, acl, alias

from tests.harness.authorities import OutsideAuthority, certificate_of
from tests.harness.product import Cast, Files, Product, running
from tests.harness.rest import DOTS_DATA, Answer, Rest
from tests.harness.waiting import until
from tests.harness.wire import peer, scope

Issue = Callable[..., Files]
DNS, MAIL, IP = x509.DNSName, x509.RFC822Name, x509.IPAddress


@pytest.fixture(scope="module")
def product() -> Iterator[Product]:
    with running(environment={"DOTS_DRIVER": "dryrun"}) as one:
        yield one


@pytest.fixture
def cast(product: Product) -> Cast:
    (one,) = product.new_casts(1)
    with peer(one.mallory, product.signal_port) as last:
        until(lambda: last.get().code == "4.04", what="the signal channel knowing new clients")
    return one


@pytest.fixture
def outside(product: Product, tmp_path: Path) -> Iterator[OutsideAuthority]:
    """Trusted, with an empty list."""
    made = OutsideAuthority(tmp_path / "outside")
    certificate(product, "trust", "outside", "--ca", str(made.ca), "--crl", str(made.crl))
    yield made
    certificate(product, "distrust", "outside")


@pytest.fixture
def issue(outside: OutsideAuthority, cast: Cast) -> Issue:
    numbers = iter(range(100))

    def do(*names: x509.GeneralName, **more: Any) -> Files:
        return outside.issue(f"client-{next(numbers)}.{cast.domain.name}", *names, server=cast.alice, **more)

    return do


def certificate(product: Product, *words: str) -> str:
    return product.console.manage("certificate", *words)


def complaint(product: Product, *words: str) -> str:
    """What the command refuses with."""
    return str(
        product.console.run(
            "from django.core.management import CommandError, call_command\n"
            "result = ''\n"
            "try:\n    call_command('certificate', *words)\n"
            "except CommandError as error:\n    result = str(error)",
            words=words,
        )
    )


def entry(product: Product, kind: str, *, authority: str = "outside", **more: str) -> None:
    words = [word for name, value in more.items() for word in (f"--{name}", value)]
    certificate(product, "map", "--authority", authority, "--type", kind, *words)


def look(product: Product, files: Files) -> Answer:
    """Its registrations, read over a connection of its own."""
    with closing(Rest(product, files)) as rest:
        return rest.get(DOTS_DATA)


def refused(product: Product, files: Files) -> bool:
    """401, and the session is over (RFC 7589, section 7 (d)); or no handshake at all."""
    try:
        with closing(Rest(product, files)) as rest:
            answer = rest.get(DOTS_DATA)
            assert answer.fault == (401, "access-denied")
            assert answer.headers["connection"] == "close"
            assert rest._connection is None, "the server has closed it"
            return True
    except (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected):
        return True


def is_alice(product: Product, cast: Cast, files: Files) -> bool:
    """What alice keeps is there by either certificate."""
    with closing(Rest(product, cast.alice)) as alice:
        alice.register()
        answer = look(product, files)
        if answer.status != 200:
            return False
        found = [one["cuid"] for one in answer.json[f"{MODULE}:dots-data"]["dots-client"]]
        return found == [alice.cuid]


@pytest.mark.rows("DATA-TRN-018", "DATA-TRN-016", "DATA-TRN-021")
@pytest.mark.parametrize(
    ("kind", "name", "said", "common"),
    [
        ("san-dns-name", "", DNS("ALICE.{domain}"), "x"),
        ("san-rfc822-name", "Al.ice@mail.{domain}", MAIL("Al.ice@MAIL.{domain}"), "x"),
        ("san-ip-address", "192.0.2.{number}", IP(ipaddress.ip_address("192.0.2.9")), "x"),
        ("san-ip-address", "20010db800000000000000000000000{digit}", IP(ipaddress.ip_address("2001:db8::9")), "x"),
        ("san-any", "", DNS("alice.{domain}"), "x"),
        ("common-name", "", None, "alice.{domain}"),
        ("specified", "", MAIL("somebody@else.example"), "x"),
    ],
    ids=["dns", "rfc822", "ipv4", "ipv6", "any", "common-name", "specified"],
)
def test_a_name_in_a_certificate_is_that_of_a_client(
    product: Product, cast: Cast, issue: Issue, kind: str, name: str, said: x509.GeneralName | None, common: str
) -> None:
    name = name.format(domain=cast.domain.name, number=9, digit=9)
    if name:  # a client that is called so
        product.console.run("Client.objects.filter(name=old).update(name=new)", old=cast.alice.name, new=name)
    names = [_in(cast, said)] if said is not None else []
    theirs = issue(*names, common_names=[common.format(domain=cast.domain.name)])
    assert refused(product, theirs), "nothing leads to a client yet"

    whose = {"client": name or cast.alice.name} if kind == "specified" else {"domain": cast.domain.name}
    entry(product, kind, **whose)

    assert is_alice(product, cast, theirs)
    hears(product, theirs, "4.04")
    with peer(theirs, product.signal_port) as signal:
        assert signal.put(1, scope(f"{cast.domain.host}/32")).code == "2.01"
    (row,) = [one for one in product.mitigations() if one["domain"] == cast.domain.name]
    assert row["client"] == (name or cast.alice.name)
    product.console.run("Client.objects.filter(name=new).update(name=old)", old=cast.alice.name, new=row["client"])


@pytest.mark.rows("DATA-TRN-017", "DATA-TRN-019")
def test_the_first_entry_that_yields_a_name_decides(product: Product, cast: Cast, issue: Issue) -> None:
    both = issue(DNS(cast.bob.name), common_names=[cast.alice.name])
    entry(product, "san-rfc822-name", domain=cast.domain.name)  # yields nothing here
    entry(product, "common-name", domain=cast.domain.name)
    entry(product, "san-dns-name", domain=cast.domain.name)
    assert is_alice(product, cast, both)

    certificate(
        product, "map", "--certificate", str(both.cert), "--type", "specified", "--client", cast.bob.name, "--at", "1"
    )
    assert not is_alice(product, cast, both), "the entry of this certificate comes first"
    certificate(product, "unmap", "1")
    assert is_alice(product, cast, both)
    certificate(product, "unmap", "2")
    assert not is_alice(product, cast, both)
    rows = json.loads(certificate(product, "mappings", "--json"))
    assert [(one["position"], one["type"], one["of"]) for one in rows] == [
        (1, "san-rfc822-name", "outside"),
        (2, "san-dns-name", "outside"),
    ]


@pytest.mark.rows("DATA-TRN-017")
def test_an_authority_counts_wherever_it_is_in_the_chain(
    product: Product, cast: Cast, outside: OutsideAuthority, tmp_path: Path
) -> None:
    inner = OutsideAuthority(tmp_path / "inner", "inner", issuer=outside)
    certificate(product, "trust", "inner", "--ca", str(inner.ca), "--crl", str(inner.crl))
    try:
        theirs = inner.issue("theirs", DNS(cast.alice.name), server=cast.alice)
        entry(product, "san-dns-name", authority="outside", domain=cast.domain.name)
        assert is_alice(product, cast, theirs)
        certificate(product, "distrust", "outside")
        assert refused(product, theirs), "no entry is left"
        entry(product, "san-dns-name", authority="inner", domain=cast.domain.name)
        assert is_alice(product, cast, theirs), "the authority above it need not be known"
    finally:
        certificate(product, "distrust", "inner")
        certificate(product, "trust", "outside", "--ca", str(outside.ca), "--crl", str(outside.crl))


@pytest.mark.rows("DATA-TRN-019", "DATA-TRN-013")
@pytest.mark.parametrize(
    ("kind", "names", "common"),
    [
        ("san-dns-name", [DNS("mallory-in-disguise")], ["alice.{domain}"]),  # the name is in another field
        ("san-dns-name", [DNS("*.{domain}")], ["x"]),
        ("san-dns-name", [DNS("alice.{domain}\0.evil.example")], ["x"]),
        ("san-dns-name", [DNS("alice.{domain}.")], ["x"]),
        ("san-dns-name", [DNS("evil.example"), DNS("alice.{domain}")], ["x"]),  # the first of several decides
        ("san-dns-name", [MAIL("alice@{domain}")], ["alice.{domain}"]),
        ("san-any", [MAIL("evil@evil.example"), DNS("alice.{domain}")], ["x"]),
        ("common-name", [DNS("alice.{domain}")], ["evil", "alice.{domain}"]),
        ("common-name", [], ["ALICE.{domain}"]),
        ("common-name", [], ["alice.{domain}\0"]),
        ("common-name", [], ["\u0430lice.{domain}"]),  # the first letter is Cyrillic
        ("common-name", [], [" alice.{domain}"]),
        ("san-rfc822-name", [MAIL("alice.{domain}")], ["x"]),
    ],
    ids=[
        *("common-name-not-asked", "wildcard", "nul", "dot", "second-dns", "mail-for-dns", "second-of-any"),
        *("two-common-names", "case", "nul-at-end", "homograph", "space", "mail-without-at"),
    ],
)
def test_what_only_looks_like_alices_name_is_nobodys(
    product: Product, cast: Cast, issue: Issue, kind: str, names: list[x509.GeneralName], common: list[str]
) -> None:
    entry(product, kind, domain=cast.domain.name)
    theirs = issue(
        *(_in(cast, one) for one in names), common_names=[one.format(domain=cast.domain.name) for one in common]
    )
    assert refused(product, theirs)
    hears(product, theirs, "4.01")
    assert (
        product.console.run(
            "result = Credential.objects.filter(mapped=True, client__name=n).count()", n=cast.alice.name
        )
        == 0
    )


@pytest.mark.rows("DATA-TRN-019", "DATA-TRN-022")
def test_an_authority_names_clients_of_its_domain_alone(product: Product, cast: Cast, issue: Issue) -> None:
    """The name decides the domain: two of one domain share what the domain has, and mallory's is not reached."""
    entry(product, "san-dns-name", domain=cast.domain.name)
    alices, bobs, mallorys = (issue(DNS(one.name)) for one in (cast.alice, cast.bob, cast.mallory))
    assert refused(product, mallorys), "a client of another domain"
    hears(product, mallorys, "4.01")
    with closing(Rest(product, alices, cuid="a")) as alice, closing(Rest(product, bobs, cuid="b")) as bob:
        assert (alice.register().status, bob.register().status) == (201, 201)
        assert alice.post_acl(acl(cast, "drop")).status == 201
        answer = bob.post_acl(acl(cast, "let-in", ace(cast, action=ACCEPT)))
        assert answer.fault == (409, "resource-denied"), "they are of one domain"
        assert bob.get(f"{DOTS_DATA}/dots-client=a").status == 404
        assert bob.post_alias(alias(cast)).status == 201


@pytest.mark.rows("DATA-TRN-020")
def test_an_authority_that_is_not_trusted_names_nobody(
    product: Product, cast: Cast, issue: Issue, outside: OutsideAuthority, tmp_path: Path
) -> None:
    entry(product, "san-dns-name", domain=cast.domain.name)
    assert is_alice(product, cast, issue(DNS(cast.alice.name)))
    namesake = OutsideAuthority(tmp_path / "namesake")  # of the same name, with a key of its own
    theirs = namesake.issue("theirs", DNS(cast.alice.name), server=cast.alice)
    assert refused(product, theirs)
    assert _on_signal(product, theirs) == "no session"
    told = complaint(product, "trust", "two", "--ca", str(namesake.ca), "--crl", str(namesake.crl))
    assert "same name" in told
    own = str(product.home / "pki" / "ca.pem")
    told = complaint(product, "trust", "own", "--ca", own, "--crl", str(outside.crl))
    assert "own authority" in told
    leaf = issue(DNS("x.example"))
    told = complaint(product, "trust", "leaf", "--ca", str(leaf.cert), "--crl", str(outside.crl))
    assert "no authority" in told
    told = complaint(product, "trust", "outside", "--ca", str(outside.ca), "--crl", str(namesake.crl))
    assert "not signed by this authority" in told


@pytest.mark.rows("DATA-TRN-020")
def test_who_is_revoked_by_either_side_is_out(
    product: Product, cast: Cast, issue: Issue, outside: OutsideAuthority
) -> None:
    entry(product, "san-dns-name", domain=cast.domain.name)
    theirs, ours = issue(DNS(cast.alice.name)), issue(DNS(cast.alice.name))
    assert is_alice(product, cast, theirs)
    assert is_alice(product, cast, ours)

    fingerprint = certificate_of(ours).fingerprint(hashes.SHA256()).hex()
    hears(product, ours, "4.04")
    with closing(Rest(product, ours)) as open_connection, peer(ours, product.signal_port) as signal:
        assert signal.put(1, scope(f"{cast.domain.host}/32")).code == "2.01"
        assert open_connection.get(DOTS_DATA).status == 200
        certificate(product, "revoke", fingerprint)
        assert open_connection.get(DOTS_DATA).fault == (401, "access-denied")
        hears(product, ours, "no session")
    assert refused(product, ours), "the list is not asked again"
    own = product.home / "pki" / "crl.pem"
    listed = x509.load_pem_x509_crl(own.read_bytes())
    assert listed.get_revoked_certificate_by_serial_number(int(ours.serial, 16)) is None, "it is not ours to revoke"

    outside.sign_list(certificate_of(theirs))
    certificate(product, "trust", "outside", "--ca", str(outside.ca), "--crl", str(outside.crl))
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        look(product, theirs)
    hears(product, theirs, "no session")


@pytest.mark.rows("DATA-TRN-017", "DATA-TRN-021")
def test_a_change_of_the_list_reaches_open_sessions(product: Product, cast: Cast, issue: Issue) -> None:
    entry(product, "san-dns-name", domain=cast.domain.name)
    theirs = issue(DNS(cast.alice.name))
    hears(product, theirs, "4.04")
    with closing(Rest(product, theirs)) as rest, peer(theirs, product.signal_port) as signal:
        assert rest.get(DOTS_DATA).status == 200
        assert signal.get().code == "4.04"
        certificate(product, "unmap", "1")
        assert rest.get(DOTS_DATA).fault == (401, "access-denied")
        hears(product, theirs, "4.01")

    entry(product, "specified", client=cast.bob.name)
    hears(product, theirs, "4.04")
    assert not is_alice(product, cast, theirs)


def test_the_same_serial_of_two_authorities_is_two_certificates(product: Product, cast: Cast, issue: Issue) -> None:
    entry(product, "san-dns-name", domain=cast.domain.name)
    theirs = issue(DNS(cast.alice.name), serial=int(cast.bob.serial, 16))
    assert is_alice(product, cast, theirs)
    told = complaint(product, "revoke", cast.bob.serial)
    assert "fingerprint" in told
    assert look(product, cast.bob).status == 200


@pytest.mark.rows("DATA-TRN-020")
def test_a_revocation_list_that_has_run_out_lets_nobody_in(
    product: Product, cast: Cast, issue: Issue, outside: OutsideAuthority
) -> None:
    entry(product, "san-dns-name", domain=cast.domain.name)
    theirs = issue(DNS(cast.alice.name))
    assert is_alice(product, cast, theirs)
    outside.sign_list(good_for=timedelta(hours=-1))
    told = complaint(product, "trust", "outside", "--ca", str(outside.ca), "--crl", str(outside.crl))
    assert "out of date" in told
    product.console.run(
        "from pathlib import Path\n"
        "from django.conf import settings\n"
        "from mitigation.pki.home import Home\n"
        "from mitigation.services import authorities\n"
        "TrustedAuthority.objects.update(revocation_list=Path(crl).read_text())\n"
        "authorities.publish(Home(settings.DOTS_HOME))",
        crl=str(outside.crl),
    )
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        look(product, theirs)
    assert look(product, cast.bob).status == 200, "our own authority is not concerned"
    found = product.manage("doctor", "--json", check=False).json
    (said,) = [one for one in found if one["name"] == "trusted authority"]
    assert "has run out" in said["sentence"]


# -- helpers


def _in(cast: Cast, name: x509.GeneralName) -> x509.GeneralName:
    """The same with the cast's domain in it."""
    if isinstance(name, x509.IPAddress):
        return name
    text = str(name.value).format(domain=cast.domain.name)
    made = type(name).__new__(type(name))
    made._value = text  # type: ignore[attr-defined]  # what a hostile authority would write is not judged here
    return made


def hears(product: Product, files: Files, code: str) -> None:
    """What a GET on the signal channel comes to, within the second in which it hears of changes."""
    until(lambda: _on_signal(product, files) == code, within=10, what=f"{code} on the signal channel")


def _on_signal(product: Product, files: Files) -> str:
    """The code of a GET, in a session of its own."""
    try:
        with peer(files, product.signal_port) as signal:
            return signal.get().code
    except Exception as error:  # noqa: BLE001  # however the engine says that there was no handshake
        assert not isinstance(error, AssertionError), error
        return "no session"
