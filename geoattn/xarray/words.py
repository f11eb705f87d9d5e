"""Words that several parts of the bridge use."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """``1 gap``, ``2 gaps``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
