"""URLs of the data channel; the dashboard never answers here."""

from django.urls import path, re_path

from mitigation.data_channel import views

urlpatterns = [
    path(".well-known/host-meta", views.host_meta, name="host-meta"),
    path(".well-known/host-meta.json", views.json_host_meta, name="host-meta-json"),
    path("restconf", views.Api.as_view(), name="restconf"),
    path("restconf/openapi.json", views.openapi_description, name="openapi"),
    path("restconf/operations", views.Operations.as_view(), name="operations"),
    path("restconf/yang-library-version", views.LibraryVersion.as_view(), name="yang-library-version"),
    path("restconf/yang/<str:name>", views.Schema.as_view(), name="schema"),
    # The path is taken apart from its octets: an escaped slash belongs to a key (RFC 8040, section 3.5.3).
    re_path(r"^restconf/data(?:/.*)?$", views.Data.as_view(), name="data"),
]

handler404 = views.not_found
handler500 = views.server_error
