"""Reading a restored database's tables for the comparison."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.fingerprints import FingerprintForm, read_contents
from dagster_resil.postgres.inventory import read_large_objects
from dagster_resil.postgres.session import prepare_session
from dagster_resil.postgres.tables import Relation, in_batches, list_tables
from dagster_resil.progress import Progress, Step
from dagster_resil.records.inventory import LargeObjects
from dagster_resil.records.manifest import Table


@dataclass(frozen=True)
class RestoredTables:
    """What a restored database's tables hold.

    :param moving: leaf table → the partitioned table among whose leaves a restore may spread
        rows anew.
    """

    tables: list[Table]
    large_objects: LargeObjects
    moving: dict[tuple[str, str], tuple[str, str]]


def read_tables(
    endpoint: Endpoint,
    *,
    form: FingerprintForm,
    jobs: int,
    leave_out: frozenset[str] = frozenset(),
    progress: Progress,
) -> RestoredTables:
    """Count and fingerprint every table of a database, on several connections.

    :param leave_out: tables ("schema.name") that the source's login could not read.
    """
    with endpoint.connect(autocommit=True) as connection:
        prepare_session(connection)
        relations = [
            relation
            for relation in list_tables(connection)
            if f"{relation.schema}.{relation.name}" not in leave_out
        ]
        connection.autocommit = False
        large_objects = read_large_objects(connection)
    batches = in_batches(relations)
    todo: queue.SimpleQueue[tuple[Relation, ...]] = queue.SimpleQueue()
    for batch in batches:
        todo.put(batch)
    tables: list[Table] = []
    lock = threading.Lock()

    def work() -> None:
        with endpoint.connect(autocommit=True) as connection:
            prepare_session(connection)
            while True:
                try:
                    batch = todo.get_nowait()
                except queue.Empty:
                    return
                found = read_contents(connection, batch, form)
                with lock:
                    tables.extend(
                        Table(
                            schema=relation.schema,
                            name=relation.name,
                            rows=found[relation.oid].rows,
                            fingerprint=found[relation.oid].fingerprint,
                            bytes=relation.bytes,
                        )
                        for relation in batch
                    )
                    progress(Step("comparing", len(tables), len(relations), "tables"))

    workers = max(1, min(jobs, len(batches)))
    with ThreadPoolExecutor(workers, thread_name_prefix="compare") as pool:
        for future in [pool.submit(work) for _ in range(workers)]:
            future.result()
    if large_objects.count:
        tables.append(
            Table(
                schema="pg_catalog",
                name="pg_largeobject",
                kind="large_objects",
                rows=large_objects.count,
                fingerprint=large_objects.fingerprint,
                bytes=large_objects.bytes,
            )
        )
    moving = {
        (relation.schema, relation.name): relation.moves_within
        for relation in relations
        if relation.moves_within
    }
    return RestoredTables(tables, large_objects, moving)
