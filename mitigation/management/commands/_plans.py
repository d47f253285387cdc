"""`mitigation plan` and `mitigation replay`: what a request would do, on paper and to captured traffic."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from django.core.management.base import CommandError

from mitigation.exceptions import MalformedRequest
from mitigation.management.commands._output import now, table
from mitigation.protocol import targets
from mitigation.protocol.scope import PortRange, Scope, parse_target_prefix
from mitigation.rules.captures import Capture, read_capture
from mitigation.rules.replay import Replayed, replay
from mitigation.services import plans
from mitigation.services.plans import Outlook

TOP = 10  # sources shown


def add_request_arguments(parser: ArgumentParser) -> None:
    """Either a mitigation by its ID, or a request as a client of a domain would make it."""
    parser.add_argument("--id", type=int, help="a mitigation, as `mitigation list` shows it")
    parser.add_argument("--domain", help="whose client would ask")
    parser.add_argument("--prefix", action="append", default=[], metavar="P", help="target-prefix; may be repeated")
    parser.add_argument("--fqdn", action="append", default=[], metavar="NAME", help="target-fqdn")
    parser.add_argument("--uri", action="append", default=[], metavar="URI", help="target-uri")
    parser.add_argument("--port", action="append", default=[], metavar="N[-N]", help="target-port-range")
    parser.add_argument("--protocol", action="append", type=int, default=[], metavar="N", help="target-protocol")
    parser.add_argument("--playbook", default="", help="another one than the domain's policy has")


def outlook(options: Mapping[str, Any]) -> Outlook:
    """Raises CommandError for neither or both ways of naming it, DotsError for what cannot be."""
    asked = any(options[name] for name in ("domain", "prefix", "fqdn", "uri", "port", "protocol"))
    if (options["id"] is None) == (not asked):
        raise CommandError("say either --id, or --domain with --prefix, --fqdn or --uri")
    if options["id"] is not None:
        return plans.of_mitigation(options["id"])
    if not options["domain"] or not (options["prefix"] or options["fqdn"] or options["uri"]):
        raise CommandError("a request needs --domain and at least one of --prefix, --fqdn, --uri")
    for uri in options["uri"]:
        targets.parse_target_uri(uri)
    scope = Scope(
        target_prefix=tuple(map(parse_target_prefix, options["prefix"])),
        target_port_range=tuple(map(_ports, options["port"])),
        target_protocol=tuple(options["protocol"]),
        target_fqdn=tuple(options["fqdn"]),
        target_uri=tuple(options["uri"]),
    )
    return plans.of_request(options["domain"], scope, playbook=options["playbook"], now=now())


def _ports(text: str) -> PortRange:
    lower, _, upper = text.partition("-")
    try:
        found = PortRange(int(lower), int(upper or lower))
    except ValueError:
        raise MalformedRequest(f"--port {text[:20]}: write 443 or 8000-8099") from None
    if not 0 <= found.lower <= found.upper <= 65_535:
        raise MalformedRequest(f"--port {text[:20]}: ports go from 0 to 65535, the lower one first")
    return found


# -- plan -------------------------------------------------------------------------------------------------------------


def plan_values(found: Outlook) -> dict[str, Any]:
    return {
        "domain": found.domain.name,
        "playbook": found.playbook,
        "verdict": f"refused: {found.refused}" if found.refused else "would stand" if found.enforced else "dry run",
        "addresses": found.addresses,
        "waiting": found.waiting,
        "rules": [{"kind": rule.kind.value, "drops": rule.drops, "text": rule.text} for rule in found.rules],
        "notes": list(found.notes),
        "overlaps": [
            {
                "id": shared.mitigation.pk,
                "mid": shared.mitigation.mid,
                "client": shared.mitigation.client.name,
                "shares": [*map(str, shared.networks), *(name for _, name in shared.names)],
            }
            for shared in found.overlaps
        ],
    }


def plan_lines(found: Outlook) -> Iterator[str]:
    values = plan_values(found)
    yield values["verdict"]
    protects = "1 address" if found.addresses == 1 else f"{found.addresses:,} addresses"
    yield f"{values['playbook']} for {protects} of {values['domain']}"
    if found.waiting:
        yield f"waits for {found.waiting}"
    for rule in found.rules:
        yield f"  {rule.text}"
    for note in found.notes:
        yield f"note: {note}"
    for other in values["overlaps"]:
        shares = ", ".join(other["shares"])
        yield f"overlaps with mitigation {other['id']} of {other['client']} (mid {other['mid']}): {shares}"
    if not found.overlaps:
        yield "overlaps with nothing"


# -- replay -----------------------------------------------------------------------------------------------------------


def replay_values(path: Path, found: Outlook) -> dict[str, Any]:
    """Raises BadCapture or OSError."""
    capture = read_capture(path)
    done = replay(found.rules, capture)
    return {
        "file": str(path),
        "seconds": round(float(np.ptp(capture.time)), 3) if len(capture) else 0.0,
        "packets": len(capture),
        "not_ip": capture.others,
        "in_scope": _sum(capture, done.in_scope),
        "dropped": _sum(capture, done.dropped),
        "passed": _sum(capture, done.in_scope & ~done.dropped),
        "rules": [
            {
                "rule": hit.rule.text,
                "met": hit.met_packets,
                "dropped": hit.dropped_packets,
                "dropped_octets": hit.dropped_octets,
            }
            for hit in done.hits
        ],
        "sources": _sources(capture, done),
    }


def _sum(capture: Capture, mask: Any) -> dict[str, int]:
    return {"packets": int(np.count_nonzero(mask)), "octets": int(capture.length[mask].sum())}


def _sources(capture: Capture, done: Replayed) -> list[dict[str, Any]]:
    """Who sent most of what was dropped, and what of theirs passed: the question asked before a rule is trusted."""
    rows = np.flatnonzero(done.in_scope)
    ends = np.stack([capture.family[rows].astype(np.uint64), capture.source_high[rows], capture.source_low[rows]])
    sources, which = np.unique(ends, axis=1, return_inverse=True)
    dropped = np.bincount(which.ravel(), weights=done.dropped[rows], minlength=sources.shape[1])
    everything = np.bincount(which.ravel(), minlength=sources.shape[1])
    order = np.argsort(-dropped, kind="stable")[:TOP]
    found = []
    for at in order[dropped[order] > 0]:
        family, high, low = (int(value) for value in sources[:, at])
        address = IPv4Address(low) if family == 4 else IPv6Address(high << 64 | low)
        found.append({"source": str(address), "dropped": int(dropped[at]), "passed": int(everything[at] - dropped[at])})
    return found


def replay_lines(values: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{values['packets']:,} IP packets in {values['seconds']:,.1f} s of {Path(values['file']).name}"
        + (f", and {values['not_ip']:,} frames that are not IP" if values["not_ip"] else "")
    )
    scope, dropped, passed = values["in_scope"], values["dropped"], values["passed"]
    if not scope["packets"]:
        yield "none of them goes to what is protected"
        return
    share = 100 * dropped["packets"] / scope["packets"]
    yield (
        f"{scope['packets']:,} go to what is protected: {dropped['packets']:,} dropped ({share:.1f} %,"
        f" {dropped['octets']:,} octets), {passed['packets']:,} passed ({passed['octets']:,} octets)"
    )
    yield ""
    yield from table([{**row, "rule": shorten(row["rule"], 90)} for row in values["rules"]])
    if values["sources"]:
        yield ""
        yield from table(values["sources"])
