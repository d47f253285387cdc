"""The dashboard's URLs; the data channel has its own, in `mitigation.data_channel.urls`."""

from django.urls import include, path

urlpatterns = [path("", include("mitigation.dashboard.urls"))]
