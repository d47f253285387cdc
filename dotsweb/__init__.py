"""Configuration only: settings, environment, URLs, ASGI, Celery."""
