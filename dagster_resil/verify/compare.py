"""The comparison: source and restored tables, side by side.

One pandas DataFrame holds it. The checks, the terminal's table, the metadata in the UI and the
receipt are renderings of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pandas as pd

from dagster_resil.records.manifest import Table
from dagster_resil.records.receipt import Check, TableComparison
from dagster_resil.records.verdict import Verdict

_KEYS = ["schema", "name", "kind"]
_UNSETTLED = "was written to while it was exported"
_FIGURES = ["rows", "fingerprint", "bytes"]
DETAILS_SHOWN = 20


def compare_tables(
    source: Iterable[Table],
    restored: Iterable[Table],
    *,
    moving: Mapping[tuple[str, str], tuple[str, str]] = MappingProxyType({}),
) -> pd.DataFrame:
    """Join two sides on schema, name and kind.

    :param moving: leaf table → the partitioned table that is compared as a whole in its place.
    :return: a frame with ``schema, name, kind``, ``rows``, ``fingerprint`` and ``bytes`` with the
        endings ``_source`` and ``_restored`` (missing where a side has no such table),
        ``difference`` (text; empty when there is none) and ``verdict``; those that differ first,
        then by size.
    """
    joined = _frame(_gathered(source, moving)).merge(
        _frame(_gathered(restored, moving)),
        on=_KEYS,
        how="outer",
        suffixes=("_source", "_restored"),
    )
    for side in ("source", "restored"):
        for figure in ("rows", "bytes"):
            joined[f"{figure}_{side}"] = joined[f"{figure}_{side}"].astype("Int64")
    records = joined.to_dict("records")
    joined["difference"] = [_difference(row) for row in records]
    joined["verdict"] = [
        str(_verdict(row, text)) for row, text in zip(records, joined["difference"], strict=True)
    ]
    joined["_same"] = joined["difference"] == ""
    return (
        joined.assign(_bytes=-joined["bytes_source"].fillna(0))
        .sort_values(["_same", "_bytes", *_KEYS], kind="stable")
        .drop(columns=["_same", "_bytes", "settled_source", "settled_restored"])
        .reset_index(drop=True)
    )


def _gathered(
    tables: Iterable[Table], moving: Mapping[tuple[str, str], tuple[str, str]]
) -> Iterator[Table]:
    """Put leaves among which rows may move into one; rows and fingerprints are sums anyway."""
    whole: dict[tuple[str, str], Table] = {}
    for table in tables:
        root = moving.get((table.schema_, table.name))
        if root is None:
            yield table
            continue
        so_far = whole.get(root)
        whole[root] = Table(
            schema=root[0],
            name=root[1],
            rows=table.rows + (so_far.rows if so_far else 0),
            fingerprint=_sum(table.fingerprint, so_far.fingerprint if so_far else "0"),
            bytes=table.bytes + (so_far.bytes if so_far else 0),
            settled=table.settled and (so_far is None or so_far.settled),
        )
    yield from whole.values()


def _sum(one: str | None, other: str | None) -> str | None:
    return None if one is None or other is None else str(int(one) + int(other))


def _frame(tables: Iterable[Table]) -> pd.DataFrame:
    return pd.DataFrame(
        [(t.schema_, t.name, t.kind, t.rows, t.fingerprint, t.bytes, t.settled) for t in tables],
        columns=[*_KEYS, *_FIGURES, "settled"],
    ).astype(dict.fromkeys((*_KEYS, "fingerprint"), "object"))


def _difference(row: dict[Hashable, Any]) -> str:
    if pd.isna(row["rows_source"]):
        return "not in the source"
    if pd.isna(row["rows_restored"]):
        return "missing"
    wanted, found = int(row["rows_source"]), int(row["rows_restored"])
    unit = "object" if row["kind"] == "large_objects" else "row"
    if wanted != found:
        count = abs(wanted - found)
        units = unit if count == 1 else unit + "s"
        return f"{count:,} {units} {'too many' if found > wanted else 'missing'}"
    if row["settled_source"] is False:
        return _UNSETTLED
    if row["fingerprint_source"] is None and row["fingerprint_restored"] is None:
        return ""  # the rows were only counted
    if row["fingerprint_source"] != row["fingerprint_restored"]:
        return "contents differ"
    return ""


def _verdict(row: dict[Hashable, Any], difference: str) -> Verdict:
    if difference == _UNSETTLED:
        return Verdict.INCONCLUSIVE
    return Verdict.FAIL if difference else Verdict.PASS


def _title(row: dict[Hashable, Any]) -> str:
    if row["kind"] == "large_objects":
        return "large objects"
    return f"{row['schema']}.{row['name']}"


def row_counts_check(comparison: pd.DataFrame) -> Check:
    """Return ``row_counts_match``: no table more, none fewer, and all with the same rows."""
    tables = comparison[comparison["kind"] == "table"]
    records = tables.to_dict("records")
    wrong = [
        f"{_title(row)}: {row['difference']}"
        for row in records
        if row["difference"] and row["difference"] not in ("contents differ", _UNSETTLED)
    ]
    if wrong:
        return _failed("row_counts_match", wrong, len(records))
    if open_ := _unsettled(records):
        return _open("row_counts_match", open_, len(records))
    rows = int(tables["rows_source"].sum())
    return Check(
        name="row_counts_match",
        verdict=Verdict.PASS,
        summary=f"{rows:,} rows in {_tables(len(records))}, as in the source",
    )


def contents_check(comparison: pd.DataFrame) -> Check:
    """Return ``contents_match``: every fingerprint, also that of the large objects, is equal."""
    records = comparison.to_dict("records")
    wrong = [
        f"{_title(row)}: {row['difference']}"
        for row in records
        if row["difference"] and row["difference"] != _UNSETTLED
    ]
    if wrong:
        return _failed("contents_match", wrong, len(records))
    if open_ := _unsettled(records):
        return _open("contents_match", open_, len(records))
    if any(row["kind"] == "table" and row["fingerprint_source"] is None for row in records):
        return Check(
            name="contents_match",
            verdict=Verdict.INCONCLUSIVE,
            summary="the backup compares counts: its rows were counted, and nothing else",
        )
    return Check(
        name="contents_match",
        verdict=Verdict.PASS,
        summary=f"the fingerprints of {_tables(sum(row['kind'] == 'table' for row in records))} "
        "equal the source's"
        + "".join(
            f", and that of {row['rows_source']:,} large object{_s(row['rows_source'])}"
            for row in records
            if row["kind"] == "large_objects"
        ),
    )


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _tables(count: int) -> str:
    return f"{count:,} table{_s(count)}"


def _failed(name: str, wrong: list[str], total: int) -> Check:
    more = f" (and {len(wrong) - 1:,} more of {total:,} tables)" if len(wrong) > 1 else ""
    return Check(
        name=name,
        verdict=Verdict.FAIL,
        summary=wrong[0] + more,
        details=tuple(wrong[:DETAILS_SHOWN]),
    )


def _unsettled(records: list[dict[Hashable, Any]]) -> list[str]:
    return [_title(row) for row in records if row["difference"] == _UNSETTLED]


def _open(name: str, tables: list[str], total: int) -> Check:
    shown = ", ".join(tables[:3]) + (", …" if len(tables) > 3 else "")
    return Check(
        name=name,
        verdict=Verdict.INCONCLUSIVE,
        summary=f"{len(tables):,} of {total:,} tables were written to while they were exported, so "
        f"their expected contents are unknown: {shown}",
        details=tuple(f"{table}: {_UNSETTLED}" for table in tables[:DETAILS_SHOWN]),
    )


def to_records(comparison: pd.DataFrame) -> tuple[TableComparison, ...]:
    """Return the comparison as a receipt keeps it."""
    return tuple(
        TableComparison.model_validate(
            {key: None if pd.isna(value) else value for key, value in row.items()}
        )
        for row in comparison.to_dict("records")
    )
