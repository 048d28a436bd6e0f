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
SELECT 'CREATE ROLE "old_owner" WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS' WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'old_owner') \gexec
SELECT 'CREATE ROLE "old_reader" WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS' WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'old_reader') \gexec
COMMENT ON ROLE "old_reader" IS 'reads';
SELECT 'CREATE ROLE "postgres" WITH SUPERUSER INHERIT CREATEROLE CREATEDB LOGIN REPLICATION BYPASSRLS' WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'postgres') \gexec
\endif
\if :settings
ALTER DATABASE :"db" SET "work_mem" TO '9MB';
ALTER DATABASE :"db" OWNER TO "postgres";
\endif
