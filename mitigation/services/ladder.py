"""Which playbooks a mitigation goes through: the rungs of its domain's ladder, narrowest first. Writes nothing."""

from __future__ import annotations

from mitigation.models import Domain, Mitigation
from mitigation.rules.attacks import ATTACKS
from mitigation.rules.canonical import Kind

_OWN_KINDS = {
    "ratelimit": frozenset({Kind.RATE_LIMIT, Kind.DISCARD}),
    "redirect": frozenset({Kind.REDIRECT}),
    "discard": frozenset({Kind.DISCARD}),
}
_NARROW = frozenset(Kind) - frozenset().union(*_OWN_KINDS.values()) - {Kind.PASSED}


def rungs(domain: Domain) -> tuple[str, ...]:
    """Without a ladder, the domain's playbook is the only one."""
    return tuple(domain.ladder) or (domain.playbook,)


def up_to(domain: Domain, playbook: str) -> tuple[str, ...]:
    """What stands on this rung: each one below it too, so that what it need not touch is not left to it."""
    found = rungs(domain)
    return found[: found.index(playbook) + 1] if playbook in found else (playbook,)


def above(domain: Domain, playbook: str) -> tuple[str, ...]:
    found = rungs(domain)
    return found[found.index(playbook) + 1 :] if playbook in found else ()


def suited(domain: Domain, kind: str) -> tuple[str, ...]:
    """Rungs for this kind of attack, the best one first: its own, then what is narrower. None: nothing is said."""
    playbook = ATTACKS[kind].playbook if kind in ATTACKS else ""
    return up_to(domain, playbook)[::-1] if playbook in rungs(domain) else ()


def first_of(mitigation: Mitigation) -> str:
    """Where it begins: at the domain's playbook, or where what was reported has it begin."""
    found: str = (mitigation.evidence or {}).get("playbook", "")
    return found if found in rungs(mitigation.domain) else mitigation.domain.playbook


def kinds_of(playbook: str) -> frozenset[Kind]:
    """Rules by which this playbook takes packets, and no playbook below it does."""
    return _OWN_KINDS.get(playbook, _NARROW)
