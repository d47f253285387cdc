"""Who a cuid belongs to, and which cdids are one client's (RFC 9132, sections 4.4.1.1 and 4.4.1.2)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from mitigation.exceptions import MalformedRequest, NotFound
from mitigation.models import Alias, Change, Client, Credential, Cuid, EquivalentCdid, Mitigation
from mitigation.pki.certificates import public_key_info
from mitigation.protocol.constants import MAXIMUM_CUID_OCTETS
from mitigation.protocol.cuid import cuid_of
from mitigation.services import locks
from mitigation.services.domains import find_client
from mitigation.services.units import Unit, unit_of_work

log = logging.getLogger(__name__)


def log_unusual(new: Iterable[Cuid]) -> None:
    """Say which of these, used for the first time, are no hash of a key of their client; it may mean a shared one.

    Nobody is refused for it: the hash is recommended, not required. Behind a gateway the keys are not known.
    """
    direct = [one for one in new if not one.client.is_gateway]
    if not direct:
        return
    usual: dict[int, set[str]] = {one.client_id: set() for one in direct}
    for client_id, pem in Credential.objects.filter(client_id__in=usual).values_list("client_id", "certificate"):
        usual[client_id].add(cuid_of(public_key_info(pem.encode())))
    for one in direct:
        if one.cuid not in usual[one.client_id]:
            log.info("client %s uses the cuid %s, which is no hash of its key", one.client.name, ascii(one.cuid))


@dataclass(frozen=True, slots=True)
class Behind:
    """A client behind a gateway: the gateway's name, and the cdid it gives."""

    gateway: str
    cdid: str

    def __str__(self) -> str:
        return f"{self.gateway}/{self.cdid}"


def equate(this: Behind, that: Behind, *, actor: str, now: datetime, door: str = "command") -> EquivalentCdid:
    """From now on what `this` asks for is taken for what `that` asks for. Raises NotFound or MalformedRequest.

    Both gateways are of one domain. `this` has nothing of its own, since it could not be reached any more.
    """
    with unit_of_work(now) as unit:
        locks.table(EquivalentCdid)
        gateway, other = _gateway(this), _gateway(that)
        if gateway.domain_id != other.domain_id:
            raise MalformedRequest(f"{gateway} and {other} are of different domains")
        if this == that:
            raise MalformedRequest(f"{this} is the same twice")
        _refuse_circles(gateway, this, other, that)
        _refuse_belongings(gateway, this)
        row = EquivalentCdid.objects.create(
            gateway=gateway, cdid=this.cdid, same_as_gateway=other, same_as_cdid=that.cdid
        )
        _tell(unit, "cdid-equate", row, actor=actor, door=door)
    return row


def separate(this: Behind, *, actor: str, now: datetime, door: str = "command") -> None:
    """Undo `equate`: `this` begins with nothing, what was asked for stays with the other. Raises NotFound."""
    with unit_of_work(now) as unit:
        locks.table(EquivalentCdid)
        row = EquivalentCdid.objects.filter(gateway=_gateway(this), cdid=this.cdid).first()
        if row is None:
            raise NotFound(f"{this} is declared equivalent to nothing")
        _tell(unit, "cdid-separate", row, actor=actor, door=door)
        row.delete()


def _gateway(behind: Behind) -> Client:
    found = find_client(behind.gateway)
    if not found.is_gateway:
        raise MalformedRequest(f"{found} is no gateway: its cdid is not heard")
    if not behind.cdid or len(behind.cdid.encode()) > MAXIMUM_CUID_OCTETS:
        raise MalformedRequest(f"a cdid has 1 to {MAXIMUM_CUID_OCTETS} octets")
    return found


def _refuse_circles(gateway: Client, this: Behind, other: Client, that: Behind) -> None:
    """One step leads to where everything stands: no chains, and so no circles."""
    rows = EquivalentCdid.objects.all()
    if rows.filter(gateway=gateway, cdid=this.cdid).exists():
        raise MalformedRequest(f"{this} is declared equivalent already")
    if rows.filter(gateway=other, cdid=that.cdid).exists():
        raise MalformedRequest(f"{that} is declared equivalent to another one; name that one")
    if rows.filter(same_as_gateway=gateway, same_as_cdid=this.cdid).exists():
        raise MalformedRequest(f"others are declared equivalent to {this}; exchange the two")


def _refuse_belongings(gateway: Client, this: Behind) -> None:
    locks.domains_of_clients([gateway.pk])
    own = {"client": gateway, "cdid": this.cdid}
    if Mitigation.objects.live().filter(**own).exists():
        raise MalformedRequest(f"{this} has live mitigations; exchange the two, or wait until they have ended")
    if Alias.objects.filter(**own).exists():
        raise MalformedRequest(f"{this} has aliases; exchange the two, or have it delete them")
    if gateway.acls.filter(cdid=this.cdid).exists():
        raise MalformedRequest(f"{this} has filters; exchange the two, or have it delete them")


def _tell(unit: Unit, action: str, row: EquivalentCdid, *, actor: str, door: str) -> None:
    same_as = f"{row.same_as_gateway}/{row.same_as_cdid}"
    unit.audit(
        door=door, actor=actor, action=action, subject=f"cdid {row.gateway}/{row.cdid}", after={"same-as": same_as}
    )
    unit.tell(Change.Topic.CLIENT, row.gateway_id)
