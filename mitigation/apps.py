"""The one Django app."""

from django.apps import AppConfig


class MitigationConfig(AppConfig):
    name = "mitigation"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from mitigation import checks  # noqa: F401  registers the system checks
