"""Decide about one client's list of filters: say what will happen, ask, then do it; never on an old fact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from mitigation.dashboard import filter_rows, formats
from mitigation.dashboard.filter_rows import FilterRow
from mitigation.dashboard.roles import only
from mitigation.dashboard.stopping import LONGEST_REASON
from mitigation.exceptions import NotFound
from mitigation.models import Acl, Mitigation
from mitigation.services import filter_conflicts, filters
from mitigation.services.people import Role

MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Question:
    """What the press will do, in sentences. `wants_reason`: an empty one is asked for again."""

    title: str
    effects: tuple[str, ...]
    keep: str
    button: str
    wants_reason: bool
    is_possible: bool
    danger: bool = False


@only(Role.OPERATOR)
@require_http_methods(["GET", "POST"])
def decide(request: HttpRequest, pk: int, verb: str) -> HttpResponse:
    """`verb` is hold, release, allow or refuse. A page of its own, or (`?dialog`) what a dialog holds; a POST acts."""
    now = timezone.now()
    row = _row(pk, now)
    question = _QUESTIONS[verb](row)
    if request.method != "POST":
        return _ask(request, row, verb, question)
    if request.POST.get("version") != row.version or not question.is_possible:
        return _ask(request, row, verb, question, changed=True)
    reason = " ".join(request.POST.get("reason", "").split())[:LONGEST_REASON]
    if question.wants_reason and not reason:
        return _ask(request, row, verb, question, lacks_reason=True)
    try:
        said = _act(row, verb, reason, f"operator {request.user.get_username()}", now)
    except NotFound as refusal:
        messages.warning(request, f"Nothing was done: {refusal}.")
        return redirect("filters")
    messages.success(request, said)
    return redirect("filters") if verb == "refuse" else redirect("filter", pk)


def _act(row: FilterRow, verb: str, reason: str, actor: str, now: datetime) -> str:
    name, act = row.acl.name, partial(_VERBS[verb], row.acl.pk, actor=actor, now=now, door="dashboard")
    match verb:
        case "hold":
            act(reason=reason)
            return f"Held {name}. Its entries leave within seconds."
        case "release":
            act()
            return f"Released {name}. It stands again as its client has it, within seconds."
        case "allow":
            act()
            return f"Allowed {name}. It is enforced as its client has it, within seconds."
    act(reason=reason)
    return f"Refused {name}. It is removed, and its client finds it gone."


_VERBS: dict[str, Callable[..., object]] = {
    "hold": filters.hold,
    "release": filters.release,
    "allow": filter_conflicts.allow,
    "refuse": filter_conflicts.refuse,
}


def _row(pk: int, now: datetime) -> FilterRow:
    acl = Acl.objects.current(now).defer("aces").select_related("client__domain").filter(pk=pk).first()
    if acl is None:
        raise Http404(f"There is no filter {pk}. Its client may have deleted it, or it has run out.")
    return filter_rows.build([acl], now)[0]


def _ask(
    request: HttpRequest,
    row: FilterRow,
    verb: str,
    question: Question,
    *,
    changed: bool = False,
    lacks_reason: bool = False,
) -> HttpResponse:
    context = {
        "row": row,
        "url": row.urls[verb],
        "question": question,
        "changed": changed,
        "lacks_reason": lacks_reason,
        "reason": request.POST.get("reason", ""),
        "current": "filters",
    }
    template = "partials/filter_form.html" if "dialog" in request.GET else "filter_question.html"
    return render(request, template, context, status=409 if changed else 400 if lacks_reason else 200)


# -- questions --------------------------------------------------------------------------------------------------------


def _hold(row: FilterRow) -> Question:
    return Question(
        title=f"Hold {row.acl.name}?",
        effects=(
            f"At once: {_entries(row)} leave every point.",
            "What it dropped comes through; what it accepted may be dropped.",
            _told(row),
            "Its client cannot switch it on while it is held, but may write another list.",
            "It stays held until somebody releases it here.",
        ),
        keep="Leave it",
        button="Hold it",
        wants_reason=True,
        is_possible=not row.is_held,
        danger=True,
    )


def _release(row: FilterRow) -> Question:
    return Question(
        title=f"Release {row.acl.name}?",
        effects=(
            f"{_entries(row)} stand again as the list's activation type says: {row.activation}.",
            f"Held by {row.acl.held_by}: {row.acl.held_reason}",
            _told(row),
        ),
        keep="Keep it held",
        button="Release it",
        wants_reason=False,
        is_possible=row.is_held,
    )


def _allow(row: FilterRow) -> Question:
    return Question(
        title=f"Allow {row.acl.name}?",
        effects=(
            f"{_entries(row)} are enforced, though {_opposed(row)} the opposite with the same traffic.",
            "Where both match, the list that stands first decides: by client, and as each client has ordered its own.",
            "It can be held at any time.",
        ),
        keep="Leave it waiting",
        button="Allow it",
        wants_reason=False,
        is_possible=row.acl.awaits_operator,
    )


def _refuse(row: FilterRow) -> Question:
    return Question(
        title=f"Refuse {row.acl.name}?",
        effects=(
            f"{_entries(row)} are removed; none of them stands now, so no traffic changes.",
            "Its client finds the list gone, and may write it again.",
        ),
        keep="Leave it waiting",
        button="Refuse and remove it",
        wants_reason=True,
        is_possible=row.acl.awaits_operator,
        danger=True,
    )


_QUESTIONS = {"hold": _hold, "release": _release, "allow": _allow, "refuse": _refuse}


def _entries(row: FilterRow) -> str:
    return formats.plural(row.acl.ace_count, "entry", "entries")


def _opposed(row: FilterRow) -> str:
    found = filter_conflicts.contradicted(row.acl, now=timezone.now())
    if not found:
        return "another client's list did"  # which is gone or changed since
    names = [f"{one.name} of {one.client.name}" for one in found[:MOST_NAMED]]
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return f"{', '.join(names)}{more} {'do' if len(found) > 1 else 'does'}"


def _told(row: FilterRow) -> str:
    acl = row.acl
    running = Mitigation.objects.enforced().filter(client=acl.client_id, cdid=acl.cdid, cuid=acl.cuid).count()
    if running:
        return f"Its client is told by the status of its {formats.plural(running, 'running mitigation')}."
    return "No mitigation of its client runs by which it could be told; on the data channel the list stays as it is."
