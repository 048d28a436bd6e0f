"""Names and values as SQL text in which none of them can be anything else.

psql, which reads a file line by line, takes a backslash for a command and, in a comment, a carriage
return for a line's end. So whatever a name or value holds, its text here has no control character
and no backslash but one that is followed by what it stands for.
"""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CONTROL_OR_BACKSLASH = re.compile(r"[\x00-\x1f\x7f\\]")
_TO_ESCAPE = re.compile(r"[\x00-\x1f\x7f-\x9f\\\udc80-\udcff]")
_READABLE = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{1,3})|(.))", re.DOTALL)
_UNICODE_ESCAPE = re.compile(r"\\(?:([0-9a-fA-F]{4})|\+([0-9a-fA-F]{6})|(\\))")


def quoted_name(name: str) -> str:
    """Return an identifier in double quotes; ``U&"…"`` where it needs escapes."""
    doubled = name.replace('"', '""')
    if not _CONTROL_OR_BACKSLASH.search(doubled):
        return f'"{doubled}"'
    escaped = _CONTROL_OR_BACKSLASH.sub(lambda found: f"\\{ord(found[0]):04X}", doubled)
    return f'U&"{escaped}"'


def quoted_value(value: str) -> str:
    """Return a literal in single quotes; ``E'…'`` where it needs escapes."""
    doubled = value.replace("'", "''")
    if not _CONTROL_OR_BACKSLASH.search(doubled):
        return f"'{doubled}'"
    escaped = _CONTROL_OR_BACKSLASH.sub(
        lambda found: _READABLE.get(found[0], f"\\x{ord(found[0]):02x}"), doubled
    )
    return f"E'{escaped}'"


def dollar_quoted(text: str, tag: str) -> str:
    """Return a literal between dollar signs, with a number behind the tag where it needs one.

    :param text: SQL, without control characters.
    :raises ValueError: it has some.
    """
    if _CONTROL.search(text):
        raise ValueError("a control character in a statement")
    number = 1
    delimiter = f"${tag}$"
    # The end of the text and the delimiter must not make the delimiter any earlier.
    while (text + delimiter).find(delimiter) != len(text):
        number += 1
        delimiter = f"${tag}{number}$"
    return f"{delimiter}{text}{delimiter}"


def unquoted_name(text: str) -> str:
    """Return the identifier that a quoted one stands for."""
    if text[0] in "uU":
        return _UNICODE_ESCAPE.sub(_unicode, text[3:-1].replace('""', '"'))
    return text[1:-1].replace('""', '"')


def unquoted_value(text: str) -> str:
    """Return the value that a literal, ``'…'`` or ``E'…'``, stands for."""
    if text[0] in "eE":
        return _ESCAPE.sub(_escaped, text[2:-1].replace("''", "'"))
    return text[1:-1].replace("''", "'")


def _unicode(found: re.Match[str]) -> str:
    return "\\" if found[3] else chr(int(found[1] or found[2], 16))


def _escaped(found: re.Match[str]) -> str:
    if found[3]:
        return _ESCAPES.get(found[3], found[3])
    return chr(int(found[1], 16) if found[1] else int(found[2], 8))


def escaped(text: str) -> str:
    """Return a text for messages and lists, each other text another one.

    Control characters, bytes that are no UTF-8 (which psycopg reads as lone surrogates) and
    backslashes are escaped.
    """
    return _TO_ESCAPE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if found[0] in _READABLE:
        return _READABLE[found[0]]
    return f"\\x{code - 0xDC00 if code >= 0xDC80 else code:02x}"
