"""Names and values as SQL text: whatever they are, a server reads them as they were."""

from __future__ import annotations

import random
import re

import pytest

from dagster_resil.postgres.quoting import (
    dollar_quoted,
    escaped,
    quoted_name,
    quoted_value,
    unquoted_name,
    unquoted_value,
)
from tests.conftest import Source

_CHARACTERS = [*map(chr, range(1, 128)), "ü", "\u0085", "\u2028", "\U0001f418"]
_PIECES = [*_CHARACTERS, "\r\n", "\\n", "''", '""', "$$", "\\000D", "\\x0d", "E'", 'U&"']


def texts(count: int) -> list[str]:
    chosen = random.Random(11)
    return [
        *_PIECES,
        *("".join(chosen.choices(_PIECES, k=chosen.randint(1, 15))) for _ in range(count)),
    ]


def test_a_server_reads_names_and_values_as_they_were(source: Source) -> None:
    with source.admin() as connection:
        for text in texts(500):
            name = text.encode()[:63].decode(errors="ignore")
            query = f"SELECT {quoted_value(text)} AS {quoted_name(name)}"
            assert not re.search(r"[\x00-\x1f\x7f]", query)
            done = connection.execute(query.encode())
            assert done.fetchone() == (text,)
            assert done.description is not None
            assert done.description[0].name == name
            body = dollar_quoted(query, "do")
            found = connection.execute(f"SELECT {body}".encode()).fetchone()
            assert found == (query,)


def test_what_is_quoted_is_read_back() -> None:
    for text in texts(2000):
        assert unquoted_name(quoted_name(text)) == text
        assert unquoted_value(quoted_value(text)) == text


@pytest.mark.parametrize("text", ["$do$", "a $do", "$do$ $do2$", "$", "$do2$$do$x"])
def test_a_tag_is_one_that_does_not_occur(one_source: Source, text: str) -> None:
    with one_source.admin() as connection:
        found = connection.execute(f"SELECT {dollar_quoted(text, 'do')}".encode()).fetchone()
        assert found == (text,)


def test_a_line_end_is_no_part_of_a_statement() -> None:
    with pytest.raises(ValueError, match="control character"):
        dollar_quoted("a\nb", "do")


def test_what_is_shown_is_readable_and_unambiguous() -> None:
    assert escaped("gr\udcfcn\n\x1b[0m") == "gr\\xfcn\\n\\x1b[0m"
    assert escaped("gr\\xfcn") == "gr\\\\xfcn"
    found = texts(2000)
    assert len({escaped(text) for text in found}) == len(set(found))
