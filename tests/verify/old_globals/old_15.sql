-- Roles, memberships, tablespaces, settings and grants around the database.
-- For psql: -v settings=off for the roles alone, -v roles=off for the settings alone.
\set ON_ERROR_STOP on
\encoding UTF8
\if :{?roles}
\else
\set roles on
\endif
\if :{?settings}
\else
\set settings on
\endif
SET client_min_messages = warning;
SELECT pg_catalog.current_database() AS db \gset

\if :roles
SELECT  E'CREATE ROLE "Odd ""role"" 
\\! touch /tmp/x :db $$ ''" WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS' WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname =  E'Odd "role" 
\\! touch /tmp/x :db $$ ''') \gexec
SELECT 'CREATE ROLE "postgres" WITH SUPERUSER INHERIT CREATEROLE CREATEDB LOGIN REPLICATION BYPASSRLS' WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'postgres') \gexec
SELECT 'CREATE ROLE "reporter" WITH NOSUPERUSER INHERIT NOCREATEROLE CREATEDB LOGIN NOREPLICATION BYPASSRLS CONNECTION LIMIT 7 VALID UNTIL ''2031-01-01 00:00:00+00''' WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'reporter') \gexec
COMMENT ON ROLE "reporter" IS  E'reads
all it''s \\ given';
SELECT 'CREATE ROLE "team" WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS' WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'team') \gexec
GRANT "pg_monitor" TO "team";
GRANT "team" TO "reporter";
SELECT 'GRANT "team" TO "reporter" WITH ADMIN OPTION' WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_auth_members a JOIN pg_catalog.pg_roles r ON r.oid = a.roleid JOIN pg_catalog.pg_roles m ON m.oid = a.member WHERE r.rolname = 'team' AND m.rolname = 'reporter' AND a.admin_option) \gexec
\endif
-- Tablespaces need their folders first; else restore with --no-tablespaces.
-- CREATE TABLESPACE "fast\! touch INJECTED #" OWNER "postgres" LOCATION 'pg_tblspc/16388';
-- CREATE TABLESPACE "slow
-- \! touch INJECTED" OWNER "postgres" LOCATION 'pg_tblspc/16389';
\if :settings
ALTER DATABASE :"db" SET "DateStyle" TO 'German';
ALTER ROLE "reporter" SET "search_path" TO 'nowhere', 'A b';
ALTER ROLE "reporter" IN DATABASE :"db" SET "application_name" TO  E'a\\b
c';
ALTER DATABASE :"db" OWNER TO "postgres";
ALTER DATABASE :"db" CONNECTION LIMIT 20;
COMMENT ON DATABASE :"db" IS 'the shop';
REVOKE ALL ON DATABASE :"db" FROM PUBLIC;
REVOKE ALL ON DATABASE :"db" FROM "postgres";
GRANT CONNECT ON DATABASE :"db" TO PUBLIC;
GRANT TEMPORARY ON DATABASE :"db" TO PUBLIC;
GRANT CONNECT ON DATABASE :"db" TO "postgres";
GRANT CREATE ON DATABASE :"db" TO "postgres";
GRANT TEMPORARY ON DATABASE :"db" TO "postgres";
GRANT CREATE ON DATABASE :"db" TO "reporter" WITH GRANT OPTION;
ALTER ROLE ALL SET "work_mem" TO '5MB';
\endif
