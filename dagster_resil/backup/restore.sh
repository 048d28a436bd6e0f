#!/bin/sh
# Restore this backup into an empty database with PostgreSQL's own programs. See RESTORE.md.
set -eu

if [ $# -ne 1 ]; then
    echo "usage: sh restore.sh postgresql://USER@HOST/EMPTY_DATABASE" >&2
    exit 2
fi
target=$1
here=$(cd "$(dirname "$0")" && pwd)
jobs=${JOBS:-2}

for program in psql pg_restore; do
    if ! command -v "$program" >/dev/null 2>&1; then
        echo "restore.sh: $program is not on the PATH" >&2
        echo "hint: install PostgreSQL's client programs" >&2
        exit 4
    fi
done

held=$(psql -X -A -t -q -d "$target" -c "
    SELECT count(*) FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                        WHERE d.objid = c.oid AND d.deptype = 'e')") || {
    echo "restore.sh: can't reach the target database" >&2
    echo "hint: try the same address with psql; the password comes from PGPASSWORD or a passfile" >&2
    exit 4
}
if [ "$held" != 0 ]; then
    echo "restore.sh: the target database is not empty ($held relations)" >&2
    echo "hint: make a new one with createdb --template=template0" >&2
    exit 2
fi

if [ "${ROLES:-on}" = on ]; then
    psql -X -q -v ON_ERROR_STOP=1 -v settings=off -f "$here/globals.sql" -d "$target"
fi
# shellcheck disable=SC2086 - RESTORE_OPTIONS holds several words
pg_restore --exit-on-error --no-password --no-tablespaces --jobs="$jobs" ${RESTORE_OPTIONS:-} \
    --dbname="$target" "$here/archive"
psql -X -q -v ON_ERROR_STOP=1 -v roles=off -f "$here/globals.sql" -d "$target"
echo "restored into the target database; compare its rows with the manifest's before you rely on it"
