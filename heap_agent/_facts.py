"""
What kind of device, system and program this is: asked for with ``capture_device=True``.

None of it names a machine or a person: no host name, no serial number, no address.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from heap_agent._version import version

#: Where Linux tells what it runs on: boards first, then what has a firmware like a PC's.
_MODELS: Final = (
    ("/proc/device-tree/model",),
    ("/sys/class/dmi/id/sys_vendor", "/sys/class/dmi/id/product_name"),
)

#: What makers leave in when they had nothing to say.
_BLANKS: Final = {"", "to be filled by o.e.m.", "system manufacturer", "system product name"}


def facts(app_version: str | None) -> dict[str, str]:
    """
    Properties for every event; what cannot be told is left out.

    Args:
        app_version: Of the program, as it says.
    """
    found = {
        "Device Model": _first(_model, platform.machine),
        "Operating System": _first(_system, platform.system),
        "Architecture": platform.machine(),
        "Python Version": platform.python_version(),
        "Agent Version": version(),
        "App Version": app_version,
    }
    return {name: value for name, value in found.items() if value}


def _first(*readers: Callable[[], str]) -> str:
    for read in readers:
        # Systems differ, and containers hide what they like.
        with suppress(Exception):
            if found := read().strip():
                return found
    return ""


def model_among(texts: Iterable[str]) -> str:
    """
    A model's name put together from its parts; those that say nothing are left out.
    """
    parts = [" ".join(text.replace("\0", " ").split()) for text in texts]
    return " ".join(dict.fromkeys(part for part in parts if part.lower() not in _BLANKS))


def _model() -> str:
    if sys.platform == "win32":
        import winreg

        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\BIOS") as key:
            names = ("SystemManufacturer", "SystemProductName")
            return model_among(str(winreg.QueryValueEx(key, name)[0]) for name in names)
    for paths in _MODELS:
        with suppress(OSError):
            if found := model_among(Path(path).read_text("utf-8", "replace") for path in paths):
                return found
    return ""


def _system() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    if sys.platform == "win32":
        return f"Windows {platform.version()}"
    return platform.freedesktop_os_release()["PRETTY_NAME"]
