"""Approve or reject what waits for people: say what will happen, ask, then do it; never on an old fact."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from mitigation.dashboard import formats, stopping
from mitigation.dashboard.roles import only
from mitigation.dashboard.rows import MitigationRow
from mitigation.exceptions import IllegalTransition, NotByThisPerson, NotFound
from mitigation.services import approvals, mitigations, plans, shadow
from mitigation.services.people import Role

DEFAULT_REASON = "by an operator"


@dataclass(frozen=True, slots=True)
class Question:
    """What the press will do, in sentences. `forbidden` says why this person cannot press."""

    title: str
    rules: str
    others: str
    told: str
    undo: str
    button: str
    is_rejection: bool
    forbidden: str = ""


@only(Role.OPERATOR)
@require_http_methods(["GET", "POST"])
def decide(request: HttpRequest, pk: int, verb: str) -> HttpResponse:
    """The question as a page of its own, or (`?dialog`) as the content of a dialog; a POST acts."""
    now = timezone.now()
    row = stopping.row_of(pk, now)
    question = _rejection(row) if verb == "reject" else _approval(request, row, now)
    if request.method != "POST":
        return _ask(request, row, question)
    if not row.needs_approval:
        messages.warning(request, f"Nothing was done: {row.target} does not wait for approval any more.")
        return redirect("mitigation", pk)
    if request.POST.get("version") != row.version or question.forbidden:
        return _ask(request, row, question, changed=not question.forbidden)
    act = partial(_reject, request.POST.get("reason", "")) if question.is_rejection else _approve
    try:
        messages.success(request, act(row, f"operator {request.user.get_username()}", now))
    except (NotFound, IllegalTransition, NotByThisPerson) as refusal:
        messages.warning(request, f"Nothing was done: {refusal}.")
    return redirect("mitigation", pk)


def _approve(row: MitigationRow, actor: str, now: datetime) -> str:
    found = mitigations.approve(row.pk, actor=actor, now=now)
    if not found.approved:
        return f"Approved {row.target} as the first of two people. Nothing is enforced before the second."
    return f"Approved {row.target}. Its rules follow within a second, unless something else holds them."


def _reject(reason: str, row: MitigationRow, actor: str, now: datetime) -> str:
    reason = " ".join(reason.split())[: stopping.LONGEST_REASON] or DEFAULT_REASON
    mitigations.reject(row.pk, actor=actor, reason=reason, now=now)
    return f"Rejected {row.target}. Its client is told that the server has withdrawn it."


def _ask(request: HttpRequest, row: MitigationRow, question: Question, *, changed: bool = False) -> HttpResponse:
    context = {"row": row, "question": question, "changed": changed, "current": "mitigations"}
    context |= {"url": row.reject_url if question.is_rejection else row.approve_url}
    context |= {"reason": request.POST.get("reason", "")}
    template = "partials/approval_form.html" if "dialog" in request.GET else "approval.html"
    return render(request, template, context, status=409 if changed else 200)


def _rejection(row: MitigationRow) -> Question:
    return Question(
        title=f"Reject protecting {row.target}?",
        rules="No rule of it is installed, so no traffic changes.",
        others="",
        told="Its client is told that the server has withdrawn it.",
        undo="It cannot be taken back here; the client may ask again at any time.",
        button="Reject it",
        is_rejection=True,
    )


def _approval(request: HttpRequest, row: MitigationRow, now: datetime) -> Question:
    mitigation = row.mitigation
    given, wanted = len(mitigation.approvals), approvals.needed(mitigation.domain)
    spoken = approvals.has_spoken(mitigation, f"operator {request.user.get_username()}")
    by = mitigation.approvals[0]["by"].removeprefix("operator ") if given else ""
    first = wanted > 1 and not given
    others = "Another person must approve it, too; nothing is enforced before." if first else ""
    return Question(
        title=f"Approve protecting {row.target}?",
        rules=_rules(row, now),
        others=others or (f"{by} has approved it already." if by else ""),
        told="Its client is told when its rules stand.",
        undo="It can be stopped at any time.",
        button="Approve as the first of two" if first else "Approve it",
        is_rejection=False,
        forbidden="You have approved it already; another person must, too." if spoken and given < wanted else "",
    )


def _rules(row: MitigationRow, now: datetime) -> str:
    """What will stand, from the plan that the enforcer renders."""
    plan = plans.of_mitigation(row.pk, now=now)
    if plan.refused:
        return f"No rule will stand: {plan.refused}."
    if plan.shadow:
        return f"{shadow.SAID.capitalize()}."
    if plan.waiting and not plan.rules:
        return f"Rules follow when its names have addresses: {plan.waiting}."
    touching = formats.plural(sum(rule.touches for rule in plan.rules), "rule")
    return f"{touching} of the playbook {plan.playbook} " + (
        "are installed within a second." if plan.enforced else "are rendered; in this dry run none is installed."
    )
