"""Which credential is whose, in memory: asked after each handshake and on each request, refreshed by the cursor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from django.db.models import QuerySet

from mitigation.models import Change, Credential, EquivalentCdid


@dataclass(frozen=True, slots=True)
class Identity:
    """The client that a credential stands for."""

    credential_id: int
    client_id: int
    domain_id: int
    client_name: str
    domain_name: str
    not_before: datetime
    not_after: datetime
    is_gateway: bool = False
    # Of a gateway: cdids that stand for a client and cdid of another one (RFC 9132, section 4.4.1.2).
    equivalents: Mapping[str, tuple[int, str]] = field(default_factory=dict, compare=False)


class Book:
    """Credentials by fingerprint. `load` and `refresh` read the database; the rest only looks."""

    def __init__(self) -> None:
        self._usable: dict[str, Identity] = {}
        self._refused: set[str] = set()

    def load(self) -> None:
        """Read everything. Requests go on meanwhile in another thread: the old book holds until this one is whole."""
        fresh = Book()
        fresh._take(Credential.objects.all())
        self._refused, self._usable = fresh._refused, fresh._usable

    @staticmethod
    def concerns(changes: Iterable[tuple[str, int]]) -> bool:
        """Whether `refresh` would read anything."""
        return any(topic in (Change.Topic.CLIENT, Change.Topic.CREDENTIAL) for topic, _ in changes)

    def refresh(self, changes: Iterable[tuple[str, int]]) -> bool:
        """Read what changed; whether anything did. A changed client or domain may touch many: everything is read."""
        topics = {topic for topic, _ in changes}
        if Change.Topic.CLIENT in topics:
            self.load()
            return True
        ids = [object_id for topic, object_id in changes if topic == Change.Topic.CREDENTIAL]
        if ids:
            self._take(Credential.objects.filter(pk__in=ids))
        return bool(ids)

    def find(self, fingerprint: str, *, now: datetime) -> Identity | None:
        """Whose this certificate is, if it may be used now."""
        identity = self._usable.get(fingerprint)
        if identity is None or not identity.not_before <= now < identity.not_after:
            return None
        return identity

    def refuses(self, fingerprint: str) -> bool:
        """Whether this certificate is known and no longer good: not even a session is opened for it."""
        return fingerprint in self._refused

    def client_of(self, fingerprint: str) -> int | None:
        """The client that it stands for, inside its validity or not."""
        identity = self._usable.get(fingerprint)
        return identity.client_id if identity is not None else None

    def _take(self, credentials: QuerySet[Credential]) -> None:
        equivalents = _equivalents()
        for row in credentials.select_related("client__domain"):
            if row.state == Credential.State.ACTIVE and row.client.enabled:
                self._refused.discard(row.fingerprint)
                self._usable[row.fingerprint] = Identity(
                    credential_id=row.pk,
                    client_id=row.client_id,
                    domain_id=row.client.domain_id,
                    client_name=row.client.name,
                    domain_name=row.client.domain.name,
                    not_before=row.not_before,
                    not_after=row.not_after,
                    is_gateway=row.client.is_gateway,
                    equivalents=equivalents.get(row.client_id, {}),
                )
                continue
            self._usable.pop(row.fingerprint, None)
            if row.state != Credential.State.UNMAPPED:  # which is nobody's for now, and may connect and ask again
                self._refused.add(row.fingerprint)


def _equivalents() -> dict[int, dict[str, tuple[int, str]]]:
    """By gateway."""
    found: dict[int, dict[str, tuple[int, str]]] = {}
    for row in EquivalentCdid.objects.all():
        found.setdefault(row.gateway_id, {})[row.cdid] = (row.same_as_gateway_id, row.same_as_cdid)
    return found
