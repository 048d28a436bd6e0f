"""Text for people and for records: what a database holds, and sizes."""

from __future__ import annotations


def shown(text: str) -> str:
    r"""Return text in which a byte of another encoding, as surrogateescape has it, is ``\xfc``."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_readable(text: str) -> bool:
    """Return whether text is in the encoding that it was read in, to its last byte."""
    return shown(text) == text


def size(count: int) -> str:
    """Return bytes as a person reads them: decimal units, three figures."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
