"""
Where PyInstaller finds the hooks of this package: it asks the entry point `pyinstaller40`.
"""

from __future__ import annotations

from pathlib import Path


def directories() -> list[str]:
    """
    The folders that have hooks.
    """
    return [str(Path(__file__).parent)]
