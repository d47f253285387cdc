"""From what each mitigation wants to what equipment holds: disjoint rules, each with everybody who needs it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from mitigation.rules.boxes import Box
from mitigation.rules.canonical import LIMITS, Kind, Parameters, Rule
from mitigation.rules.decomposition import decompose

Owner = TypeVar("Owner", bound=Hashable)


@dataclass(frozen=True)
class Projected(Generic[Owner]):
    """What `rule` drops or counts, counts for each of the owners."""

    rule: Rule
    owners: frozenset[Owner]


def project(wanted: Mapping[Owner, Iterable[Rule]]) -> list[Projected[Owner]]:
    """Disjoint rules of each kind, equal in effect to all the wanted ones together.

    Where two owners want different parameters for the same packets, both wishes hold there: all source ports and
    prefixes of either, the lower limit of a source, and each one's own limit on its whole scope. The stricter of these
    comes first: what it drops does not count against the other. Of two marks the lower is set: a packet goes one way.
    """
    by_kind: dict[Kind, dict[tuple[Owner, Parameters], list[Box]]] = {}
    for owner, rules in wanted.items():
        for rule in rules:
            by_kind.setdefault(rule.kind, {}).setdefault((owner, rule.parameters), []).append(rule.box)
    return [
        Projected(
            Rule(kind, box, _merged(kind, {parameters for _, parameters in wishes})),
            frozenset(owner for owner, _ in wishes),
        )
        for kind in Kind
        if kind in by_kind
        for box, wishes in decompose(by_kind[kind])
    ]


def _merged(kind: Kind, wishes: set[Parameters]) -> Parameters:
    if len(wishes) == 1:
        return next(iter(wishes))
    if kind is Kind.RATE_LIMIT:
        return Parameters(buckets=tuple(sorted({bucket for w in wishes for bucket in w.buckets})))
    if kind is Kind.REDIRECT:
        return min(wishes, key=lambda w: (w.mark, w.mask, w.interfaces))
    if kind in LIMITS:
        return Parameters(rate=min(w.rate for w in wishes), burst=min(w.burst for w in wishes))
    prefixes = {prefix for w in wishes for prefix in w.source_prefixes}
    return Parameters(
        source_ports=tuple(sorted({port for w in wishes for port in w.source_ports})),
        source_prefixes=tuple(sorted(prefixes, key=lambda p: (p.version, int(p.network_address), p.prefixlen))),
    )
