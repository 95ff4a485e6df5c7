"""What a name of a pod or a fleet looks like. Imports nothing: every command looks at one."""

from __future__ import annotations

import re

POD_NAME = r"[a-z0-9][a-z0-9._-]{0,62}"
"""What a name of a pod or a fleet looks like, whole."""

_WHOLE_NAME = re.compile(POD_NAME)


def is_pod_name(text: str) -> bool:
    """Say whether the text may name a pod or a fleet, and so stand in a path.

    `operator` may not: that is who sends what no pod sends.
    """
    return _WHOLE_NAME.fullmatch(text) is not None and text != "operator"
