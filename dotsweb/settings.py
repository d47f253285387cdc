"""Settings of every process. Behaviour lives elsewhere; what may be set from outside is read in `env`."""

from __future__ import annotations

from pathlib import Path

from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from dotsweb import databases, env

BASE_DIR = Path(__file__).resolve().parent.parent

# State, keys and sockets of this instance; two instances differ in this and in their ports.
DOTS_HOME = env.path("DOTS_HOME", BASE_DIR / "var")
DOTS_BIND = env.words("DOTS_BIND", "0.0.0.0,::")  # signal and data channel
DOTS_WEB_BIND = env.text("DOTS_WEB_BIND", "127.0.0.1")
DOTS_WEB_PORT = env.port("DOTS_WEB_PORT", 8000)
DOTS_DATA_PORT = env.port("DOTS_DATA_PORT", 8443)
DOTS_DATA_SOCKET = env.text("DOTS_DATA_SOCKET", "")  # a unix socket for a reverse proxy, in the place of that port
DOTS_SIGNAL_PORT = env.port("DOTS_SIGNAL_PORT", 4646)
DOTS_DRIVER = env.text("DOTS_DRIVER", "auto")  # nftables, dryrun, or auto: nftables where the process may
DOTS_NFT_TABLE = env.text("DOTS_NFT_TABLE", "dots")
DOTS_NFT_MARK = 1 << env.number("DOTS_NFT_MARK_BIT", 29, highest=31)  # of the packet mark, ours alone
# Seconds of silence after which a client is lost: 15 heartbeats of 30 s (RFC 9132, sections 4.5.2 and 4.7).
DOTS_SESSION_LOSS_AFTER = env.number("DOTS_SESSION_LOSS_AFTER", 450, lowest=2)
# Seconds after which observers of an active mitigation are told its state again (RFC 9132, section 4.4.2.1). Half of it
# is above the 3 s between notifications, so that what is to be told four times is told neither three nor five times.
DOTS_NOTIFICATION_PERIOD = env.number("DOTS_NOTIFICATION_PERIOD", 30, lowest=7, highest=3600)
# Seconds that a withdrawn mitigation goes on; doubled up to 300 when it is asked for again meanwhile (section 4.4.4).
DOTS_TERMINATING_PERIOD = env.number("DOTS_TERMINATING_PERIOD", 120, lowest=1, highest=300)
# Who is asked for names of targets: `192.0.2.53`, `[2001:db8::53]:53`, `tls://192.0.2.53#dns.example`; none: those
# that the machine asks.
DOTS_RESOLVERS = env.words("DOTS_RESOLVERS", "")
DOTS_RESOLVER_CA = env.text("DOTS_RESOLVER_CA", "")  # PEM file: who may sign the resolvers' certificates
DOTS_DNSSEC = env.boolean("DOTS_DNSSEC", False)  # only what the resolver has validated counts
# Requests that one client may make a second in the long run, and at once (RFC 9132, section 11), over all its sessions.
DOTS_CLIENT_RATE = env.number("DOTS_CLIENT_RATE", 100, lowest=1)
DOTS_CLIENT_BURST = env.number("DOTS_CLIENT_BURST", 500, lowest=1)
# Octets of an answer of the data channel; a larger one is refused, and asked for in parts (RFC 8040, section 7).
DOTS_DATA_LARGEST_ANSWER = env.number("DOTS_DATA_LARGEST_ANSWER", 64 * 1024 * 1024, lowest=4_096)
# Forms of draft-reddy-dots-transport-05 besides those of RFC 9132. No client of today needs them.
DOTS_EARLY_DRAFT = env.boolean("DOTS_EARLY_DRAFT", False)
# Dropping rules that may start within a minute before the breaker holds back the rest; 0: no limit.
DOTS_BREAKER_RULES = env.number("DOTS_BREAKER_RULES", 20_000)
# Percent of all domains' addresses (IPv6: /64 networks) that they may drop or limit; 0: no limit.
DOTS_BREAKER_SHARE = env.number("DOTS_BREAKER_SHARE", 50, highest=100)
# Locks of what a machine has one of. Not under DOTS_HOME: another instance with the same table must find them.
DOTS_LOCKS = Path("/run/dots")
DOTS_POINT = "local"  # the enforcement point of this machine

SECRET_KEY = env.secret("DOTS_SECRET", DOTS_HOME / "keys" / "secret") or "not-initialised-yet-only-init-and-doctor-run"
DEBUG = False
ALLOWED_HOSTS = env.words("DOTS_WEB_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = env.words("DOTS_WEB_ORIGINS", "")

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "rest_framework",
    "mitigation",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "mitigation.dashboard.middleware.ContentSecurityPolicy",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "dotsweb.urls"
ASGI_APPLICATION = "dotsweb.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "mitigation.dashboard.context.frame",
            ]
        },
    }
]

# -- database ---------------------------------------------------------------------------------------------------------

_DATABASE_URL = env.text("DATABASE_URL", "")
DATABASES = {"default": databases.postgresql(_DATABASE_URL) if _DATABASE_URL else databases.sqlite(DOTS_HOME)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# -- bus --------------------------------------------------------------------------------------------------------------

BUS_SOCKET = DOTS_HOME / "run" / "bus.sock"
REDIS_URL = env.text("REDIS_URL", f"unix://{BUS_SOCKET}")

# Without a retry the first send after a bus restart is lost on a stale connection; without the explicit None,
# redis-py's socket timeout of 5 s ends every quiet receive.
_BUS = {
    "address": REDIS_URL,
    "socket_timeout": None,
    "health_check_interval": 15,
    "retry": Retry(ExponentialWithJitterBackoff(base=0.05, cap=1), 8),
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [_BUS], "prefix": "dots", "capacity": 1000, "expiry": 60},
    }
}

CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# Our tasks are short and may run twice, and a pool of threads cannot cancel one: trying logs a traceback each time.
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # for ever: a worker works by its own look while the bus is away
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 60,
    "unacked_restore_interval": 2,
    "unacked_restore_throttle": 1,
    # Publishing is a hint: fail within a second rather than hold up whoever has just committed.
    "max_retries": 1,
    "socket_connect_timeout": 1,
}
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TASK_DEFAULT_QUEUE = "lifecycle"
CELERY_TASK_ROUTES = {"mitigation.tasks.pki.*": {"queue": "pki"}}  # enforcement names its point's queue itself

# -- web --------------------------------------------------------------------------------------------------------------

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = DOTS_HOME / "static"
WHITENOISE_USE_FINDERS = True  # served from the checkout: nothing to collect before the first start
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "now"
LOGOUT_REDIRECT_URL = "login"
SESSION_COOKIE_NAME = "dots-session"
CSRF_COOKIE_NAME = "dots-csrf"
SESSION_COOKIE_SAMESITE = "Strict"
SESSION_COOKIE_HTTPONLY = True
X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["mitigation.data_channel.authentication.ClientCertificate"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "UNAUTHENTICATED_USER": None,
}

# -- logs -------------------------------------------------------------------------------------------------------------

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "mitigation": {"level": env.text("DOTS_LOG_LEVEL", "INFO")},
        "celery": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},
    },
}
