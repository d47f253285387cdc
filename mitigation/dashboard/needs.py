"""What needs a person, most urgent first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q
from django.urls import reverse

from mitigation.dashboard import evidence, formats, states
from mitigation.dashboard.rows import target_of
from mitigation.dashboard.states import State
from mitigation.dashboard.traffic import Rates
from mitigation.models import Acl, Credential, EnforcementPoint, Mitigation, RefusedAcl, Rule
from mitigation.protocol.status import Status

CERTIFICATE_WARNING = timedelta(days=14)
SHOWN = 6
LOOKED_AT = 500


@dataclass(frozen=True, slots=True)
class Need:
    """Shape, what, whom, since when, what it means, what the one button does."""

    key: str
    shape: str
    tone: str
    what: str
    subject: str
    subject_url: str
    whom: str
    means: str
    effect: str
    action: str
    action_url: str
    rank: int
    since: int | None = None
    since_text: str = ""

    @property
    def icon(self) -> str:
        return f"icons/{self.shape}.svg"


@dataclass(frozen=True, slots=True)
class Needs:
    shown: tuple[Need, ...]
    total: int
    tone: str = ""  # of the most urgent

    @property
    def more(self) -> int:
        return self.total - len(self.shown)


def find(now: datetime, rates: Mapping[int, Rates | None] | None = None) -> Needs:
    """`rates` by mitigation id, where they are known already: what arrives unprotected is said."""
    found = [*_mitigations(now, rates or {}), *_points(now), *_filters(now), *_certificates(now)]
    found.sort(key=lambda need: need.rank)
    return Needs(tuple(found[:SHOWN]), len(found), found[0].tone if found else "")


def _mitigations(now: datetime, rates: Mapping[int, Rates | None]) -> Iterable[Need]:
    # In a dry run nothing is ever installed, and only what was not even rendered is worth a look.
    unproved = Q(rendered_at=None) | Q(approved_at=None)
    if evidence.may_enforce():
        unproved |= Q(status=int(Status.EXCEEDED)) | Q(installed_at=None) | ~Q(problem="")
    found = list(
        Mitigation.objects.live().filter(unproved).select_related("domain").order_by("requested_at")[:LOOKED_AT]
    )
    facts = evidence.gather(found)
    for mitigation in found:
        state = states.of_mitigation(mitigation, facts[mitigation.pk], now)
        if state.is_broken or state.word == "Needs approval":
            yield _mitigation(mitigation, state, rates.get(mitigation.pk), now)


def _mitigation(mitigation: Mitigation, state: State, rates: Rates | None, now: datetime) -> Need:
    since = mitigation.approved_at or mitigation.requested_at
    arrives = f" {formats.bit_rate(rates.bits)} arrives." if rates and rates.bits else ""
    url = reverse("mitigation", args=[mitigation.pk])
    waits = mitigation.needs_approval
    return Need(
        key=f"mitigation-{mitigation.pk}",
        shape=state.shape,
        tone=state.tone,
        what=state.word,
        subject=target_of(mitigation.scope)[0],
        subject_url=url,
        whom=mitigation.domain.name,
        means=_sentence(state.detail) + arrives,
        effect=(
            "Shows what would be enforced, and asks first."
            if waits
            else "Shows which step of its proof failed, at which point and why."
        ),
        action="Approve…" if waits else "Open",
        action_url=reverse("approve", args=[mitigation.pk]) if waits else url,
        rank=state.rank,
        since=formats.milliseconds(since),
        since_text=formats.ago((now - since).total_seconds()),
    )


def _points(now: datetime) -> Iterable[Need]:
    for point in EnforcementPoint.objects.filter(enabled=True, health=EnforcementPoint.Health.DOWN).order_by("name"):
        rules = Rule.objects.filter(point=point).count()
        yield Need(
            key=f"point-{point.pk}",
            shape="lost",
            tone="bad",
            what="Point down",
            subject=point.name,
            subject_url="",
            whom=point.driver,
            means=_sentence(point.health_sentence or "It does not answer."),
            effect=f"{formats.plural(rules, 'rule')} wanted there; sent again by themselves when it is back.",
            action="See them",
            action_url=f"{reverse('mitigations')}?state=active",
            rank=1,
            since=formats.milliseconds(point.health_at) if point.health_at else None,
            since_text=formats.ago((now - point.health_at).total_seconds()) if point.health_at else "",
        )


def _filters(now: datetime) -> Iterable[Need]:
    """Lists that the equipment refuses, one row a client; and each that waits for an operator to allow it."""
    by_client: dict[int, list[RefusedAcl]] = {}
    refused = RefusedAcl.objects.filter(point__enabled=True).select_related("point", "acl__client__domain")
    for refusal in refused.defer("acl__aces").order_by("since", "pk")[:LOOKED_AT]:
        by_client.setdefault(refusal.acl.client_id, []).append(refusal)
    for some in by_client.values():
        first, more = some[0], len({one.acl_id for one in some}) - 1
        also = f" So are {formats.plural(more, 'other list', 'other lists')} of this client." if more else ""
        yield _filter(
            first.acl,
            State("Filter refused", "broken", "bad", rank=2),
            means=f"{_sentence(f'{first.point.name} cannot enforce it: {first.reason}')}{also}",
            effect="Shows the list, where it stands, and what happened to it.",
            since=first.since,
            now=now,
        )
    waiting = Acl.objects.current(now).filter(awaits_operator=True).select_related("client__domain").defer("aces")
    for acl in waiting.order_by("changed_at", "pk")[:LOOKED_AT]:
        yield _filter(
            acl,
            State("Filter needs approval", "question", "warn", rank=2),
            means="Another client of its domain does the opposite with the same traffic.",
            effect="Shows its entries; Allow and Refuse ask first.",
            since=acl.changed_at or acl.created_at,
            now=now,
        )


def _filter(acl: Acl, state: State, *, means: str, effect: str, since: datetime, now: datetime) -> Need:
    url = reverse("filter", args=[acl.pk])
    return Need(
        key=f"{state.shape}-acl-{acl.pk}",
        shape=state.shape,
        tone=state.tone,
        what=state.word,
        subject=acl.name,
        subject_url=url,
        whom=f"{acl.client.domain.name}, {acl.client.name}",
        means=means,
        effect=effect,
        action="Open",
        action_url=url,
        rank=state.rank,
        since=formats.milliseconds(since),
        since_text=formats.ago((now - since).total_seconds()),
    )


def _certificates(now: datetime) -> Iterable[Need]:
    """The last usable certificate of a client that is about to expire: its successor is not there yet."""
    usable = Credential.objects.usable(now).select_related("client", "client__domain")
    late = now + CERTIFICATE_WARNING
    renewed = set(usable.filter(not_after__gt=late).values_list("client_id", flat=True))
    for credential in usable.filter(not_after__lte=late).exclude(client_id__in=renewed).order_by("not_after"):
        yield Need(
            key=f"credential-{credential.pk}",
            shape="clock",
            tone="warn",
            what=f"Expires in {formats.left((credential.not_after - now).total_seconds())}",
            subject=credential.client.name,
            subject_url=reverse("domain", args=[credential.client.domain_id]),
            whom="certificate",
            means=f"The last certificate of this client ends on {formats.day(credential.not_after)}.",
            effect="",
            action="Open",
            action_url=reverse("domain", args=[credential.client.domain_id]),
            rank=6,
        )


def _sentence(text: str) -> str:
    text = text.strip()
    return text if not text or text[-1] in ".!?" else f"{text}."
