--
-- PostgreSQL database dump
--

\restrict r2H3Ddg5VDMlstlRBwP6SVakKAekhOTeSt6QoPItvwZbPWBlmq5wQoit4EVoO2n

-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 15.18 (Debian 15.18-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: mood; Type: TYPE; Schema: public; Owner: postgres
--

CREATE TYPE public.mood AS ENUM (
    'calm',
    'wild'
);


ALTER TYPE public.mood OWNER TO postgres;

--
-- Name: price; Type: DOMAIN; Schema: public; Owner: postgres
--

CREATE DOMAIN public.price AS numeric(10,2)
	CONSTRAINT price_check CHECK ((VALUE >= (0)::numeric));


ALTER DOMAIN public.price OWNER TO postgres;

--
-- Name: answer(); Type: FUNCTION; Schema: public; Owner: postgres
--

CREATE FUNCTION public.answer() RETURNS integer
    LANGUAGE sql
    AS $$SELECT 42$$;


ALTER FUNCTION public.answer() OWNER TO postgres;

SET default_table_access_method = heap;

--
-- Name: item; Type: TABLE; Schema: public; Owner: old_owner
--

CREATE TABLE public.item (
    id integer NOT NULL,
    name text NOT NULL,
    cost public.price,
    m public.mood,
    at timestamp with time zone,
    doc jsonb,
    data bytea,
    tags text[]
);


ALTER TABLE public.item OWNER TO old_owner;

--
-- Name: TABLE item; Type: COMMENT; Schema: public; Owner: old_owner
--

COMMENT ON TABLE public.item IS 'things';


--
-- Name: cheap; Type: VIEW; Schema: public; Owner: postgres
--

CREATE VIEW public.cheap AS
 SELECT item.name
   FROM public.item
  WHERE ((item.cost)::numeric < (10)::numeric);


ALTER TABLE public.cheap OWNER TO postgres;

--
-- Name: counter; Type: SEQUENCE; Schema: public; Owner: postgres
--

CREATE SEQUENCE public.counter
    START WITH 7
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


ALTER TABLE public.counter OWNER TO postgres;

--
-- Name: item_id_seq; Type: SEQUENCE; Schema: public; Owner: old_owner
--

ALTER TABLE public.item ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.item_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: odd "name; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public."odd ""name" (
    "a b" text
);


ALTER TABLE public."odd ""name" OWNER TO postgres;

--
-- Name: sale; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.sale (
    id integer,
    day date NOT NULL,
    item integer
)
PARTITION BY RANGE (day);


ALTER TABLE public.sale OWNER TO postgres;

--
-- Name: per_day; Type: MATERIALIZED VIEW; Schema: public; Owner: postgres
--

CREATE MATERIALIZED VIEW public.per_day AS
 SELECT sale.day,
    count(*) AS count
   FROM public.sale
  GROUP BY sale.day
  WITH NO DATA;


ALTER TABLE public.per_day OWNER TO postgres;

--
-- Name: sale_2025; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.sale_2025 (
    id integer,
    day date NOT NULL,
    item integer
);


ALTER TABLE public.sale_2025 OWNER TO postgres;

--
-- Name: sale_2026; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.sale_2026 (
    id integer,
    day date NOT NULL,
    item integer
);


ALTER TABLE public.sale_2026 OWNER TO postgres;

--
-- Name: sale_2025; Type: TABLE ATTACH; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.sale ATTACH PARTITION public.sale_2025 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');


--
-- Name: sale_2026; Type: TABLE ATTACH; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.sale ATTACH PARTITION public.sale_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');


--
-- Name: item item_pkey; Type: CONSTRAINT; Schema: public; Owner: old_owner
--

ALTER TABLE ONLY public.item
    ADD CONSTRAINT item_pkey PRIMARY KEY (id);


--
-- Name: sale_item_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX sale_item_idx ON ONLY public.sale USING btree (item);


--
-- Name: sale_2025_item_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX sale_2025_item_idx ON public.sale_2025 USING btree (item);


--
-- Name: sale_2026_item_idx; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX sale_2026_item_idx ON public.sale_2026 USING btree (item);


--
-- Name: sale_2025_item_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.sale_item_idx ATTACH PARTITION public.sale_2025_item_idx;


--
-- Name: sale_2026_item_idx; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.sale_item_idx ATTACH PARTITION public.sale_2026_item_idx;


--
-- Name: sale sale_item_fkey; Type: FK CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE public.sale
    ADD CONSTRAINT sale_item_fkey FOREIGN KEY (item) REFERENCES public.item(id);


--
-- Name: TABLE item; Type: ACL; Schema: public; Owner: old_owner
--

GRANT SELECT ON TABLE public.item TO old_reader;


--
-- PostgreSQL database dump complete
--

\unrestrict r2H3Ddg5VDMlstlRBwP6SVakKAekhOTeSt6QoPItvwZbPWBlmq5wQoit4EVoO2n

