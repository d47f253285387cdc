"""URLs of the data channel; the dashboard never answers here."""

from django.urls import path

from mitigation.data_channel.views import Root

urlpatterns = [path("restconf", Root.as_view(), name="restconf")]
