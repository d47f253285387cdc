"""Addresses of the dashboard."""

from __future__ import annotations

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from mitigation.dashboard import stopping, switches, views
from mitigation.dashboard.consumers import LiveConsumer

urlpatterns = [
    path("", views.show, {"page": "now"}, name="now"),
    path("mitigations/", views.show, {"page": "mitigations"}, name="mitigations"),
    path("mitigations/<int:pk>/", views.show, {"page": "mitigation"}, name="mitigation"),
    path("mitigations/<int:pk>/stop/", stopping.stop, name="stop"),
    path("sessions/", views.show, {"page": "sessions"}, name="sessions"),
    path("domains/", views.show, {"page": "domains"}, name="domains"),
    path("domains/<int:pk>/", views.show, {"page": "domain"}, name="domain"),
    path("points/", views.show, {"page": "points"}, name="points"),
    path("points/switches/<str:kind>/", switches.switch, name="switch"),
    path("search/", views.search, name="search"),
    path("login/", LoginView.as_view(template_name="login.html", redirect_authenticated_user=True), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
]
websocket_urlpatterns = [path("ws/live", LiveConsumer.as_asgi())]
