"""Pages over HTTP. Each is read from the models when asked for; `painting` renders the same parts when they change."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_safe

from mitigation.dashboard import search as search_
from mitigation.dashboard.pages import PAGES


@login_required
@require_safe
def show(request: HttpRequest, page: str, **arguments: Any) -> HttpResponse:
    shown = PAGES[page]
    return render(request, shown.template, shown.context(timezone.now(), request.GET, **arguments))


@login_required
@require_safe
def search(request: HttpRequest) -> HttpResponse:
    return redirect(search_.find(request.GET.get("q", "")))
