-- The hostile database: what makes backups go wrong, on few rows.
--
-- psql -X -q -v ON_ERROR_STOP=1 --file hostile.sql
--
-- As a superuser, into an empty UTF-8 database of any name, PostgreSQL 13 to 18. What only some
-- versions or builds know stands in an \if. Two loads are equal. All of it goes through the stock
-- pg_dump -Fd and pg_restore -j without an error and without losing a row. Left out, since it does
-- not, for reasons that are PostgreSQL's own:
--   * partitions by the hash of an enum: the hash is one of the label's OID, which a restore
--     changes, so pg_dump loads through the parent and rows end up in other partitions
--     (the same total, other counts in each);
--   * regclass values that name an index: the index is not there yet when the rows are loaded;
--   * a partition that disables a trigger of its parent: the archive does not say that the
--     trigger has to be there first;
--   * newlines in names of roles and databases: pg_dumpall refuses them;
--   * a dropped schema public: it is there again after a restore;
--   * a database setting of client_encoding: pg_dump without --encoding writes in it, and fails at
--     what it can't say;
--   * database settings of default_transaction_read_only, array_nulls and the like: set before
--     the rows are loaded, they spoil the restore itself;
--   * check constraints that look into other tables: the rows may come in another order;
--   * subscriptions: they keep DROP DATABASE from working, and a connection does not belong here;
--   * tablespaces and security labels: they need folders and modules on the server's machine;
--   * an extension with a table of its own: no contrib module has one that pg_dump would read.

\encoding UTF8
\o /dev/null
SET client_min_messages = error;
SET standard_conforming_strings = on;
SET bytea_output = hex;
SET DateStyle = 'ISO, MDY';
SET IntervalStyle = postgres;
SET TIME ZONE 'UTC';
SET statement_timeout = 0;
SET search_path = public;

SELECT current_setting('server_version_num')::int >= 140000 AS v14,
       current_setting('server_version_num')::int >= 150000 AS v15,
       current_setting('server_version_num')::int >= 160000 AS v16,
       current_setting('server_version_num')::int >= 170000 AS v17,
       current_setting('server_version_num')::int >= 180000 AS v18,
       EXISTS (SELECT FROM pg_collation WHERE collname = 'und-x-icu') AS has_icu \gset
SELECT bool_or(name = 'citext') AS has_citext, bool_or(name = 'hstore') AS has_hstore,
       bool_or(name = 'ltree') AS has_ltree, bool_or(name = 'pg_trgm') AS has_trgm,
       bool_or(name = 'postgres_fdw') AS has_postgres_fdw
FROM pg_available_extensions \gset

-- A build without libxml knows the type but can't read a value.
DO $$
BEGIN
    PERFORM xmlparse(CONTENT '<a/>');
    PERFORM set_config('hostile.xml', 'true', false);
EXCEPTION WHEN feature_not_supported THEN
    PERFORM set_config('hostile.xml', 'false', false);
END
$$;
SELECT current_setting('hostile.xml') AS has_xml \gset

-- Roles --------------------------------------------------------------------------------------
-- They belong to the whole server: another load may make them at the same moment, and two
-- changes of one role at once are an error, so each is made whole in one go and then left alone.

DO $$
DECLARE
    name text;
    options text;
BEGIN
    FOR name, options IN VALUES
        ('Röle with space', 'NOLOGIN'),
        ('Quote"''\Role', 'NOLOGIN NOINHERIT'),
        ('tab	role', 'NOLOGIN CREATEDB VALID UNTIL ''2030-01-01 00:00:00+00'''),
        ('user', 'LOGIN CONNECTION LIMIT 3'),
        ('$role; --%s', 'NOLOGIN IN ROLE "Röle with space"'),
        ('naïve_名前_🐘', 'LOGIN CREATEROLE'),
        ('r' || repeat('ö', 31), 'NOLOGIN BYPASSRLS')
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I %s', name, options);
                EXECUTE format('COMMENT ON ROLE %I IS %L', name, E'odd\nname: "' || name || '"');
                EXECUTE format('ALTER ROLE %I SET search_path = "$user", "a.b", public', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
    END LOOP;
END
$$;

GRANT ALL ON SCHEMA public TO "Röle with space";

-- Names --------------------------------------------------------------------------------------

SELECT format('CREATE SCHEMA %I', name) FROM unnest(ARRAY[
    'Mixed Case', 'a', 'a.b', 'select', 'quo"te', E'new\nline', E'tab\tbed', 'back\slash',
    '$$dollar$$', '100%s %n', 'schéma', '数据', '--', '; DROP SCHEMA public', '*', '-t', '🐘',
    E'bell\u0007', 's' || repeat('é', 31), 'PG_upper', ' '
]) AS name \gexec

-- Each odd schema has a table of its own name; every odd name is a table's, and its columns'.
SELECT format('CREATE TABLE %I.%I (%I text)', nspname, nspname, nspname)
FROM pg_namespace WHERE oid >= 16384 \gexec
SELECT format('CREATE TABLE %I.%I (%I integer PRIMARY KEY, %I text DEFAULT %L, %I bigserial)',
              schema, name, name, '.' || name, name, 'no. ' || left(name, 6))
FROM unnest(ARRAY['public', 'Mixed Case']) AS schema,
     unnest(ARRAY[
         'select', 'Select', 'SELECT', 'user', 'table', 'quo"te', '""', '''', 'semi;colon', ' ',
         ' lead', 'trail ', E'new\nline', E'cr\r\nlf', E'tab\tbed', 'back\slash', '\', '\.', '\N',
         '$1', '$$', '%s', '%', '100%', '*', 'tab*le', '?', '[a-z]', '-t', '--', '/*', '*/', '{}',
         'a.b', '.', 'a"."b', 'ünï', E'e\u0301', E'\u00e9', 'ЖЖ', '表', '🐘', E'zero\u200bwidth',
         E'rtl\u202e', E'bell\u0007', '1st', 'NULL', 'null', 'CamelCase', 'camelcase',
         repeat('x', 63), repeat('y', 63), 'z' || repeat('é', 31), repeat('Q"', 31)
     ]) AS name \gexec

DO $$
DECLARE
    relation regclass;
    quoted text;
BEGIN
    FOR relation IN SELECT c.oid FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = relnamespace AND nspname !~ '^(pg_|information_schema)'
        WHERE relkind = 'r' ORDER BY nspname, relname
    LOOP
        SELECT quote_ident(relname) INTO quoted FROM pg_class WHERE oid = relation;
        EXECUTE format('INSERT INTO %s SELECT n FROM generate_series(1, %s) AS n',
                       relation, length(quoted) % 4);
        EXECUTE format('COMMENT ON TABLE %s IS %L', relation, E'-- \\. is\n' || quoted || ' ''');
    END LOOP;
END
$$;

-- Two tables that are one when names are joined by a dot without quotes.
CREATE TABLE "a"."b.c" (n int);
CREATE TABLE "a.b"."c" (n int);
INSERT INTO "a"."b.c" VALUES (1), (2);
INSERT INTO "a.b"."c" VALUES (3);

-- Names that meet those of functions, aliases and system columns in a careless query.
CREATE TABLE t (t int, "count" text, "rows" int, oid int, x text, "row" text, "_" int,
                hash_record_extended int, "t.t" int, "T" int);
INSERT INTO t VALUES (1, '*', 2, 3, '', 'r', 4, 5, 6, 7);
INSERT INTO t (x) VALUES (NULL), ('');

COMMENT ON SCHEMA public IS E'it''s "public"\n\\connect nowhere\n-- comment';
COMMENT ON COLUMN t."t.t" IS 'a dot in a name';
COMMENT ON SCHEMA "🐘" IS '';
COMMENT ON DATABASE :"DBNAME" IS 'hostile: "odd" \ names and values';

CREATE TABLE "many columns" ();
SELECT format('ALTER TABLE "many columns" %s', string_agg(format(
    'ADD %I %s', 'Column "' || n || '"', (ARRAY['int', 'text', 'bool', 'numeric'])[n % 4 + 1]),
    ', ' ORDER BY n)) FROM generate_series(1, 600) AS n \gexec
INSERT INTO "many columns" ("Column ""1""", "Column ""600""") VALUES ('one', 600);

-- Tables of odd shape --------------------------------------------------------------------------

CREATE TABLE no_columns ();
INSERT INTO no_columns SELECT FROM generate_series(1, 7);
CREATE TABLE no_columns_no_rows ();
CREATE TABLE columns_dropped (a int, b text, c int);
INSERT INTO columns_dropped VALUES (1, 'gone', 2), (3, 'gone', 4);
ALTER TABLE columns_dropped DROP COLUMN b, DROP COLUMN a, ADD COLUMN a text DEFAULT 'late';
CREATE TABLE all_columns_dropped (a int, b int);
INSERT INTO all_columns_dropped VALUES (1, 2), (3, 4);
ALTER TABLE all_columns_dropped DROP COLUMN a, DROP COLUMN b;
CREATE TABLE equal_rows (v text);
INSERT INTO equal_rows SELECT 'same' FROM generate_series(1, 9);
CREATE TABLE only_generated (v int GENERATED ALWAYS AS (42) STORED);
INSERT INTO only_generated SELECT FROM generate_series(1, 3);
CREATE TABLE holes (n int, padding text);
INSERT INTO holes SELECT n, repeat('x', 500) FROM generate_series(1, 400) AS n;
DELETE FROM holes WHERE n BETWEEN 20 AND 380 OR n % 3 = 0;
CREATE UNLOGGED TABLE unlogged (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
INSERT INTO unlogged (v) VALUES ('kept'), ('by a dump'), (NULL);
CREATE TABLE empty_table (id int PRIMARY KEY, v text);

-- Every built-in type with the values at its edges ------------------------------------------------

CREATE TABLE edge_numbers (
    id int PRIMARY KEY, s smallint, i integer, b bigint, n numeric, n2 numeric(20, 5), r real,
    d double precision, m money
);
INSERT INTO edge_numbers VALUES
    (1, -32768, -2147483648, -9223372036854775808, 'NaN', 'NaN', 'NaN', 'NaN',
        '-92233720368547758.08'),
    (2, 32767, 2147483647, 9223372036854775807, 0, 0.00000, 'Infinity', 'Infinity',
        '92233720368547758.07'),
    (3, 0, 0, 0, -0.000, 123456789012345.67890, '-Infinity', '-Infinity', 0),
    (4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (5, 1, 1, 1, 1.0, 1, '-0', '-0', '-1.50'),
    (6, 1, 1, 1, 1.00, 1.00000, 1e-45, 5e-324, 1),
    (7, 1, 1, 1, repeat('9', 2000)::numeric, 1, 3.4028235e38, 1.7976931348623157e308, 1),
    (8, 1, 1, 1, ('0.' || repeat('0', 1000) || '1')::numeric, -1, 0.1, 0.1, 1),
    (9, 1, 1, 1, 1e130, -1, 1.17549435e-38, 0.1::float8 + 0.2, 1),
    (10, 1, 1, 1, 3, -1, 16777217, 9007199254740993, 1);
\if :v14
    INSERT INTO edge_numbers (id, n) VALUES (20, 'Infinity'), (21, '-Infinity');
\endif
\if :v15
    CREATE TABLE negative_scale (n numeric(3, -3), tiny numeric(3, 9));
    INSERT INTO negative_scale VALUES (123456, 0.000000123), ('NaN', 'NaN');
\endif

CREATE TABLE edge_times (
    id int PRIMARY KEY, d date, t time, tz timetz, ts timestamp, tstz timestamptz, i interval,
    iy interval year to month, t0 time(0), ts3 timestamptz(3)
);
INSERT INTO edge_times VALUES
    (1, 'infinity', '24:00:00', '24:00:00-15:59:59', 'infinity', 'infinity', '178000000 years',
        '2 years 3 months', '24:00', 'infinity'),
    (2, '-infinity', '00:00', '00:00+15:59:59', '-infinity', '-infinity', '-178000000 years',
        '-1 year', '00:00', '-infinity'),
    (3, '4713-01-01 BC', '23:59:59.999999', '23:59:59.999999+05:45', '4713-01-01 00:00 BC',
        '4713-01-01 00:00:00+00 BC', '1 mon -1 day +00:00:00.000001', '0', '12:00', 'epoch'),
    (4, '5874897-12-31', '12:00', '12:00+00', '294276-12-31 23:59:59.999999',
        '294276-12-31 23:59:59.999999+00', '30 days', '1 month', '12:00',
        '2024-02-29 23:59:59.9999Z'),
    (5, '2024-02-29', '12:00', '11:00-01', '2024-03-31 02:30', '2024-10-27 02:30+02', '1 month',
        '1 month', '12:00', '1582-10-10 00:00Z'),
    (6, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (7, '0001-01-01', '00:00', '00:00+00', '0001-12-31 BC', '1883-11-18 12:03:57-05', '-0.1 s',
        '0', '00:00', '1900-01-01 00:00:00+00:19:32');
\if :v17
    INSERT INTO edge_times (id, i) VALUES (20, 'infinity'), (21, '-infinity');
\endif

CREATE TABLE edge_texts (
    id int PRIMARY KEY, t text, v varchar(20), c char(5), q "char", n name, b bytea, o boolean
);
INSERT INTO edge_texts VALUES
    (1, '', '', '', '', '', '', true),
    (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (3, '\N', '\N', '\N', '\', '\N', '\x5c4e', false),
    (4, '\.', '\.', '\.', '.', '\.', '\x5c2e0a', false),
    (5, E'\\.\n', E'\n\\.\n', E'\n\\.', '"', 'n', '\x00', false),
    (6, 'NULL', 'null', 'NULL', 'N', 'NULL', '\x0000000000', false),
    (7, E'tab\tcr\rlf\ncrlf\r\nvt\vff\fbs\b', E'\r\n', E'\t', 'x', E'\n', '\xff', false),
    (8, E'\u0001\u001b[31m\u007f\u0080\u009f', E'\ufeffbom', 'é', 'x', 'é', '\xfffe', false),
    (9, E'e\u0301 is not \u00e9; \U0001F418 \u202ertl\u202c \u200b \u2028 \uffff', '🐘🐘', '🐘',
        E'\x7f', '🐘', '\xc328', false),
    (10, 'trailing   ', 'trailing   ', 'a    ', ' ', ' a ', '\x20', false),
    (11, repeat('long ', 200000), 'x', 'x', 'x', repeat('n', 63), NULL, false),
    (12, 'COPY t FROM stdin;' || E'\n1\t2\n\\.\n\n', 'x', 'x', 'x', 'x', '\x', false),
    (13, ';''"$$ $1 %s {} \u0000 ${HOME} `id` <!-- --> &amp;', 'x', 'x', 'x', 'x', NULL, false);
-- Hardly to be compressed, and stored beside the table. Every byte from 00 to ff is in it.
INSERT INTO edge_texts (id, b)
SELECT 100, decode(string_agg(lpad(to_hex(n % 256), 2, '0') || md5(n::text), '' ORDER BY n), 'hex')
FROM generate_series(0, 9999) AS n;
SELECT format('INSERT INTO edge_texts (id, t, q, b) VALUES (%s, %L, %L, %L)',
              200 + n, chr(n), chr(n), decode(lpad(to_hex(n), 2, '0'), 'hex'))
FROM generate_series(1, 127) AS n \gexec

CREATE TABLE edge_arrays (
    id int PRIMARY KEY, i int[], t text[], f float8[], b bytea[], j jsonb[], ts timestamptz[],
    iv interval[], n numeric(10, 2)[3][3], c char(3)[], bx box[], p point[]
);
INSERT INTO edge_arrays VALUES
    (1, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}'),
    (2, '{NULL}', '{NULL,"NULL","",null,"\\N","a,b","{}","\"",";"}', '{NaN,Infinity,-0}',
        '{"\\x00",NULL}', '{"null",NULL,"{\"a\": [1]}"}', '{infinity,NULL}', '{"30 days"}',
        '{NaN}', '{"a  ",NULL}', '{(1,1),(0,0);(2,2),(-1,-1)}', '{"(NaN,Infinity)"}'),
    (3, '[2:4]={1,2,3}', '[0:0]={zero}', '{{1,2},{3,4}}', NULL, NULL, NULL, NULL,
        '{{1,2,3},{4,5,6}}', NULL, NULL, NULL),
    (4, '[0:1][-1:0]={{1,2},{3,4}}', E'{"new\\nline","tab\\t",🐘}', NULL, NULL, NULL, NULL, NULL,
        NULL, NULL, NULL, NULL),
    (5, '{{{{{{1},{2}}}}}}', ARRAY[repeat('toast ', 30000)], NULL, NULL, NULL, NULL, NULL, NULL,
        NULL, NULL, NULL);

CREATE TABLE edge_ranges (
    id int PRIMARY KEY, i int4range, b int8range, n numrange, ts tsrange, tz tstzrange,
    d daterange, a int4range[]
);
INSERT INTO edge_ranges VALUES
    (1, 'empty', 'empty', 'empty', 'empty', 'empty', 'empty', '{empty,"[1,2)",NULL}'),
    (2, '(,)', '(,)', '(,)', '(,)', '(,)', '(,)', '{}'),
    (3, '[1,1]', '(1,)', '(NaN,NaN]', '[-infinity,infinity]', '[infinity,infinity]',
        '[-infinity,infinity)', '{"(,5)"}'),
    (4, '[-2147483648,2147483647)', '(,0]', '[1.0,1.00]', '("2024-01-01 00:00","2024-01-02 00:00"]',
        '["2024-03-31 01:30+00",)', '[2024-02-28,2024-02-29]', NULL),
    (5, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
\if :v14
    CREATE TABLE edge_multiranges (
        id int PRIMARY KEY, i int4multirange, n nummultirange, tz tstzmultirange,
        d datemultirange, a int4multirange[]
    );
    INSERT INTO edge_multiranges VALUES
        (1, '{}', '{}', '{}', '{}', '{}'),
        (2, '{[1,2),[5,9)}', '{(,1.50),[3,NaN]}', '{[-infinity,infinity]}',
            '{[2024-01-01,2024-01-31]}', '{"{[1,2)}","{}",NULL}'),
        (3, '{(,)}', NULL, NULL, NULL, NULL);
\endif

CREATE TABLE edge_documents (
    id int PRIMARY KEY, j json, b jsonb, p jsonpath, x xml, v tsvector, q tsquery
);
INSERT INTO edge_documents (id, j, b, p, v, q) VALUES
    (1, 'null', 'null', '$', '', ''),
    (2, NULL, NULL, NULL, NULL, NULL),
    (3, '{"b":1, "a":  2, "a": 3}', '{"b":1, "a":  2, "a": 3}', '$.a[*] ? (@ > 1)',
        'fat:1A,3B cat:2', 'fat & (cat | !dog:AB*) <-> rat'),
    (4, E'[1.0, 1.00,\n1e400, -0 ]', '[1.0, 1.00, 1e400, -0]', 'strict $."odd \"key\""',
        '''it''''s'':5 ''\\N'' '' '':16383', '''it''''s'' & ''\\N'''),
    (5, '""', '""', '$.** ? (exists (@.a))', '🐘', '🐘:*'),
    (6, '"\u00e9\t\\u0041"', '{"": {"\n": [[], {}]}, "ключ": "\\."}', '$', 'a', 'a <5> b'),
    (7, '[]', (SELECT jsonb_object_agg('key ' || n, repeat('v', n)) FROM generate_series(1, 300) n),
        '$', array_to_tsvector(ARRAY[repeat('w', 2000)]), 'a');
\if :has_xml
    INSERT INTO edge_documents (id, x) VALUES
        (20, xmlparse(CONTENT 'text &amp; <b a="1">é🐘</b><!-- two --><c/>')),
        (21, xmlparse(DOCUMENT '<?xml version="1.0"?><!DOCTYPE a><a><![CDATA[<\N>]]></a>')),
        (22, xmlparse(CONTENT ''));
\endif

CREATE TABLE edge_geometry (
    id int PRIMARY KEY, p point, l line, s lseg, b box, pa path, po polygon, c circle
);
INSERT INTO edge_geometry VALUES
    (1, '(0,0)', '{1,-1,0}', '[(0,0),(1,1)]', '(1,1),(0,0)', '[(0,0),(1,1)]', '((0,0),(1,1),(1,0))',
        '<(0,0),1>'),
    (2, '(NaN,Infinity)', '{0,1,-1e300}', '[(-Infinity,0),(1,1)]', '(Infinity,1),(-0,0)',
        '((0,0),(1,1))', '((0,0))', '<(0,0),0>'),
    (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (4, '(0.1,1e-320)', '{-1,0,0.30000000000000004}', '[(0,0),(0,0)]', '(0,0),(0,0)', '[(5,5)]',
        '((0.1,0.2),(0.3,0.4),(1e15,1))', '<(1e15,-0),1e-15>');

CREATE TABLE edge_networks (
    id int PRIMARY KEY, i inet, c cidr, m macaddr, m8 macaddr8, b bit(8), b0 bit, v bit varying,
    v4 varbit(4), u uuid
);
INSERT INTO edge_networks VALUES
    (1, '192.168.0.1/24', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05',
        B'10101010', B'1', B'', B'', '00000000-0000-0000-0000-000000000000'),
    (2, '::/0', '::/0', '00:00:00:00:00:00', 'ff:ff:ff:ff:ff:ff:ff:ff', B'00000000', B'0',
        repeat('10', 5000)::varbit, B'0001', 'ffffffff-ffff-ffff-ffff-ffffffffffff'),
    (3, '::ffff:1.2.3.4', '0.0.0.0/0', 'ff:ff:ff:ff:ff:ff', '00:00:00:00:00:00:00:00', NULL, NULL,
        NULL, NULL, NULL),
    (4, '0.0.0.0', '2001:db8::/32', NULL, NULL, B'11111111', B'0', B'0', B'0',
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');

CREATE TABLE edge_system (
    id int PRIMARY KEY, o oid, c regclass, t regtype, p regproc, pr regprocedure, op regoperator,
    ro regrole, ns regnamespace, co regconfig, di regdictionary, cl regcollation, lsn pg_lsn,
    tx txid_snapshot, sn pg_snapshot, x xid, x8 xid8, ci cid, ti tid, ov oidvector,
    iv int2vector, a aclitem, aa aclitem[], rc refcursor
);
INSERT INTO edge_system VALUES
    (1, 4294967295, 'edge_numbers', 'integer[]', 'pg_catalog.now', 'pg_catalog.abs(integer)',
        'pg_catalog.+(integer,integer)', '"Röle with space"', '"a.b"', 'english', 'simple',
        '"C"', 'FFFFFFFF/FFFFFFFF', '10:20:10,14,15', '10:20:10,14,15', '4294967295',
        '18446744073709551615', '4294967295', '(4294967295,65535)', '1 2 4294967295',
        '-1 0 32767', '"Röle with space"=arw*/"Röle with space"', '{=r/user}', 'a cursor'),
    (2, 0, '"a"."b.c"', 't', NULL, NULL, NULL, '-', '-', NULL, NULL, '-', '0/0', '1:1:', '1:1:',
        '0', '0', '0', '(0,0)', '', '', NULL, '{}', ''),
    (3, NULL, '-', '-', '-', '-', '0', '"naïve_名前_🐘"', '"; DROP SCHEMA public"', NULL, NULL,
        NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (4, 1, 'public." "', '"quo""te"', NULL, NULL, NULL, 'pg_monitor', 'pg_catalog', NULL, NULL,
        NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);

-- Types of our own --------------------------------------------------------------------------------

CREATE SCHEMA "Types";
CREATE TYPE "Types"."Mood" AS ENUM (
    'sad', '', 'it''s "ok"', E'new\nline', '\N', 'NULL', 'happy 🐘');
ALTER TYPE "Types"."Mood" ADD VALUE 'between' BEFORE 'happy 🐘';
ALTER TYPE "Types"."Mood" ADD VALUE 'first' BEFORE 'sad';
CREATE TYPE "Types".no_labels AS ENUM ();
CREATE DOMAIN "Types"."Pos int" AS int CONSTRAINT "must be > 0" CHECK (VALUE > 0);
CREATE DOMAIN "Types".small AS "Types"."Pos int" DEFAULT 7 CHECK (VALUE < 1000);
CREATE DOMAIN "Types".ints AS int[] CHECK (array_length(VALUE, 1) <= 3);
CREATE DOMAIN "Types"."mood?" AS "Types"."Mood" CHECK (VALUE <> 'sad');
CREATE DOMAIN "Types".unchecked AS text;
ALTER DOMAIN "Types".unchecked ADD CONSTRAINT not_yet CHECK (VALUE <> 'old') NOT VALID;
CREATE TYPE "Types".pair AS ("left" "Types"."Pos int", "Right side" "Types"."Mood"[], "," text);
CREATE TYPE "Types".nested AS (p "Types".pair, ps "Types".pair[], m "Types"."mood?", n numeric);
CREATE TYPE "Types".hollow AS ();
CREATE DOMAIN "Types".checked_pair AS "Types".pair CHECK ((VALUE)."left" < 100);
CREATE FUNCTION "Types".float8_gap(float8, float8) RETURNS float8
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT $1 OPERATOR(pg_catalog.-) $2';
CREATE TYPE "Types".floats AS RANGE (subtype = float8, subtype_diff = "Types".float8_gap);
CREATE TYPE "Types".moods AS RANGE (subtype = "Types"."Mood");
CREATE TYPE "Types".texts AS RANGE (subtype = text, collation = "C");
CREATE TYPE "Types".shell;
COMMENT ON TYPE "Types"."Mood" IS 'labels that are not what they look like: '''', \N, NULL';
COMMENT ON CONSTRAINT "must be > 0" ON DOMAIN "Types"."Pos int" IS 'a comment on a constraint';
COMMENT ON COLUMN "Types".pair."Right side" IS 'an array of enums';

-- A base type without operators: it has no equality and no hash.
CREATE TYPE "Types".opaque;
CREATE FUNCTION "Types".opaque_in(cstring) RETURNS "Types".opaque
    LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION "Types".opaque_out("Types".opaque) RETURNS cstring
    LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE "Types".opaque (INPUT = "Types".opaque_in, OUTPUT = "Types".opaque_out,
                            INTERNALLENGTH = VARIABLE, STORAGE = extended, DELIMITER = ';');

CREATE TABLE own_types (
    id int PRIMARY KEY, mood "Types"."Mood", moods "Types"."Mood"[], nothing "Types".no_labels,
    pos "Types"."Pos int", small "Types".small, smalls "Types".small[], ints "Types".ints,
    intss "Types".ints[], dm "Types"."mood?", dms "Types"."mood?"[], un "Types".unchecked,
    pair "Types".pair, pairs "Types".pair[], nested "Types".nested, nesteds "Types".nested[],
    hollow "Types".hollow, hollows "Types".hollow[], cp "Types".checked_pair,
    cps "Types".checked_pair[], f "Types".floats, mr "Types".moods, mrs "Types".moods[],
    tr "Types".texts, op "Types".opaque, ops "Types".opaque[], row_of t, rows_of t[]
);
INSERT INTO own_types (id) VALUES (0);
INSERT INTO own_types VALUES (
    1, '', ARRAY['\N', 'NULL', NULL, '', E'new\nline', 'it''s "ok"']::"Types"."Mood"[], NULL,
    1, 999, '{1,2,NULL}', '{1,2,3}', '{"{1}",NULL}', 'between',
    '{first,NULL}', 'new',
    ROW(1, '{sad,""}', 'a,"b"\'), ARRAY[ROW(2, NULL, NULL)::"Types".pair, NULL],
    ROW(ROW(1, '{}', '')::"Types".pair, ARRAY[ROW(9, '{first}', E'\n')::"Types".pair], '\N', 'NaN'),
    ARRAY[ROW(NULL, NULL, NULL, NULL)::"Types".nested, NULL], ROW(), ARRAY[ROW()::"Types".hollow],
    ROW(99, NULL, 'x'), ARRAY[ROW(1, NULL, NULL)::"Types".checked_pair],
    '[-Infinity,NaN)', '[first,"new
line")', ARRAY['(,)'::"Types".moods, 'empty'], '[a,"b,c"]', '\N', 
    ARRAY['a;b', 'c']::"Types".opaque[],
    ROW(1, 'x', 2, 3, '', 'r', 4, 5, 6, 7),
    ARRAY[ROW(1, '"', 2, 3, '', 'r', 4, 5, 6, 7)::t]
);
\if :v14
    CREATE TYPE "Types".spans AS RANGE (subtype = numeric,
                                       multirange_type_name = "Types"."Many spans");
    CREATE TABLE own_multiranges (v "Types"."Many spans", vs "Types"."Many spans"[]);
    INSERT INTO own_multiranges VALUES ('{[1.0,1.00],(5,)}', ARRAY['{}'::"Types"."Many spans"]);
\endif
CREATE TABLE typed_table OF "Types".pair ("left" WITH OPTIONS PRIMARY KEY);
INSERT INTO typed_table VALUES (1, '{sad}', ','), (2, NULL, NULL);

-- Generated and identity columns, sequences -------------------------------------------------------

CREATE SCHEMA "Functions";
CREATE FUNCTION "Functions"."shout it"(text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT pg_catalog.upper($1) || ''!''';
CREATE FUNCTION "Functions".check_word(word text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE SET search_path = '' AS $$BEGIN RETURN word <> 'forbidden'; END$$;
CREATE TABLE generated (
    "to" text GENERATED ALWAYS AS ("Functions"."shout it"("from")) STORED,
    "from" text CHECK ("Functions".check_word("from")),
    n numeric(10, 2),
    doubled numeric GENERATED ALWAYS AS (n * 2) STORED,
    vector tsvector GENERATED ALWAYS AS (to_tsvector('english'::regconfig, "from")) STORED
);
INSERT INTO generated ("from", n) VALUES ('hello', 1.25), (NULL, NULL), ('', 'NaN');
CREATE INDEX "loud index" ON generated ("Functions"."shout it"("from") DESC NULLS LAST)
    WHERE "Functions".check_word("from");
CREATE INDEX ON generated USING gin (vector);
\if :v18
    CREATE TABLE generated_virtual (a int, b int GENERATED ALWAYS AS (a * 2) VIRTUAL,
                                    CONSTRAINT b_exists CHECK (b > 0) NOT ENFORCED);
    INSERT INTO generated_virtual VALUES (1), (NULL), (-3);
\endif

CREATE TABLE identities (
    always bigint GENERATED ALWAYS AS IDENTITY (START WITH -5 INCREMENT BY 5 MINVALUE -5 CACHE 3),
    by_default smallint GENERATED BY DEFAULT AS IDENTITY
        (START WITH 9 INCREMENT BY -2 MINVALUE -9 MAXVALUE 9 CYCLE),
    "Serial" serial
);
INSERT INTO identities DEFAULT VALUES;
INSERT INTO identities DEFAULT VALUES;
INSERT INTO identities OVERRIDING SYSTEM VALUE VALUES (1000, 1000, 1000);

CREATE SEQUENCE untouched;
CREATE SEQUENCE "descending %s" INCREMENT BY -3 START WITH -1;
CREATE SEQUENCE cycling AS smallint MAXVALUE 3 CYCLE;
CREATE SEQUENCE at_its_end MAXVALUE 2;
CREATE SEQUENCE past_its_start START WITH 100 MINVALUE 50 CACHE 20;
CREATE SEQUENCE not_called;
CREATE SEQUENCE huge MINVALUE -9223372036854775808 START WITH 9223372036854775806;
CREATE SEQUENCE owned_elsewhere OWNED BY edge_numbers.id;
CREATE SEQUENCE "Mixed Case"."odd ""seq""" OWNED BY "Mixed Case"."CamelCase"."CamelCase";
ALTER TABLE "a.b"."c" ALTER n SET DEFAULT nextval('"Mixed Case"."odd ""seq"""');
SELECT nextval('"descending %s"'), nextval('past_its_start'), nextval('huge'),
       nextval('"Mixed Case"."odd ""seq"""');
SELECT nextval('at_its_end') FROM generate_series(1, 2);
SELECT nextval('cycling') FROM generate_series(1, 4);
SELECT setval('not_called', 42, false), setval('past_its_start', 77, true);
\if :v15
    CREATE UNLOGGED SEQUENCE unlogged_sequence START WITH 12;
    SELECT nextval('unlogged_sequence');
\endif

-- Partitions and inheritance --------------------------------------------------------------------

CREATE SCHEMA "Parts";
CREATE TABLE "Parts".top (region text, day date, id int, v "Types"."Mood", note text DEFAULT 'top')
    PARTITION BY LIST (region);
CREATE TABLE "Parts"."top: EU" PARTITION OF "Parts".top FOR VALUES IN ('DE', 'FR', 'it''s')
    PARTITION BY RANGE (day, id);
CREATE TABLE "Parts"."top: NULL" PARTITION OF "Parts".top FOR VALUES IN (NULL, '');
CREATE TABLE "Parts"."top: rest" PARTITION OF "Parts".top DEFAULT PARTITION BY HASH (id);
CREATE TABLE "Parts".eu_old PARTITION OF "Parts"."top: EU"
    FOR VALUES FROM (MINVALUE, MINVALUE) TO ('2024-01-01', 0);
CREATE TABLE "Parts".eu_new PARTITION OF "Parts"."top: EU"
    FOR VALUES FROM ('2024-01-01', 0) TO ('2025-01-01', MAXVALUE) PARTITION BY HASH (id);
CREATE TABLE "Parts".eu_default PARTITION OF "Parts"."top: EU" DEFAULT;
CREATE TABLE "Parts".eu_new_0 PARTITION OF "Parts".eu_new FOR VALUES WITH (MODULUS 2, REMAINDER 0);
-- Attached later, with its columns in another order and one of its own defaults.
CREATE TABLE "Parts".eu_new_1 (dropped int, note text DEFAULT 'leaf', v "Types"."Mood",
                               id int, day date, region text);
ALTER TABLE "Parts".eu_new_1 DROP COLUMN dropped;
ALTER TABLE "Parts".eu_new ATTACH PARTITION "Parts".eu_new_1
    FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE "Parts".rest_0 PARTITION OF "Parts"."top: rest"
    FOR VALUES WITH (MODULUS 3, REMAINDER 0);
CREATE UNLOGGED TABLE "Parts".rest_1 PARTITION OF "Parts"."top: rest"
    FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE "Parts".rest_2 PARTITION OF "Parts"."top: rest"
    FOR VALUES WITH (MODULUS 3, REMAINDER 2);
INSERT INTO "Parts".top
SELECT (ARRAY['DE', 'FR', 'it''s', NULL, '', 'US', 'JP'])[n % 7 + 1],
       CASE WHEN n % 13 > 0 THEN date '2023-06-01' + n * 7 END, n,
       (enum_range(NULL::"Types"."Mood"))[n % 9 + 1]
FROM generate_series(1, 140) AS n;
CREATE INDEX "on all parts" ON "Parts".top (id, note);
CREATE INDEX only_the_parent ON ONLY "Parts".top (day);
ALTER TABLE "Parts".top ADD CONSTRAINT sane CHECK (id > 0);
COMMENT ON INDEX "Parts".only_the_parent IS 'invalid: the partitions have none to attach';
CREATE TABLE "Parts".empty_top (id int) PARTITION BY LIST (id);
CREATE TABLE "Parts".by_expression (id int, d date) PARTITION BY RANGE ((id % 10), (d + 1));
CREATE TABLE "Parts".by_expression_1 PARTITION OF "Parts".by_expression
    FOR VALUES FROM (0, MINVALUE) TO (9, MAXVALUE);
INSERT INTO "Parts".by_expression SELECT n, date '2024-01-01' + n FROM generate_series(1, 8) AS n;
CREATE TABLE "Parts".detached PARTITION OF "Parts".empty_top FOR VALUES IN (1);
INSERT INTO "Parts".detached VALUES (1);
ALTER TABLE "Parts".empty_top DETACH PARTITION "Parts".detached;
CREATE TABLE "Parts".keyed (id int, k int, PRIMARY KEY (id, k)) PARTITION BY RANGE (id);
CREATE TABLE "Parts".keyed_1 PARTITION OF "Parts".keyed FOR VALUES FROM (1) TO (10);
CREATE TABLE "Parts".points_there (id int, k int, FOREIGN KEY (id, k) REFERENCES "Parts".keyed);
INSERT INTO "Parts".keyed VALUES (1, 1), (2, 1);
INSERT INTO "Parts".points_there VALUES (1, 1), (2, NULL);

CREATE TABLE parent (id int, v text DEFAULT 'p', CONSTRAINT positive CHECK (id > 0));
CREATE TABLE other_parent (id int, w text);
CREATE TABLE child (own text, later numeric) INHERITS (parent);
CREATE TABLE grandchild (own2 int) INHERITS (child, other_parent);
CREATE TABLE joined_later (own3 int, v text NOT NULL DEFAULT 'j', id int,
                           CONSTRAINT positive CHECK (id > 0));
ALTER TABLE joined_later INHERIT parent;
INSERT INTO parent VALUES (1), (2), (3);
INSERT INTO child VALUES (4, 'c', 'own', 1.50);
INSERT INTO grandchild VALUES (5, 'g', 'own', 2, 'w', 9);
INSERT INTO joined_later VALUES (9, 'x', 6);
INSERT INTO other_parent VALUES (7, 'w');
-- The children's columns come in another order after a restore: these before their own ones.
ALTER TABLE parent ADD COLUMN added_later text DEFAULT 'late',
                   ADD COLUMN added_too timestamptz DEFAULT '2024-01-01 00:00:00+00',
                   ADD CONSTRAINT parent_only CHECK (id < 1000) NO INHERIT;
ALTER TABLE child ALTER v SET DEFAULT 'c', ALTER own SET STORAGE EXTERNAL;
INSERT INTO child (id, own, added_later, added_too) VALUES (8, 'after', NULL, 'infinity');

-- Rights and row security -------------------------------------------------------------------------

CREATE SCHEMA "Secrets" AUTHORIZATION "Röle with space";
GRANT USAGE ON SCHEMA "Secrets" TO "user", "$role; --%s";
CREATE TABLE "Secrets".filtered (id int PRIMARY KEY, owner name, "odd ""column""" text);
INSERT INTO "Secrets".filtered VALUES (1, 'user', 'a'), (2, 'nobody', 'b'), (3, NULL, NULL);
ALTER TABLE "Secrets".filtered ENABLE ROW LEVEL SECURITY;
CREATE POLICY "only your's %s" ON "Secrets".filtered TO "user", PUBLIC
    USING (owner = current_user) WITH CHECK (id < 100);
CREATE POLICY narrower ON "Secrets".filtered AS RESTRICTIVE FOR SELECT
    TO "Quote""'\Role" USING (id IN (SELECT t FROM public.t));
COMMENT ON POLICY narrower ON "Secrets".filtered IS 'restrictive';
CREATE TABLE "Secrets".forced (id int);
ALTER TABLE "Secrets".forced OWNER TO "Röle with space";
ALTER TABLE "Secrets".forced ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
INSERT INTO "Secrets".forced SELECT generate_series(1, 12);
CREATE POLICY nobody ON "Secrets".forced USING (false);
CREATE TABLE "Secrets".no_policy (id int);
ALTER TABLE "Secrets".no_policy ENABLE ROW LEVEL SECURITY;
INSERT INTO "Secrets".no_policy VALUES (1), (2);
CREATE TABLE "Secrets".disabled (id int);
ALTER TABLE "Secrets".disabled FORCE ROW LEVEL SECURITY;
CREATE POLICY asleep ON "Secrets".disabled USING (false);
INSERT INTO "Secrets".disabled VALUES (1);

CREATE TABLE "Secrets".granted (id int GENERATED ALWAYS AS IDENTITY, "odd ""column""" text, c int);
ALTER TABLE "Secrets".granted OWNER TO "Röle with space";
GRANT SELECT (id, "odd ""column"""), UPDATE (c), REFERENCES (id) ON "Secrets".granted TO "user";
GRANT SELECT ("odd ""column""") ON "Secrets".granted TO PUBLIC;
GRANT SELECT, INSERT ON "Secrets".granted TO "$role; --%s" WITH GRANT OPTION;
SET ROLE "$role; --%s";
GRANT SELECT ON "Secrets".granted TO "Quote""'\Role";
RESET ROLE;
INSERT INTO "Secrets".granted (c) VALUES (1), (2);
CREATE TABLE "Secrets".nobodys (id int);
ALTER TABLE "Secrets".nobodys OWNER TO "Röle with space";
REVOKE ALL ON "Secrets".nobodys FROM "Röle with space";
INSERT INTO "Secrets".nobodys VALUES (1);
GRANT USAGE ON SEQUENCE cycling TO "tab	role";
GRANT ALL ON SEQUENCE "descending %s" TO "user" WITH GRANT OPTION;
REVOKE USAGE ON TYPE "Types"."Mood" FROM PUBLIC;
GRANT USAGE ON TYPE "Types"."Pos int" TO "user";
REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC;
GRANT USAGE ON LANGUAGE plpgsql TO "Röle with space";
GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_reset() TO "user";
GRANT CREATE, TEMPORARY ON DATABASE :"DBNAME" TO "Röle with space" WITH GRANT OPTION;
GRANT CONNECT ON DATABASE :"DBNAME" TO "user";
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

ALTER DEFAULT PRIVILEGES FOR ROLE "Röle with space" REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE "Röle with space" IN SCHEMA "Secrets"
    GRANT SELECT, UPDATE ON TABLES TO "user", "Quote""'\Role" WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE "naïve_名前_🐘" GRANT USAGE ON SEQUENCES TO "tab	role";
ALTER DEFAULT PRIVILEGES FOR ROLE "naïve_名前_🐘" GRANT USAGE ON SCHEMAS TO PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE "user" REVOKE ALL ON TYPES FROM PUBLIC;

-- Constraints and indexes ------------------------------------------------------------------------

CREATE SCHEMA "Rules";
CREATE TABLE "Rules".bookings (
    room text, during tstzrange, span int4range,
    CONSTRAINT "no overlap" EXCLUDE USING gist (during WITH &&),
    CONSTRAINT spans_apart EXCLUDE USING gist (span WITH &&, span WITH =)
        WHERE (span IS NOT NULL) DEFERRABLE INITIALLY DEFERRED
);
INSERT INTO "Rules".bookings VALUES
    ('blue', '[2024-01-01 00:00Z,2024-01-02 00:00Z)', '[1,5)'),
    ('blue', '[2024-01-02 00:00Z,)', '[5,9)'), ('red', 'empty', NULL), ('red', 'empty', NULL);
CREATE TABLE "Rules".hen (id int PRIMARY KEY, egg int, mother int REFERENCES "Rules".hen);
CREATE TABLE "Rules".egg (id int PRIMARY KEY, hen int REFERENCES "Rules".hen ON DELETE CASCADE
                              DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE "Rules".hen ADD CONSTRAINT "hen's egg" FOREIGN KEY (egg) REFERENCES "Rules".egg
    ON UPDATE SET NULL ON DELETE SET DEFAULT DEFERRABLE;
BEGIN;
INSERT INTO "Rules".egg VALUES (1, 10), (2, 11), (3, NULL);
INSERT INTO "Rules".hen VALUES (10, 2, 11), (11, 1, 11), (12, NULL, NULL);
COMMIT;
CREATE TABLE "Rules".not_valid (id int, hen int);
INSERT INTO "Rules".not_valid VALUES (-1, 999), (2, 10);
ALTER TABLE "Rules".not_valid ADD CONSTRAINT "broken already" CHECK (id > 0) NOT VALID,
    ADD CONSTRAINT dangling FOREIGN KEY (hen) REFERENCES "Rules".hen NOT VALID;
COMMENT ON CONSTRAINT "broken already" ON "Rules".not_valid IS '100% broken';
\if :v18
    ALTER TABLE "Rules".not_valid ADD COLUMN n int, ADD CONSTRAINT n_there NOT NULL n NOT VALID;
\endif
CREATE TABLE "Rules".indexed (
    id int, a text COLLATE "C", b int, r int4range, UNIQUE (id) DEFERRABLE INITIALLY DEFERRED,
    UNIQUE (a, b) INCLUDE (r)
) WITH (fillfactor = 40, autovacuum_enabled = false, toast.autovacuum_enabled = false);
INSERT INTO "Rules".indexed SELECT n, 'a' || n, n % 3, int4range(n, n + 2)
FROM generate_series(1, 50) AS n;
CREATE UNIQUE INDEX "Replica ""identity""" ON "Rules".indexed (id);
ALTER TABLE "Rules".indexed ALTER id SET NOT NULL;
ALTER TABLE "Rules".indexed REPLICA IDENTITY USING INDEX "Replica ""identity""";
ALTER TABLE "Rules".indexed CLUSTER ON "Replica ""identity""";
CREATE INDEX "ix %s $1 \" ON "Rules".indexed USING hash (a);
CREATE INDEX ON "Rules".indexed (lower(a) text_pattern_ops, (b + 1) DESC NULLS FIRST)
    WITH (fillfactor = 70) WHERE b > 0;
CREATE INDEX ON "Rules".indexed USING gist (r);
CREATE INDEX ON "Rules".indexed USING spgist (r);
CREATE INDEX ON "Rules".indexed USING brin (b) WITH (pages_per_range = 4);
CREATE INDEX ON "Rules".indexed ((b * 2), (b * 3));
ALTER INDEX "Rules".indexed_expr_expr1_idx ALTER COLUMN 2 SET STATISTICS 50;
ALTER TABLE "Rules".indexed ALTER b SET STATISTICS 500, ALTER b SET (n_distinct = -0.5),
    ALTER a SET STORAGE EXTERNAL;
CREATE STATISTICS "Rules"."stats %s" (ndistinct, dependencies, mcv) ON a, b FROM "Rules".indexed;
ALTER STATISTICS "Rules"."stats %s" SET STATISTICS 42;
COMMENT ON STATISTICS "Rules"."stats %s" IS 'odd';
COMMENT ON INDEX "Rules"."ix %s $1 \" IS 'odd index';
ALTER TABLE t REPLICA IDENTITY FULL;
ALTER TABLE equal_rows REPLICA IDENTITY NOTHING;
\if :v14
    CREATE STATISTICS "Rules".expression ON (b % 2), lower(a) FROM "Rules".indexed;
    ALTER TABLE "Rules".indexed ALTER a SET COMPRESSION pglz;
\endif
\if :v15
    CREATE TABLE "Rules".nulls_equal (a int UNIQUE NULLS NOT DISTINCT, b int);
    INSERT INTO "Rules".nulls_equal VALUES (NULL, 1), (1, NULL);
\endif
\if :v18
    CREATE TABLE "Rules".without_overlaps (
        span int4range, during daterange, PRIMARY KEY (span, during WITHOUT OVERLAPS));
    INSERT INTO "Rules".without_overlaps VALUES ('[1,2)', '[2024-01-01,2024-02-01)'),
        ('[1,2)', '[2024-02-01,)');
\endif

CREATE ACCESS METHOD "odd heap" TYPE TABLE HANDLER heap_tableam_handler;
CREATE TABLE "Rules".other_access_method (id int, v text) USING "odd heap";
INSERT INTO "Rules".other_access_method VALUES (1, 'as ever'), (2, NULL);

-- Views, rules, triggers ---------------------------------------------------------------------------

CREATE SCHEMA "Views";
CREATE VIEW "Views"."view %s" AS SELECT *, "from" || ' →' AS arrow FROM generated;
CREATE VIEW "Views"."on a view" WITH (security_barrier) AS
    SELECT "to", count(*) OVER () AS "count" FROM "Views"."view %s" WHERE n IS DISTINCT FROM 3;
-- It leans on the primary key, which comes back after the rows.
CREATE VIEW "Views".grouped_by_key AS SELECT id, mother, count(*) FROM "Rules".hen GROUP BY id;
CREATE VIEW "Views".uses_that AS SELECT * FROM "Views".grouped_by_key WHERE count > 0;
CREATE RECURSIVE VIEW "Views".counting (n) AS
    VALUES (1) UNION ALL SELECT n + 1 FROM counting WHERE n < 5;
CREATE VIEW "Views".updatable AS SELECT id, v FROM empty_table WHERE id > 0
    WITH CASCADED CHECK OPTION;
ALTER VIEW "Views".updatable ALTER v SET DEFAULT 'from the view';
CREATE VIEW "Views".no_columns AS SELECT FROM no_columns;
CREATE VIEW "Views".casts AS SELECT 'a'::varchar(3) AS v, NULL::"Types"."Mood" AS m,
    ARRAY['x', 'y']::"Types".unchecked[] AS d, (pair)."Right side"[1] AS side FROM own_types;
CREATE TABLE "Views".short_words (w varchar(9) CHECK (w IN ('a', 'b')), v varchar(5)[]);
CREATE VIEW "Views".in_list AS SELECT w FROM "Views".short_words WHERE w IN ('a', 'b', 'c');
INSERT INTO "Views".short_words VALUES ('a', '{x}'), (NULL, NULL);
COMMENT ON VIEW "Views"."view %s" IS 'SELECT *';
\if :v15
    CREATE VIEW "Views".invoker WITH (security_invoker) AS SELECT * FROM t;
\endif

CREATE MATERIALIZED VIEW "Views".stale AS SELECT id, v FROM parent;
INSERT INTO parent (id, v) VALUES (100, 'after the refresh');
CREATE UNIQUE INDEX ON "Views".stale (id);
CREATE MATERIALIZED VIEW "Views"."not populated" AS SELECT t AS n FROM t WITH NO DATA;
CREATE INDEX ON "Views"."not populated" (n);
CREATE MATERIALIZED VIEW "Views"."a on m" AS SELECT count(*) FROM "Views".stale;
CREATE MATERIALIZED VIEW "Views".by_key AS
    SELECT id, egg, count(*) FROM "Rules".hen GROUP BY id WITH DATA;
CREATE MATERIALIZED VIEW "Views".by_function AS
    SELECT "Functions"."shout it"("from") AS loud FROM generated;
ALTER MATERIALIZED VIEW "Views".stale OWNER TO "Röle with space";
GRANT SELECT ON parent TO "Röle with space";
REFRESH MATERIALIZED VIEW "Views".stale;
INSERT INTO parent (id, v) VALUES (101, 'after the second refresh');

CREATE RULE "do not insert" AS ON INSERT TO empty_table WHERE new.id < 0 DO INSTEAD NOTHING;
CREATE RULE "and %s" AS ON UPDATE TO "Views"."on a view" DO INSTEAD
    (UPDATE generated SET n = 1 WHERE generated."to" = old."to"; NOTIFY "odd channel");
CREATE RULE sleeping AS ON DELETE TO equal_rows DO INSTEAD NOTHING;
ALTER TABLE equal_rows DISABLE RULE sleeping;
COMMENT ON RULE "and %s" ON "Views"."on a view" IS 'odd rule';

CREATE FUNCTION "Functions".no_change() RETURNS trigger LANGUAGE plpgsql AS $_$
BEGIN
    RAISE EXCEPTION 'a restore must not fire this: % $$', tg_name;
END
$_$;
CREATE TRIGGER "tr %s ""q""" BEFORE INSERT OR UPDATE OF v ON edge_texts
    FOR EACH ROW WHEN (new.t IS NOT NULL)
    EXECUTE FUNCTION "Functions".no_change('it''s', E'\\x\n', '');
CREATE TRIGGER statement_level AFTER DELETE ON edge_texts REFERENCING OLD TABLE AS "Old %s"
    FOR EACH STATEMENT EXECUTE FUNCTION "Functions".no_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON edge_arrays EXECUTE FUNCTION "Functions".no_change();
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON edge_arrays DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION "Functions".no_change();
CREATE TRIGGER disabled AFTER INSERT ON edge_ranges EXECUTE FUNCTION "Functions".no_change();
ALTER TABLE edge_ranges DISABLE TRIGGER disabled;
CREATE TRIGGER for_replicas AFTER INSERT ON edge_networks EXECUTE FUNCTION "Functions".no_change();
ALTER TABLE edge_networks ENABLE REPLICA TRIGGER for_replicas;
CREATE TRIGGER always AFTER INSERT ON edge_times EXECUTE FUNCTION "Functions".no_change();
ALTER TABLE edge_times ENABLE ALWAYS TRIGGER always;
CREATE TRIGGER on_all_parts AFTER UPDATE ON "Parts".top
    FOR EACH ROW EXECUTE FUNCTION "Functions".no_change();
CREATE TRIGGER instead INSTEAD OF INSERT ON "Views".grouped_by_key
    FOR EACH ROW EXECUTE FUNCTION "Functions".no_change();
COMMENT ON TRIGGER instead ON "Views".grouped_by_key IS 'odd trigger';
-- An event trigger would fire during the restore: it comes last there, and does nothing.
CREATE FUNCTION "Functions".on_event() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER "event %s" ON ddl_command_end WHEN tag IN ('DROP TABLE', 'COMMENT')
    EXECUTE FUNCTION "Functions".on_event();
CREATE EVENT TRIGGER asleep ON sql_drop EXECUTE FUNCTION "Functions".on_event();
ALTER EVENT TRIGGER asleep DISABLE;
COMMENT ON EVENT TRIGGER "event %s" IS 'odd';

-- Functions, operators and the rest ------------------------------------------------------------------

CREATE FUNCTION "Functions".definer("In %" int DEFAULT 1, VARIADIC "rest" text[] DEFAULT '{}',
                                    OUT "o ut" text, OUT two "Types"."Mood") RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SECURITY DEFINER LEAKPROOF COST 7 ROWS 3 PARALLEL RESTRICTED
SET search_path = pg_catalog, "a.b", pg_temp
SET "TimeZone" = 'Asia/Kathmandu'
SET work_mem = '8MB'
AS $odd$
BEGIN
    -- $$ ' \N \.
    RETURN QUERY SELECT 'x'::text, 'sad'::"Types"."Mood";
END
$odd$;
ALTER FUNCTION "Functions".definer OWNER TO "Röle with space";
REVOKE ALL ON FUNCTION "Functions".definer FROM PUBLIC;
GRANT EXECUTE ON FUNCTION "Functions".definer TO "user";
COMMENT ON FUNCTION "Functions".definer(int, text[]) IS 'odd';
CREATE FUNCTION "Functions".overloaded(anyelement, anyarray) RETURNS anyelement
    LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION "Functions".overloaded(t) RETURNS TABLE ("a b" int, c text)
    LANGUAGE sql STABLE AS $$SELECT ($1).t, ($1)."count"$$;
CREATE PROCEDURE "Functions"."do %s"(INOUT a int) LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
\if :v14
    CREATE FUNCTION "Functions".standard_body(a int) RETURNS bigint LANGUAGE sql STABLE
    BEGIN ATOMIC
        SELECT count(*) FROM "a"."b.c" WHERE n > a;
    END;
    -- It leans on a key, as the view above: it comes back after the rows.
    CREATE FUNCTION "Functions".needs_key() RETURNS SETOF bigint LANGUAGE sql
    BEGIN ATOMIC
        SELECT id + count(*) FROM "Rules".hen GROUP BY id, mother;
    END;
\endif

CREATE FUNCTION "Functions".distance(int, int) RETURNS int
    LANGUAGE sql IMMUTABLE STRICT AS 'SELECT pg_catalog.abs($1 OPERATOR(pg_catalog.-) $2)';
CREATE OPERATOR "Functions".<%> (LEFTARG = int, RIGHTARG = int, FUNCTION = "Functions".distance,
                                 COMMUTATOR = OPERATOR("Functions".<%>));
CREATE OPERATOR "Functions".@#@ (RIGHTARG = int, FUNCTION = pg_catalog.int4um);
COMMENT ON OPERATOR "Functions".<%> (int, int) IS 'odd';
CREATE FUNCTION "Functions".backwards(int, int) RETURNS int
    LANGUAGE sql IMMUTABLE STRICT AS 'SELECT pg_catalog.btint4cmp($2, $1)';
CREATE OPERATOR CLASS "Functions"."backwards %" FOR TYPE int USING btree AS
    OPERATOR 1 >, OPERATOR 2 >=, OPERATOR 3 =, OPERATOR 4 <=, OPERATOR 5 <,
    FUNCTION 1 "Functions".backwards(int, int);
CREATE OPERATOR FAMILY "Functions".empty_family USING hash;
CREATE INDEX backwards_idx ON "Rules".indexed (b "Functions"."backwards %");
CREATE VIEW "Views".by_operator AS
    SELECT n OPERATOR("Functions".<%>) 7 AS away FROM "a"."b.c"
    ORDER BY n USING OPERATOR(pg_catalog.>);

CREATE AGGREGATE "Functions"."agg %s"(int) (
    SFUNC = int4pl, STYPE = int, INITCOND = '7', COMBINEFUNC = int4pl, PARALLEL = SAFE);
CREATE AGGREGATE "Functions".lowest(ORDER BY int) (
    SFUNC = "Functions".distance, STYPE = int, HYPOTHETICAL = false);
COMMENT ON AGGREGATE "Functions"."agg %s"(int) IS 'odd';
CREATE FUNCTION "Functions".pair_to_text("Types".pair) RETURNS text
    LANGUAGE sql IMMUTABLE AS $$SELECT 'pair of ' || ($1)."left"$$;
CREATE CAST ("Types".pair AS text) WITH FUNCTION "Functions".pair_to_text("Types".pair)
    AS ASSIGNMENT;
CREATE CAST ("Types"."Mood" AS bytea) WITH INOUT;
COMMENT ON CAST ("Types".pair AS text) IS 'odd';
CREATE CONVERSION "Functions"."conv %s" FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
CREATE COLLATION "Functions"."coll %s" (LOCALE = 'C');
CREATE TABLE collated (v text COLLATE "Functions"."coll %s" PRIMARY KEY, w text COLLATE "POSIX");
INSERT INTO collated VALUES ('a', 'B'), ('A', 'b'), ('ä', '');
\if :has_icu
    CREATE COLLATION "Functions".any_case (PROVIDER = icu, LOCALE = 'und-u-ks-level2',
                                           DETERMINISTIC = false);
    CREATE TABLE collated_by_icu (v text COLLATE "Functions".any_case PRIMARY KEY);
    INSERT INTO collated_by_icu VALUES ('a'), ('Ä'), ('ß');
\endif

CREATE TEXT SEARCH TEMPLATE "Functions"."template %s" (
    INIT = dsimple_init, LEXIZE = dsimple_lexize);
CREATE TEXT SEARCH DICTIONARY "Functions"."dict %s" (
    TEMPLATE = pg_catalog.simple, STOPWORDS = english, ACCEPT = false);
CREATE TEXT SEARCH PARSER "Functions"."parser %s" (
    START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype,
    HEADLINE = prsd_headline);
CREATE TEXT SEARCH CONFIGURATION "Functions"."config %s" (PARSER = "Functions"."parser %s");
ALTER TEXT SEARCH CONFIGURATION "Functions"."config %s" ADD MAPPING FOR word, asciiword, numword
    WITH "Functions"."dict %s", english_stem;
COMMENT ON TEXT SEARCH CONFIGURATION "Functions"."config %s" IS 'odd';
CREATE INDEX searched ON generated
    USING gin (to_tsvector('"Functions"."config %s"'::regconfig, "from"));

-- Elsewhere ------------------------------------------------------------------------------------
-- None of these may ever be connected to; none holds a password.

CREATE FOREIGN DATA WRAPPER "no handler %s" OPTIONS ("odd ""option" 'va''l\ue');
CREATE SERVER "ser ver" TYPE 't''ype' VERSION '1 "' FOREIGN DATA WRAPPER "no handler %s"
    OPTIONS (host 'nowhere.invalid', "d b" '%s');
ALTER SERVER "ser ver" OWNER TO "Röle with space";
CREATE USER MAPPING FOR "user" SERVER "ser ver" OPTIONS ("user" 'o''dd', note '\');
CREATE USER MAPPING FOR PUBLIC SERVER "ser ver";
CREATE SCHEMA "Foreign";
CREATE FOREIGN TABLE "Foreign"."out there" (id int OPTIONS (name 'i d') NOT NULL, v text)
    SERVER "ser ver" OPTIONS (path '\N');
-- Counting or analysing the parent asks the server, which is nowhere.
CREATE TABLE "Foreign".partly (id int, v text) PARTITION BY LIST (id);
CREATE TABLE "Foreign".here PARTITION OF "Foreign".partly FOR VALUES IN (1, 2);
CREATE FOREIGN TABLE "Foreign".there PARTITION OF "Foreign".partly FOR VALUES IN (3)
    SERVER "ser ver";
INSERT INTO "Foreign".partly VALUES (1, 'here'), (2, NULL);
CREATE VIEW "Foreign".through_a_view AS SELECT * FROM "Foreign"."out there";
CREATE MATERIALIZED VIEW "Foreign".never_filled AS SELECT * FROM "Foreign"."out there"
    WITH NO DATA;
GRANT SELECT ON "Foreign"."out there" TO "user";
GRANT USAGE ON FOREIGN SERVER "ser ver" TO "user";
GRANT USAGE ON FOREIGN DATA WRAPPER "no handler %s" TO "user";
COMMENT ON FOREIGN TABLE "Foreign"."out there" IS 'odd';

CREATE PUBLICATION "pub %s" FOR TABLE "Rules".egg, ONLY other_parent
    WITH (publish = 'insert, truncate');
CREATE PUBLICATION nothing;
ALTER PUBLICATION "pub %s" OWNER TO "tab	role";
\if :v15
    CREATE PUBLICATION some_rows FOR TABLE "Rules".hen (id, egg) WHERE (id > 10)
        WITH (publish = 'insert');
    CREATE PUBLICATION whole_schema FOR TABLES IN SCHEMA "a.b", "100%s %n"
        WITH (publish = 'insert');
\endif

-- Extensions, where the build has them -------------------------------------------------------------

CREATE SCHEMA "Ext %s";
\if :has_citext
    CREATE EXTENSION citext SCHEMA "Ext %s";
    CREATE TABLE "Ext %s".with_citext (v "Ext %s".citext PRIMARY KEY, a "Ext %s".citext[]);
    INSERT INTO "Ext %s".with_citext VALUES ('ABC', '{a,B,NULL}'), ('abd', '{}');
    COMMENT ON EXTENSION citext IS 'a comment of our own';
\endif
\if :has_hstore
    CREATE EXTENSION hstore SCHEMA "Ext %s";
    CREATE TABLE "Ext %s".with_hstore (id int PRIMARY KEY, v "Ext %s".hstore);
    INSERT INTO "Ext %s".with_hstore VALUES (1, '"a b"=>"\\N", ""=>NULL, "🐘"=>"\""'), (2, '');
    CREATE INDEX ON "Ext %s".with_hstore USING gin (v);
\endif
\if :has_ltree
    CREATE EXTENSION ltree SCHEMA "Ext %s";
    CREATE TABLE "Ext %s".with_ltree (v "Ext %s".ltree, q "Ext %s".lquery);
    INSERT INTO "Ext %s".with_ltree VALUES ('a.b.c', '*.b{1,2}.!c'), ('', '*'), (NULL, NULL);
\endif
\if :has_trgm
    CREATE EXTENSION pg_trgm SCHEMA "Ext %s";
    CREATE INDEX trigrams ON generated USING gin ("from" "Ext %s".gin_trgm_ops);
    GRANT EXECUTE ON FUNCTION "Ext %s".show_limit() TO "user";
\endif
\if :has_postgres_fdw
    CREATE EXTENSION postgres_fdw SCHEMA "Ext %s";
    CREATE SERVER unreachable FOREIGN DATA WRAPPER postgres_fdw
        OPTIONS (host 'nowhere.invalid', port '1', dbname 'none', connect_timeout '2');
    CREATE USER MAPPING FOR "user" SERVER unreachable OPTIONS ("user" 'nobody');
    CREATE FOREIGN TABLE "Foreign".unreachable (id int) SERVER unreachable;
\endif

-- Large objects ----------------------------------------------------------------------------------
-- Their numbers are fixed, so that they are the same after every load.

SELECT lo_create(910001);                                      -- empty
SELECT lo_from_bytea(910002, '\x00');
SELECT lo_from_bytea(910003, decode(repeat('5c2e0a005c4e0d0aff', 3000), 'hex'));
SELECT lo_from_bytea(910004, decode(repeat('00', 2048), 'hex'));     -- exactly one page
SELECT lo_create(910005);
SELECT lo_put(910005, 100000, 'after a hole');                 -- pages that are not stored
SELECT lo_create(4294967295);                                  -- the highest number there is
ALTER LARGE OBJECT 910002 OWNER TO "Röle with space";
ALTER LARGE OBJECT 910003 OWNER TO "naïve_名前_🐘";
GRANT SELECT ON LARGE OBJECT 910002 TO "user", PUBLIC;
GRANT ALL ON LARGE OBJECT 910005 TO "Quote""'\Role" WITH GRANT OPTION;
REVOKE ALL ON LARGE OBJECT 910003 FROM "naïve_名前_🐘";
COMMENT ON LARGE OBJECT 910001 IS E'odd ''\n\\. comment';

-- The database's own settings: new sessions begin with them ----------------------------------------
-- Whoever reads rows has to set what they depend on, and whoever holds a snapshot its time-outs.

ALTER DATABASE :"DBNAME" SET timezone = 'Asia/Kathmandu';
ALTER DATABASE :"DBNAME" SET DateStyle = 'SQL, DMY';
ALTER DATABASE :"DBNAME" SET IntervalStyle = 'sql_standard';
ALTER DATABASE :"DBNAME" SET bytea_output = 'escape';
ALTER DATABASE :"DBNAME" SET extra_float_digits = -5;
ALTER DATABASE :"DBNAME" SET xmloption = 'document';
ALTER DATABASE :"DBNAME" SET search_path = "Mixed Case", "100%s %n", "$user", public;
ALTER DATABASE :"DBNAME" SET statement_timeout = '20s';
ALTER DATABASE :"DBNAME" SET idle_in_transaction_session_timeout = '2s';
ALTER DATABASE :"DBNAME" SET default_transaction_isolation = 'serializable';
ALTER DATABASE :"DBNAME" SET "odd.setting" = E'it''s "odd"\\ \n%s';
ALTER ROLE "user" IN DATABASE :"DBNAME" SET search_path = "quo""te", "a.b", '';
ALTER ROLE "Quote""'\Role" IN DATABASE :"DBNAME" SET "odd.setting" = 'odd';
\if :v17
    ALTER DATABASE :"DBNAME" SET transaction_timeout = '30s';
\endif

-- Not all of it: that would ask the foreign partition's server, which is nowhere.
SELECT format('ANALYZE %s', string_agg(c.oid::regclass::text, ', '))
FROM pg_class AS c WHERE relkind = 'r' AND oid >= 16384 \gexec
\o
