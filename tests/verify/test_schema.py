"""What two dumps of a schema differ in."""

from __future__ import annotations

import pytest

from dagster_resil.verify.schema import compare_dumps

HEADER = """--
-- Name: {name}; Type: {kind}; Schema: -; Owner: owner
--

{text}

"""
PLAIN = 'CREATE USER MAPPING FOR "user" SERVER "ser ver";'
WITH = 'CREATE USER MAPPING FOR "user" SERVER "ser ver" OPTIONS (\n    password \'{}\'\n);'


def dump(kind: str, text: str, name: str = "USER MAPPING user SERVER ser ver") -> str:
    return HEADER.format(kind=kind, name=name, text=text)


def mapping(text: str) -> str:
    return dump("USER MAPPING", text)


def test_options_of_a_user_mapping_that_the_source_did_not_show() -> None:
    """Only where the archive was made by somebody else, and only those."""
    shown, hidden = mapping(WITH.format("a")), mapping(PLAIN)
    assert not compare_dumps(hidden, shown, mappings_hidden=True)
    assert compare_dumps(hidden, shown)
    assert compare_dumps(shown, hidden, mappings_hidden=True)
    assert compare_dumps(shown, mapping(WITH.format("b")), mappings_hidden=True)
    assert compare_dumps(hidden, mapping(PLAIN.replace("ver", "va")), mappings_hidden=True)
    assert compare_dumps(hidden, "", mappings_hidden=True)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("USER MAPPING", WITH),
        ("SUBSCRIPTION", "CREATE SUBSCRIPTION s CONNECTION 'password={}' PUBLICATION p;"),
        ("SERVER", "CREATE SERVER s FOREIGN DATA WRAPPER f OPTIONS (\n    passwd '{}'\n);"),
    ],
)
def test_what_may_be_a_secret_is_in_no_report(kind: str, text: str) -> None:
    [found] = compare_dumps(dump(kind, text.format("s3cr3t")), dump(kind, text.format("0th3r")))
    assert found.what == "different"
    assert "s3cr3t" not in str(found)
    assert "0th3r" not in str(found)
    [found] = compare_dumps(dump("TABLE", "CREATE one"), dump("TABLE", "CREATE other"))
    assert "+CREATE other" in found.detail
