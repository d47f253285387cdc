"""Change a domain's playbooks, their parameters and its ladder. What they may be, the service says alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from mitigation.dashboard import formats
from mitigation.dashboard.roles import only
from mitigation.exceptions import MalformedRequest, NotFound, UnfitPolicy
from mitigation.models import Domain, Mitigation
from mitigation.rules.parameters import PARAMETERS, Parameter, parse_parameter
from mitigation.services import domains
from mitigation.services.people import Role

LONGEST_TEXT = 20_000
_LISTS = ("allowed_playbooks", "ladder")
_HEX = ("redirect_mark", "redirect_mask")

# Label and hint, in the order of the page.
_FIELDS = {
    "playbook": ("Playbook", "What its requests are turned into rules by, and where a ladder begins."),
    "allowed_playbooks": ("Allowed playbooks", "Names with spaces between. Empty: all there are."),
    "ladder": ("Ladder", "Playbooks to go up by, narrowest first, among them the one above. Empty: no ladder."),
    "step_packets": ("Step up above, packets a second", "What may still pass. 0: not judged by packets."),
    "step_octets": ("Step up above, octets a second", "The same in octets. 0: not judged by octets."),
    "step_up_after": ("Step up after, seconds", "For so long it must be too much."),
    "step_down_after": ("Step down after, seconds", "For so long it must be little again."),
    "step_lasts": ("A step lasts, seconds", "Then it reverts, unless it is needed."),
}


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    label: str
    hint: str
    value: str  # as typed, or as it stands
    error: str = ""
    placeholder: str = ""
    choices: tuple[tuple[str, str], ...] = ()  # value and words

    @property
    def is_wide(self) -> bool:
        return len(self.value) > 60 or len(self.placeholder) > 60


@dataclass(frozen=True, slots=True)
class Group:
    title: str
    fields: Sequence[Field]


@only(Role.ADMIN)
@require_http_methods(["GET", "POST"])
def policy(request: HttpRequest, pk: int) -> HttpResponse:
    """The form; a POST writes all that differs from what stands, or nothing."""
    domain = Domain.objects.filter(pk=pk).first()
    if domain is None:
        raise Http404(f"There is no domain {pk}.")
    stands = _texts(domain)
    if request.method != "POST":
        return _show(request, domain, stands)
    typed = {name: request.POST.get(name, text).strip()[:LONGEST_TEXT] for name, text in stands.items()}
    if request.POST.get("version") != _version(stands):
        return _show(request, domain, typed, changed=True)
    differing = {name: text for name, text in typed.items() if text != stands[name]}
    if not differing:
        messages.warning(request, "Nothing was changed: everything stands as it did.")
        return redirect("domain", pk)
    actor = f"operator {request.user.get_username()}"
    try:
        domains.change_domain(domain.name, _values(differing), actor=actor, now=timezone.now(), door="dashboard")
    except UnfitPolicy as refusal:
        return _show(request, domain, typed, faults=refusal.faults)
    except (MalformedRequest, NotFound) as refusal:
        return _show(request, domain, typed, faults={"": str(refusal)})
    messages.success(request, f"Changed: {', '.join(differing)}. What stands follows within seconds.")
    return redirect("domain", pk)


def _values(texts: Mapping[str, str]) -> dict[str, Any]:
    """As `domain set` takes them; an empty parameter goes back to its default."""
    fields = {name: text.replace(",", " ").split() if name in _LISTS else text for name, text in texts.items()
              if name in _FIELDS}  # fmt: skip
    parameters = dict(
        parse_parameter(f"{name}={text or 'default'}") for name, text in texts.items() if name not in _FIELDS
    )
    return {**fields, **({"playbook_parameters": parameters} if parameters else {})}


# -- what stands, as text ---------------------------------------------------------------------------------------------


def _texts(domain: Domain) -> dict[str, str]:
    fields = {name: _text(name, getattr(domain, name)) for name in _FIELDS}
    given = domain.playbook_parameters
    return fields | {name: _text(name, given[name]) if name in given else "" for name in _parameters()}


def _parameters() -> dict[str, tuple[Parameter, list[str]]]:
    """Each once, with the playbooks that have it."""
    found: dict[str, tuple[Parameter, list[str]]] = {}
    for playbook, some in PARAMETERS.items():
        for one in some:
            found.setdefault(one.name, (one, []))[1].append(playbook)
    return found


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return (" " if name in _LISTS else ", ").join(map(str, value)) or ("" if name in _LISTS else "[]")
    return f"{value:#x}" if name in _HEX and isinstance(value, int) else str(value)


def _version(texts: Mapping[str, str]) -> str:
    return hashlib.blake2b(repr(sorted(texts.items())).encode(), digest_size=8).hexdigest()


# -- the page ---------------------------------------------------------------------------------------------------------


def _show(
    request: HttpRequest,
    domain: Domain,
    texts: Mapping[str, str],
    *,
    faults: Mapping[str, str] | None = None,
    changed: bool = False,
) -> HttpResponse:
    faults = faults or {}
    groups = list(_groups(texts, faults))
    running = Mitigation.objects.enforced().filter(domain=domain).count()
    shown = {field.name for group in groups for field in group.fields}
    context = {
        "domain": domain,
        "groups": groups,
        "version": _version(_texts(domain)),
        "changed": changed,
        "wrong": [field for group in groups for field in group.fields if field.error],
        "other_faults": [why for name, why in faults.items() if name not in shown],
        "effect": f"{formats.plural(running, 'running mitigation')} of this domain: rules follow within seconds."
        if running
        else "None of its mitigations runs now: it holds for the next request.",
        "current": "domains",
    }
    return render(request, "policy.html", context, status=400 if faults else 409 if changed else 200)


def _groups(texts: Mapping[str, str], faults: Mapping[str, str]) -> Iterable[Group]:
    fields = [_field(name, texts[name], faults.get(name, "")) for name in _FIELDS]
    yield Group("Playbook and ladder", fields)
    by_playbook: dict[str, list[Field]] = {playbook: [] for playbook in PARAMETERS}
    for name, (parameter, playbooks) in _parameters().items():
        field = _parameter(parameter, playbooks[1:], texts[name], faults.get(name, ""))
        by_playbook[playbooks[0]].append(field)
    for playbook, some in by_playbook.items():
        if some:
            yield Group(f"Parameters of {playbook}", some)


def _field(name: str, text: str, error: str) -> Field:
    label, hint = _FIELDS[name]
    choices = tuple((one, one) for one in PARAMETERS) if name == "playbook" else ()
    return Field(name, label, hint, text, error, choices=choices)


def _parameter(parameter: Parameter, also: Sequence[str], text: str, error: str) -> Field:
    default = _text(parameter.name, parameter.default)
    others = f" Also of {', '.join(also)}." if also else ""
    hint = f"{parameter.meaning[:1].upper()}{parameter.meaning[1:]}.{others}"
    choices: tuple[tuple[str, str], ...] = ()
    if isinstance(parameter.default, bool):
        choices = (("", f"default: {'yes' if parameter.default else 'no'}"), ("true", "yes"), ("false", "no"))
    return Field(parameter.name, parameter.name, hint, text, error, f"default: {default}", choices)
