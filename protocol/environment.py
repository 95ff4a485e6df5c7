"""Which variables of an operator's environment go on to what a fleet starts: named, one by one.

Whatever is not here stays where it was: a variable's name does not tell whether it holds a secret.
"""

from __future__ import annotations

_CATEGORIES = (
    *("ALL", "ADDRESS", "COLLATE", "CTYPE", "IDENTIFICATION", "MEASUREMENT", "MESSAGES"),
    *("MONETARY", "NAME", "NUMERIC", "PAPER", "TELEPHONE", "TIME"),
)
OF_USERS = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "TMPDIR", "LANG", "LANGUAGE"),
        *(f"LC_{category}" for category in _CATEGORIES),
    )
)
"""What any program may see: who and where the user is, and how text is written."""

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
OF_SUPERVISORS = frozenset(
    (
        *OF_USERS,
        *(
            "TERM",
            "SUDO_UID",
            "PODSUP_HOME",
            "PODSUP_SCOPE_DIR",
            "XDG_STATE_HOME",
            "XDG_CONFIG_HOME",
        ),
        *_PROXIES,
        *map(str.upper, _PROXIES),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
        *("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "LD_LIBRARY_PATH"),
    )
)
"""What a supervisor and its pods need besides: their folders, and the way to a provider."""
