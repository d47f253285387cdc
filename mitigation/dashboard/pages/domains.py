"""Who may ask for protection, for what, and how they prove who they are. Read only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Q
from django.http import Http404

from mitigation.dashboard import formats, policy, rows
from mitigation.dashboard.needs import CERTIFICATE_WARNING
from mitigation.dashboard.pages.base import Context, Page, Rows
from mitigation.dashboard.states import State
from mitigation.models import Acl, Client, Credential, Domain, Mitigation, Session


@dataclass(frozen=True, slots=True)
class DomainRow:
    domain: Domain
    prefixes: list[str]
    more_prefixes: int
    clients: int
    live: int
    connected: int
    expiry: State


@dataclass(frozen=True, slots=True)
class CredentialRow:
    credential: Credential
    state: State
    fingerprint: str
    expires: str


@dataclass(frozen=True, slots=True)
class ClientRow:
    client: Client
    cuids: list[str]
    connected: int
    credentials: list[CredentialRow]


def build_domains(now: datetime, query: Mapping[str, str]) -> Context:
    domains = Domain.objects.prefetch_related("prefixes").order_by("name")
    live = _numbers(Mitigation.objects.live().values("domain_id"), "domain_id")
    connected = _numbers(Session.objects.live().values("client__domain_id"), "client__domain_id")
    clients = _numbers(Client.objects.values("domain_id"), "domain_id")
    ends: dict[int, datetime] = {}
    for client in Credential.objects.usable(now).values_list("client__domain_id", "not_after").order_by("not_after"):
        ends.setdefault(*client)
    return {
        "domains": [
            DomainRow(
                domain=domain,
                prefixes=[prefix.prefix for prefix in domain.prefixes.all()][:3],
                more_prefixes=max(0, len(domain.prefixes.all()) - 3),
                clients=clients.get(domain.pk, 0),
                live=live.get(domain.pk, 0),
                connected=connected.get(domain.pk, 0),
                expiry=_expiry(ends.get(domain.pk), now),
            )
            for domain in domains
        ]
    }


def _numbers(values: object, name: str) -> dict[int, int]:
    return {row[name]: row["number"] for row in values.annotate(number=Count("pk")).order_by()}  # type: ignore[attr-defined]


def _expiry(at: datetime | None, now: datetime) -> State:
    if at is None:
        return State("No usable certificate", "broken", "bad")
    if at - now < CERTIFICATE_WARNING:
        return State(f"Expires in {formats.left((at - now).total_seconds())}", "clock", "warn", formats.day(at))
    return State(f"Good until {formats.day(at)}", "check", "good")


def build_domain(now: datetime, query: Mapping[str, str], *, pk: int) -> Context:
    domain = Domain.objects.prefetch_related("prefixes", "names").filter(pk=pk).first()
    if domain is None:
        raise Http404(f"There is no domain {pk}.")
    found = Client.objects.filter(domain=domain).prefetch_related("credentials", "cuids").order_by("name")
    clients = found.annotate(connected=Count("sessions", filter=Q(sessions__closed_at=None), distinct=True))
    live = Mitigation.objects.live().filter(domain=domain).select_related("client", "domain").order_by("-requested_at")
    return {
        "domain": domain,
        "policy": policy.words(domain),
        "clients": [_client(client, now) for client in clients],
        "rows": rows.build(list(live[:50]), now),
        "live_count": live.count(),
        "lists": Acl.objects.current(now).filter(client__domain=domain).count(),
    }


def _client(client: Client, now: datetime) -> ClientRow:
    credentials = sorted(client.credentials.all(), key=lambda c: c.not_after, reverse=True)
    return ClientRow(
        client=client,
        cuids=[cuid.cuid for cuid in client.cuids.all()],
        connected=client.connected,  # type: ignore[attr-defined]  # annotated
        credentials=[
            CredentialRow(c, _credential(c, now), formats.fingerprint(c.fingerprint), formats.day(c.not_after))
            for c in credentials
        ],
    )


def _credential(credential: Credential, now: datetime) -> State:
    if credential.state == Credential.State.REVOKED and credential.revoked_at is not None:
        return State("Revoked", "broken", "bad", f"{formats.moment(credential.revoked_at, now)}")
    if credential.state == Credential.State.UNMAPPED:
        return State("Not mapped", "broken", "bad", "no entry of the list names a client")
    if credential.not_after <= now:
        return State("Expired", "ended", "", formats.day(credential.not_after))
    if credential.not_before > now:
        return State("Not yet good", "clock", "warn", f"from {formats.moment(credential.not_before, now)}")
    return _expiry(credential.not_after, now)


DOMAINS = Page("domains", "domains.html", build_domains, regions={"domains": "partials/domains.html"})
DOMAIN = Page(
    "domain",
    "domain.html",
    build_domain,
    regions={"clients": "partials/clients.html", "domain-count": "partials/domain_count.html"},
    lists={"mitigations": Rows("partials/mitigation_row.html", "rows")},
    rail="domains",
)
