"""
The version of this package, as it was installed.
"""

from __future__ import annotations

import platform
from importlib import metadata


def version() -> str:
    """
    The installed version; "0" where the package was only copied somewhere.
    """
    try:
        return metadata.version("heap_agent")
    except metadata.PackageNotFoundError:
        return "0"


#: What requests call themselves. No host name: nothing leaves that was not asked for.
USER_AGENT = f"heap_agent/{version()} Python/{platform.python_version()}"
