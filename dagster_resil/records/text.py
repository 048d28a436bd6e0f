"""Text that a database holds, for people and for records."""

from __future__ import annotations


def shown(text: str) -> str:
    r"""Return text in which a byte of another encoding, as surrogateescape has it, is ``\xfc``."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_readable(text: str) -> bool:
    """Return whether text is in the encoding that it was read in, to its last byte."""
    return shown(text) == text
