"""Stop a mitigation: say what will happen, ask, then do it; never on an old fact."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.contrib import messages
from django.db.models import Count
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from mitigation.dashboard import formats, rows
from mitigation.dashboard.roles import only
from mitigation.dashboard.rows import MitigationRow
from mitigation.exceptions import IllegalTransition, NotFound
from mitigation.models import Mitigation, Rule
from mitigation.services import mitigations
from mitigation.services.people import Role

DEFAULT_REASON = "stopped by an operator"
LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class Effect:
    """What the press will do, in sentences, and the verb with its consequence for the button."""

    told: str
    rules: str
    traffic: str
    undo: str
    button: str


@only(Role.OPERATOR)
@require_http_methods(["GET", "POST"])
def stop(request: HttpRequest, pk: int) -> HttpResponse:
    """The question as a page of its own, or (`?dialog`) as the content of a dialog; a POST acts."""
    now = timezone.now()
    row = row_of(pk, now)
    if request.method != "POST":
        return _ask(request, row, now)
    if not row.can_stop:
        messages.warning(request, f"Not stopped. {row.target} has ended already.")
        return redirect("mitigation", pk)
    if request.POST.get("version") != row.version:
        return _ask(request, row, now, changed=True)
    reason = " ".join(request.POST.get("reason", "").split())[:LONGEST_REASON] or DEFAULT_REASON
    try:
        mitigations.stop(pk, actor=f"operator {request.user.get_username()}", reason=reason, now=now)
    except (NotFound, IllegalTransition):
        messages.warning(request, f"Not stopped. {row.target} ended in the meantime.")
    else:
        messages.success(request, f"Stopped protecting {row.target}. {_effect(row).rules}")
    return redirect("mitigation", pk)


def row_of(pk: int, now: datetime) -> MitigationRow:
    mitigation = Mitigation.objects.select_related("client", "domain").filter(pk=pk).first()
    if mitigation is None:
        raise Http404(f"There is no mitigation {pk}.")
    return rows.build([mitigation], now)[0]


def _ask(request: HttpRequest, row: MitigationRow, now: datetime, *, changed: bool = False) -> HttpResponse:
    context = {"row": row, "effect": _effect(row), "now": now, "changed": changed, "current": "mitigations"}
    context["reason"] = request.POST.get("reason", "")
    template = "partials/stop_form.html" if "dialog" in request.GET else "stop.html"
    return render(request, template, context, status=409 if changed else 200)


def _effect(row: MitigationRow) -> Effect:
    leaving, staying = _rules(row)
    return Effect(
        told="Its client is told that the server has withdrawn it. There is no grace period.",
        rules=_rules_sentence(row, leaving, staying),
        traffic=_traffic_sentence(row),
        undo="It cannot be taken back here; the client may ask again at any time.",
        button=_button(row, leaving),
    )


def _rules(row: MitigationRow) -> tuple[int, int]:
    """How many of its rules leave with it, and how many stay because another mitigation needs them too."""
    owners = Rule.objects.filter(mitigations=row.pk).values_list("pk", flat=True)
    shared = Rule.objects.filter(pk__in=list(owners)).annotate(owners=Count("mitigations")).filter(owners__gt=1)
    staying = shared.count()
    return len(owners) - staying, staying


def _rules_sentence(row: MitigationRow, leaving: int, staying: int) -> str:
    if row.evidence.is_dry:
        return f"{row.evidence.why_dry}, so no traffic changes."
    if not leaving and not staying:
        return "No rule of it is installed, so no traffic changes."
    points = formats.plural(len(row.evidence.points), "point")
    kept = f" {formats.plural(staying, 'rule')} shared with others stay." if staying else " Rules of others stay."
    return f"At once: {formats.plural(leaving, 'rule')} leave {points}.{kept}"


def _traffic_sentence(row: MitigationRow) -> str:
    if row.evidence.is_dry:
        return ""
    if row.rates is None:
        return "What it holds back now is not known: there are no fresh counters."
    if not row.rates.dropped_bits:
        return "It drops nothing at this moment."
    return f"If the attack goes on, about {formats.bit_rate(row.rates.dropped_bits)} more reaches {row.target}."


def _button(row: MitigationRow, leaving: int) -> str:
    if row.evidence.is_dry or not leaving:
        return "Stop it"
    return f"Stop and remove {formats.plural(leaving, 'rule')}"
