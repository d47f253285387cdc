"""Configuration only: settings, environment, URLs, ASGI, Celery."""

from dotsweb.celery import app as celery_app

__all__ = ["celery_app"]
