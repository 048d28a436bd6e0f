"""Values of every type that a column may have, each another than all others of its type.

Among them are what a type takes for equal and shows otherwise, what hash functions fold to one, and
the ends of ranges.
"""

from __future__ import annotations

VALUES: dict[str, list[str]] = {
    "int2": ["0", "1", "-1", "32767", "-32768", "256"],
    "int4": ["0", "1", "-1", "2147483647", "-2147483648", "65536"],
    # 1 and 4294967296 fold to the same 32 bits, 0 and 4294967297 too.
    "int8": ["0", "1", "-1", "4294967296", "4294967297", "-4294967297", "9223372036854775807"],
    "oid": ["0", "1", "4294967295"],
    "bool": ["true", "false"],
    '"char"': ["a", "b", ""],
    "name": ["a", "A", "a ", ""],
    "uuid": ["00000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-000000000001"],
    "inet": ["10.0.0.1", "10.0.0.1/8", "10.0.0.0/8", "::1", "::ffff:10.0.0.1"],
    "cidr": ["10.0.0.0/8", "10.0.0.0/9", "::/8"],
    "macaddr": ["08:00:2b:01:02:03", "08:00:2b:01:02:04"],
    "macaddr8": ["08:00:2b:ff:fe:01:02:03", "08:00:2b:ff:fe:01:02:04"],
    "text": ["", " ", "a", "A", "a ", "ä", "a\u0308", "NULL", "'NULL'", "\\N", "a\tb", "a\nb"],
    "varchar": ["", " ", "a", "A", "a ", "NULL"],
    "refcursor": ["c", "C"],
    "float4": ["0", "-0", "1", "-1", "NaN", "Infinity", "-Infinity", "1e-45", "0.1", "0.10000001"],
    "float8": [
        "0",
        "-0",
        "1",
        "-1",
        "NaN",
        "Infinity",
        "-Infinity",
        "5e-324",
        "0.1",
        "0.10000000000000002",
    ],
    "json": ['{"a":1}', '{"a": 1}', '{"a":1,"a":2}', '{"a":1,"b":2}', '{"b":2,"a":1}', "1.0", "1"],
    "jsonb": [
        "null",
        "1",
        "1.0",
        "-1",
        '"1"',
        "[]",
        "{}",
        "[[1],2]",
        "[[1,2]]",
        "[1,[2]]",
        '{"a": {"b": 1}, "c": 2}',
        '{"a": {"b": 1, "c": 2}}',
        '{"a": {}, "b": {"x": 1}}',
        '{"a": {"x": 1}, "b": {}}',
        '"null"',
        "true",
    ],
    "jsonpath": ["$", "$.a", "$.*", "strict $", "$.a ? (@ > 1)", "$.a ? (@ > 1.0)"],
    "numeric": [
        "0",
        "0.0",
        "1",
        "1.0",
        "1.00",
        "-1",
        "10000",
        "0.0001",
        "NaN",
        "Infinity",
        "-Infinity",
        "1" + "0" * 100,
        "1" + "0" * 104,
    ],
    "numeric(10,2)": ["0", "1", "-1", "0.01"],
    # These differ by 2^32 microseconds, in bits that fold to the same.
    "timestamp": [
        "2000-01-01",
        "2000-01-01 00:00:00.000001",
        "2000-01-01 01:11:34.967296",
        "infinity",
        "-infinity",
        "4713-01-01 BC",
    ],
    "timestamptz": [
        "2000-01-01Z",
        "2000-01-01 00:00:00.000001Z",
        "2000-01-01 01:11:34.967296Z",
        "infinity",
        "-infinity",
    ],
    "time": ["00:00", "00:00:00.000001", "01:11:34.967296", "24:00"],
    # The first two are of one moment.
    "timetz": ["00:00+00", "01:00+01", "00:00:00.000001+00", "01:11:34.967296+00", "24:00+00"],
    "interval": ["1 month", "30 days", "720 hours", "-1 month", "1 day", "24 hours", "1 year"],
    "money": ["0", "0.01", "-0.01", "42949672.96"],
    "date": ["2000-01-01", "2000-01-02", "infinity", "-infinity", "4713-01-01 BC"],
    "bytea": ["", "\\x00", "\\x0000", "a"],
    "char(4)": ["a", "A", "ab"],
    "bpchar": ["a", "a ", "a  "],
    "bit(4)": ["0000", "0001"],
    "varbit": ["", "0", "00"],
    "xml": ["<a/>", "<a></a>", "<a> </a>", "text"],
    # Their = compares areas, lengths or numbers of points, or allows for a small difference.
    "point": ["(0,0)", "(-0,0)", "(0,-0)", "(0,1e-7)", "(0,2e-7)"],
    "lseg": ["[(0,0),(1,1)]", "[(1,1),(0,0)]", "[(0,0),(1,-1)]"],
    "box": ["(1,1),(0,0)", "(2,1),(1,0)", "(4,0.25),(0,0)"],
    "path": ["((0,0),(1,1))", "[(0,0),(1,1)]", "[(1,1),(0,0)]"],
    "polygon": ["((0,0),(1,1),(1,0))", "((1,1),(1,0),(0,0))", "((0,0),(0,1),(1,0))"],
    "circle": ["<(0,0),1>", "<(5,5),1>", "<(0,0),1.00000001>"],
    "line": ["{1,-1,0}", "{2,-2,0}", "{1,0,-1}"],
    "tsvector": ["'a' 'b'", "'a':1 'b':2", "'a':1A 'b':2", "'a':2 'b':1"],
    "tsquery": ["'a' & 'b'", "'b' & 'a'", "'a' | 'b'", "'a' <-> 'b'", "'a':*", "'a':A"],
    "xid": ["0", "1", "4294967295"],
    "xid8": ["0", "1", "4294967296"],
    "cid": ["0", "1"],
    "tid": ["(0,1)", "(1,0)", "(0,2)"],
    "pg_lsn": ["0/1", "1/0"],
    "pg_snapshot": ["10:20:", "10:20:14", "10:20:14,15"],
    "txid_snapshot": ["10:20:", "10:20:14", "10:20:14,15"],
    "int2vector": ["", "1", "1 2", "2 1"],
    "oidvector": ["", "1", "1 2", "2 1"],
    "aclitem": ["=r/postgres", "postgres=r/postgres", "=r*/postgres", "=rw/postgres"],
    "regclass": ["pg_class", "pg_type", "0", "4294967295"],
    "regcollation": ['"C"', '"POSIX"', "0"],
    "regconfig": ["simple", "english", "0"],
    "regdictionary": ["simple", "english_stem", "0"],
    "regnamespace": ["pg_catalog", "public", "0"],
    "regoper": ["|/", "0", "4294967295"],
    "regoperator": ["+(integer,integer)", "+(bigint,bigint)", "0"],
    "regproc": ["now", "0", "4294967295"],
    "regprocedure": ["now()", "lower(text)", "0"],
    "regrole": ["postgres", "0", "4294967295"],
    "regtype": ["integer", "integer[]", "0"],
    # One set of numbers may be written in several ways; of a range of integers one is left.
    "int4range": ["[1,2)", "[1,3)", "empty", "(,)", "[1,)"],
    "int8range": ["[1,2)", "[1,3)", "empty", "(,)", "[4294967296,4294967297)"],
    "numrange": ["[1,2)", "[1,2]", "(1,2)", "[1.0,2)", "[1,2.0)", "empty", "(,)", "[1,)"],
    "daterange": ["[2000-01-01,2000-01-02)", "[2000-01-01,infinity)", "[2000-01-01,)", "empty"],
    "tsrange": ["[2000-01-01,2000-01-02)", "[2000-01-01,2000-01-02]", "[2000-01-01,)", "empty"],
    "tstzrange": ["[2000-01-01Z,2000-01-02Z)", "[2000-01-01Z,2000-01-02Z]", "(,)", "empty"],
    "int4multirange": ["{}", "{[1,2)}", "{[1,2),[5,6)}", "{[1,6)}"],
    "int8multirange": ["{}", "{[1,2)}", "{[1,2),[5,6)}", "{[1,6)}"],
    "nummultirange": ["{}", "{[1,2)}", "{[1,2]}", "{[1.0,2)}", "{[1,2),(2,3]}"],
    "datemultirange": ["{}", "{[2000-01-01,2000-01-02)}", "{[2000-01-01,)}"],
    "tsmultirange": ["{}", "{[2000-01-01,2000-01-02)}", "{[2000-01-01,2000-01-02]}"],
    "tstzmultirange": ["{}", "{[2000-01-01Z,2000-01-02Z)}", "{[2000-01-01Z,2000-01-02Z]}"],
    "int4[]": ["{}", "{1,2}", "[0:1]={1,2}", "{{1,2}}", "{{1},{2}}", "{NULL}"],
    "text[]": ["{NULL}", '{"NULL"}', '{""}', "{}", "{a}", "{A}", "[5:5]={a}"],
    "numeric[]": ["{}", "{1}", "{1.0}", "{{1}}"],
    "jsonb[]": ["{}", '{"1"}', '{"1.0"}', '{"{\\"a\\": 1}"}'],
    "numrange[]": ["{}", '{"[1,2)"}', '{"[1.0,2)"}'],
}


def values_of(major: int) -> dict[str, list[str]]:
    """Return the types that a major version has, and the values of each that it reads."""
    if major >= 14:
        return VALUES
    found = {name: some for name, some in VALUES.items() if "multirange" not in name}
    return found | {"numeric": [value for value in VALUES["numeric"] if "Infinity" not in value]}


"""By the type's name in SQL; values as their type reads them."""

OF_EXTENSIONS: dict[str, dict[str, list[str]]] = {
    "citext": {"citext": ["a", "A", "a ", "ä", "Ä"], "citext[]": ["{a}", "{A}"]},
    "hstore": {"hstore": ["", "a=>1", "a=>NULL", 'a=>"NULL"', "a=>1,b=>2", "A=>1"]},
    "ltree": {
        "ltree": ["", "a", "a.b", "A.b", "b.a"],
        "lquery": ["*", "a.*", "a.*{1}", "a@", "a%"],
        "ltxtquery": ["a & b", "b & a", "a@ & b", "a* & b"],
    },
    "cube": {"cube": ["(0)", "(0),(1)", "(0,0)", "(0,0),(1,1)", "(1)", "(1e-320)"]},
    "seg": {"seg": ["1", "1.0", "1.00", "~1", "<1", "1 .. 2", "1.0 .. 2", "1 .."]},
    "isn": {
        "isbn13": ["9780110005331", "9780393040029"],
        "isbn": ["9780110005331", "9780393040029"],
        "issn": ["1436-4522", "0317-8471"],
        "ean13": ["9780110005331", "9780393040029"],
    },
    "intarray": {"query_int": ["1&2", "2&1", "1|2", "!1"]},
    "lo": {"lo": ["0", "1", "4294967295"]},
    "vector": {
        "vector": ["[1,2]", "[1,3]", "[1,2,3]", "[-0,1]", "[0,1]"],
        "halfvec": ["[1,2]", "[1,3]", "[0,1]", "[-0,1]"],
        "sparsevec": ["{1:1}/3", "{1:1}/4", "{2:1}/3"],
    },
}
"""Types of extensions, by the extension; not every server has each."""

MADE: dict[str, tuple[list[str], list[str]]] = {
    "s.mood": (
        ["CREATE TYPE s.mood AS ENUM ('sad', 'Sad', 'ok', 'NULL', 'a,b')"],
        ["sad", "Sad", "ok", "NULL", "a,b"],
    ),
    "s.amount": (["CREATE DOMAIN s.amount AS numeric CHECK (VALUE >= 0)"], ["1", "1.0", "0.10"]),
    "s.pair": (
        ["CREATE TYPE s.pair AS (n numeric, j jsonb)"],
        ["(1,1)", "(1.0,1)", "(1,1.0)", "(,1)", "(1,)", "(,)", '(1,"[[1],2]")', '(1,"[[1,2]]")'],
    ),
    "s.nest": (
        ["CREATE TYPE s.inner AS (a int[], p s.pair)", "CREATE TYPE s.nest AS (i s.inner, t text)"],
        [
            '("({1},""(1,1)"")",a)',
            '("({1},""(1.0,1)"")",a)',
            '("([0:0]={1},""(1,1)"")",a)',
            '("({1},""(1,1)"")",A)',
            '("({1},)",a)',
        ],
    ),
    "s.pair[]": ([], ['{"(1,1)"}', '{"(1.0,1)"}', "{}", '[0:0]={"(1,1)"}', "{NULL}"]),
    "s.amounts": (
        ["CREATE DOMAIN s.amounts AS s.amount[]"],
        ["{1}", "{1.0}", "[2:2]={1}", "{}", "{{1}}"],
    ),
    "s.noted": (
        ["CREATE TYPE s.noted AS RANGE (SUBTYPE = numeric)"],
        ["[1,2)", "[1.0,2)", "[1,2]", "empty", "(,)"],
    ),
    "s.ci_text": (
        [
            "CREATE COLLATION s.ci (PROVIDER = icu, LOCALE = 'und-u-ks-level2', "
            "DETERMINISTIC = false)",
            "CREATE DOMAIN s.ci_text AS text COLLATE s.ci",
        ],
        ["a", "A", "ä", "Ä", "a\u0308"],
    ),
    "s.ci_pair": (
        ["CREATE TYPE s.ci_pair AS (t s.ci_text, u text COLLATE s.ci)"],
        ["(a,a)", "(A,a)", "(a,A)", "(,a)"],
    ),
    "s.ci_text[]": ([], ["{a}", "{A}", "{a,A}", "{A,a}"]),
}
"""Types that a database makes: the statements, which may fail for want of ICU, and the values."""

NO_INPUT = {
    "gtsvector",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_ndistinct",
    "pg_node_tree",
}
"""Types that no text is read as: a column may have them, but no restore brings a value back."""
