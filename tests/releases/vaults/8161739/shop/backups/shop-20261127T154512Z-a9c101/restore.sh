#!/bin/sh
# Restore this backup into an empty database with PostgreSQL's own programs. See RESTORE.md.
set -eu

from=
if [ $# -eq 2 ]; then
    from=${1%/}
    shift
fi
if [ $# -ne 1 ]; then
    echo "usage: sh restore.sh [gs://BUCKET/…/BACKUP] postgresql://USER@HOST/EMPTY_DATABASE" >&2
    exit 2
fi
target=$1
here=$(cd "$(dirname "$0")" && pwd)
jobs=${JOBS:-2}
copy=${COPY:-gcloud storage cp -r}
copier=
if [ -n "$from" ]; then
    copier=${copy%% *}
fi

for program in psql pg_restore $copier; do
    if ! command -v "$program" >/dev/null 2>&1; then
        echo "restore.sh: $program is not on the PATH" >&2
        if [ "$program" = "$copier" ]; then
            echo "hint: install it, or name another command that copies a folder in COPY" >&2
        else
            echo "hint: install PostgreSQL's client programs" >&2
        fi
        exit 4
    fi
done

held=$(psql -X -A -t -q -d "$target" -c "
    SELECT count(*) FROM (
        SELECT oid FROM pg_catalog.pg_namespace WHERE nspname <> 'public'
        UNION ALL SELECT c.oid FROM pg_catalog.pg_class c, pg_catalog.pg_namespace n
                   WHERE n.oid = relnamespace AND nspname = 'public'
        UNION ALL SELECT p.oid FROM pg_catalog.pg_proc p, pg_catalog.pg_namespace n
                   WHERE n.oid = pronamespace AND nspname = 'public'
        UNION ALL SELECT t.oid FROM pg_catalog.pg_type t, pg_catalog.pg_namespace n
                   WHERE n.oid = typnamespace AND nspname = 'public'
        UNION ALL SELECT oid FROM pg_catalog.pg_largeobject_metadata) held
     WHERE held.oid >= 16384
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_namespace t
                        WHERE t.oid = held.oid AND t.nspname ~ '^pg_')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                        WHERE d.objid = held.oid AND d.deptype = 'e')") || {
    echo "restore.sh: can't reach the target database" >&2
    echo "hint: try the same address with psql; the password comes from PGPASSWORD or a passfile" >&2
    exit 4
}
if [ "$held" != 0 ]; then
    echo "restore.sh: the target database is not empty (it holds $held objects)" >&2
    echo "hint: make a new one with createdb --template=template0" >&2
    exit 2
fi

scratch=
trap '[ -z "$scratch" ] || rm -rf "$scratch"' EXIT
trap 'exit 4' HUP INT TERM
new_scratch() {
    if [ -z "$scratch" ]; then
        scratch=$(mktemp -d "${TMPDIR:-/tmp}/restore.XXXXXX") || exit 4
    fi
}

if [ -n "$from" ]; then
    new_scratch
    here=$scratch/$(basename "$from")
    # The command may hold several words.
    # shellcheck disable=SC2086
    if ! $copy "$from" "$scratch" || [ ! -f "$here/globals.sql" ] || [ ! -d "$here/archive" ]; then
        echo "restore.sh: can't copy $from to $scratch" >&2
        echo "hint: look at the lines above; TMPDIR needs room for the whole backup" >&2
        exit 4
    fi
fi

# A large table's file may lie in parts, which joined by their names are one gzip file again.
archive=$here/archive
if [ -n "$(find "$archive" -name '*.gz.0000' | head -n 1)" ]; then
    new_scratch
    joined=$scratch/joined
    mkdir "$joined"
    for file in "$archive"/*; do
        case $file in
            *.gz.0000) cat "${file%.0000}".[0-9]* >"$joined/$(basename "${file%.0000}")" || {
                echo "restore.sh: can't join the parts of ${file%.0000}" >&2
                echo "hint: name a folder with room for the archive in TMPDIR" >&2
                exit 4
            } ;;
            *.gz.[0-9]*) ;;
            # pg_restore refuses symbolic links.
            *) ln "$file" "$joined/" 2>/dev/null || cp "$file" "$joined/" ;;
        esac
    done
    archive=$joined
fi

if [ "${ROLES:-on}" = on ]; then
    psql -X -q -v ON_ERROR_STOP=1 -v settings=off -f "$here/globals.sql" -d "$target"
fi
restore() {
    # shellcheck disable=SC2086 - RESTORE_OPTIONS holds several words
    pg_restore "$@" --no-password --no-tablespaces --jobs="$jobs" ${RESTORE_OPTIONS:-} \
        --dbname="$target" "$archive"
}
client=$(pg_restore --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
server=$(psql -X -A -t -q -d "$target" -c "SHOW server_version_num")
if [ "$client" -ge 17 ] && [ "$server" -lt 170000 ]; then
    # It sets transaction_timeout, which an older server does not know: that error alone is let by.
    status=0
    said=$(restore 2>&1) || status=$?
    others=$(printf '%s\n' "$said" | grep '^pg_restore: error' | grep -v '"transaction_timeout"$') || true
    case $status:$others:$said in
        0::*) ;;
        1::*"errors ignored on restore"*) ;;
        *)
            printf '%s\n' "$said" >&2
            exit 1
            ;;
    esac
else
    restore --exit-on-error
fi
psql -X -q -v ON_ERROR_STOP=1 -v roles=off -f "$here/globals.sql" -d "$target"
echo "restored into the target database; compare its rows with the manifest's before you rely on it"
