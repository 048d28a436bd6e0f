"""The instructions that lie in every backup, for the day when this program is not there."""

from __future__ import annotations

from importlib import resources

from dagster_resil.records.manifest import Source


def restore_script() -> str:
    """Return ``restore.sh``: POSIX sh, PostgreSQL's own programs, nothing else."""
    return resources.files(__package__).joinpath("restore.sh").read_text()


def restore_readme(backup_id: str, source: Source, *, rows: int, taken_at: str) -> str:
    """Return ``RESTORE.md``.

    :param taken_at: the snapshot's time, RFC 3339.
    """
    template = resources.files(__package__).joinpath("RESTORE.md").read_text()
    for key, value in {
        "backup_id": backup_id,
        "name": backup_id.split("-", 1)[0],
        "database": source.database,
        "taken_at": taken_at,
        "rows": f"{rows:,}",
        "server_version": source.server_version,
        "major": str(source.major),
        "encoding": source.encoding,
        "collate": source.collation.collate,
        "ctype": source.collation.ctype,
        "locale": source.collation.locale or "",
        "provider": source.collation.provider,
    }.items():
        template = template.replace("{{" + key + "}}", value)
    return template
