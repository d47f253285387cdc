"""Addresses of the dashboard."""

from __future__ import annotations

from django.contrib.auth.views import LogoutView
from django.urls import path

from mitigation.dashboard import approving, holding, policy_form, stopping, switches, views
from mitigation.dashboard.consumers import LiveConsumer
from mitigation.dashboard.login import Login

urlpatterns = [
    path("", views.show, {"page": "now"}, name="now"),
    path("mitigations/", views.show, {"page": "mitigations"}, name="mitigations"),
    path("mitigations/<int:pk>/", views.show, {"page": "mitigation"}, name="mitigation"),
    path("mitigations/<int:pk>/stop/", stopping.stop, name="stop"),
    path("mitigations/<int:pk>/approve/", approving.decide, {"verb": "approve"}, name="approve"),
    path("mitigations/<int:pk>/reject/", approving.decide, {"verb": "reject"}, name="reject"),
    path("sessions/", views.show, {"page": "sessions"}, name="sessions"),
    path("filters/", views.show, {"page": "filters"}, name="filters"),
    path("filters/<int:pk>/", views.show, {"page": "filter"}, name="filter"),
    *(
        path(f"filters/<int:pk>/{verb}/", holding.decide, {"verb": verb}, name=f"filter-{verb}")
        for verb in ("hold", "release", "allow", "refuse")
    ),
    path("domains/", views.show, {"page": "domains"}, name="domains"),
    path("domains/<int:pk>/", views.show, {"page": "domain"}, name="domain"),
    path("domains/<int:pk>/policy/", policy_form.policy, name="policy"),
    path("points/", views.show, {"page": "points"}, name="points"),
    path("points/switches/<str:kind>/", switches.switch, name="switch"),
    path("search/", views.search, name="search"),
    path("login/", Login.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
]
websocket_urlpatterns = [path("ws/live", LiveConsumer.as_asgi())]
