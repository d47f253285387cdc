"""A domain's policy in words."""

from __future__ import annotations

from mitigation.dashboard import formats
from mitigation.models import Domain

_APPROVAL = {
    Domain.Approval.AUTOMATIC: "automatic, inside its own prefixes and this policy",
    Domain.Approval.ONE: "by an operator",
    Domain.Approval.TWO: "by two different people",
}


def words(domain: Domain) -> list[tuple[str, str]]:
    """Term and sentence, what matters most first."""
    found = [("Approval", _approval(domain)), ("Playbook", _playbook(domain))]
    if domain.shadow:
        found.insert(0, ("Shadow mode", "rules are rendered and shown; nothing that touches traffic is installed"))
    if domain.steps:
        found.append(("Escalation", _escalation(domain)))
    if domain.playbook_parameters:
        found.append(("Parameters", _parameters(domain)))
    found += [
        ("Longest lifetime", _lifetime(domain)),
        ("At most", _quota(domain)),
        ("In one request", _request(domain)),
        ("Never block", ", ".join(domain.never_block) or "nothing written down"),
    ]
    return found + ([("Contact", domain.contact)] if domain.contact else [])


def _approval(domain: Domain) -> str:
    said = _APPROVAL[Domain.Approval(domain.approval)]
    if domain.approval == Domain.Approval.AUTOMATIC:
        return said
    return f"{said}, within {formats.left(domain.approval_within)}; then it is withdrawn"


def _playbook(domain: Domain) -> str:
    others = [name for name in domain.allowed_playbooks if name != domain.playbook]
    if not domain.allowed_playbooks:
        return domain.playbook
    return f"{domain.playbook}; {', '.join(others)} allowed" if others else f"{domain.playbook}, no other"


def _escalation(domain: Domain) -> str:
    limits = ((domain.step_packets, "packets"), (domain.step_octets, "octets"))
    above = " or ".join(f"{limit:,} {unit}" for limit, unit in limits if limit)
    return (
        f"{', then '.join(domain.ladder)}: one step up when more than {above} a second pass for "
        f"{domain.step_up_after:,} s, for {domain.step_lasts:,} s unless needed longer; down after "
        f"{domain.step_down_after:,} s below"
    )


def _parameters(domain: Domain) -> str:
    """Those that are not at their default."""
    return "; ".join(f"{name} {_value(value)}" for name, value in sorted(domain.playbook_parameters.items()))


def _value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _lifetime(domain: Domain) -> str:
    indefinite = ", without end if asked" if domain.grants_indefinite else ""
    return f"{formats.left(domain.maximum_lifetime)}{indefinite}"


def _quota(domain: Domain) -> str:
    a_minute = f", {domain.maximum_per_minute:,} new a minute" if domain.maximum_per_minute else ""
    return f"{domain.maximum_mitigations:,} mitigations at once{a_minute}"


def _request(domain: Domain) -> str:
    targets = formats.plural(domain.maximum_targets, "target") if domain.maximum_targets else "any number of targets"
    limits = ((domain.widest_ipv4, "IPv4"), (domain.widest_ipv6, "IPv6"))
    widths = [f"/{length} ({family})" for length, family in limits if length]
    return f"{targets}, no prefix wider than {' or '.join(widths)}" if widths else f"{targets}, prefixes of any width"
