-- The demo's `shop`: a small web shop with the kinds of objects that a real one has.
--
-- psql -X -q -v ON_ERROR_STOP=1 [-v scale=0.01] --file shop.sql
--
-- As a superuser, or Cloud SQL's postgres, into an empty UTF-8 database of any name, PostgreSQL 13
-- to 18. Every value comes
-- from a row's number and fixed times, never from random() or now(), so two loads are equal.
-- `scale` multiplies the numbers of rows; 1 gives about 100 MB on disk.

\encoding UTF8
\o /dev/null
\if :{?scale}
\else
  \set scale 1
\endif

SET client_min_messages = warning;
SET standard_conforming_strings = on;
SET TIME ZONE 'UTC';
SET maintenance_work_mem = '128MB';
SET work_mem = '64MB';
-- The database may say otherwise, and a load that is cut off is of no use to anybody.
SET statement_timeout = 0;
SET search_path = public;

SELECT greatest(20, round(50000 * :scale))::int AS customers,
       greatest(10, round(1500 * sqrt(:scale)))::int AS products,
       greatest(60, round(120000 * :scale))::int AS orders,
       greatest(120, round(110000 * :scale))::int AS events \gset

-- Roles belong to the whole server: another load may make them at the same moment.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'shop_app') THEN
        BEGIN
            CREATE ROLE shop_app LOGIN CONNECTION LIMIT 200;
            COMMENT ON ROLE shop_app IS 'The web shop''s own login; owns its tables';
            ALTER ROLE shop_app SET lock_timeout = '10s';
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'shop_reader') THEN
        BEGIN
            CREATE ROLE shop_reader NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'shop_analyst') THEN
        BEGIN
            CREATE ROLE shop_analyst LOGIN IN ROLE shop_reader;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END IF;
    -- Where no superuser is to be had: one has to be a member to give somebody something.
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('GRANT shop_app TO %I', current_user);
    END IF;
END
$$;

-- One transaction: all of it or nothing.
BEGIN;

ALTER DATABASE :"DBNAME" OWNER TO shop_app;
ALTER DATABASE :"DBNAME" SET timezone = 'UTC';
ALTER DATABASE :"DBNAME" SET default_statistics_target = 200;
ALTER ROLE shop_analyst IN DATABASE :"DBNAME" SET statement_timeout = '60s';
ALTER ROLE shop_analyst IN DATABASE :"DBNAME" SET search_path = reporting, public;
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO shop_reader;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT ALL ON SCHEMA public TO shop_app;
GRANT USAGE ON SCHEMA public TO shop_reader;
CREATE SCHEMA reporting AUTHORIZATION shop_app;

SET LOCAL ROLE shop_app;

COMMENT ON SCHEMA reporting IS 'What the analysts read';
GRANT USAGE ON SCHEMA reporting TO shop_reader;
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO shop_reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA reporting GRANT EXECUTE ON FUNCTIONS TO shop_reader;

CREATE TYPE order_status AS ENUM ('new', 'paid', 'packed', 'shipped', 'returned', 'cancelled');
CREATE DOMAIN email_address AS text CHECK (VALUE ~ '^[^@ ]+@[^@ ]+$');
CREATE DOMAIN cents AS integer CHECK (VALUE >= 0);
CREATE TYPE postal_address AS (street text, postcode text, city text, country char(2));
COMMENT ON TYPE order_status IS 'The life of an order';
COMMENT ON DOMAIN cents IS 'Money in hundredths of a euro';

CREATE FUNCTION order_total(wanted_order_id bigint) RETURNS bigint
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = public, pg_temp
AS $$
DECLARE
    total bigint;
BEGIN
    SELECT coalesce(sum(quantity * unit_price), 0) INTO total
    FROM order_items WHERE order_id = wanted_order_id;
    RETURN total;
END
$$;
COMMENT ON FUNCTION order_total(bigint) IS 'Sum of an order''s items, in cents';

CREATE FUNCTION touch_order() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;

CREATE FUNCTION recompute_order() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = public, pg_temp
AS $$
BEGIN
    UPDATE orders SET total = order_total(orders.id)
    WHERE id IN (OLD.order_id, NEW.order_id);
    RETURN NULL;
END
$$;
REVOKE EXECUTE ON FUNCTION recompute_order() FROM PUBLIC;

-- Tables ------------------------------------------------------------------------------------

CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY,
    public_id uuid NOT NULL,
    email email_address NOT NULL,
    full_name text NOT NULL,
    address postal_address,
    phone_numbers text[] NOT NULL DEFAULT '{}',
    newsletter boolean NOT NULL DEFAULT false,
    birthday date,
    joined_at timestamptz NOT NULL DEFAULT now(),
    email_host text GENERATED ALWAYS AS (split_part(email::text, '@', 2)) STORED
);
COMMENT ON TABLE customers IS 'Whoever has ever bought something';
COMMENT ON COLUMN customers.public_id IS 'The number that customers get to see';

CREATE TABLE products (
    id integer GENERATED BY DEFAULT AS IDENTITY (START WITH 1000),
    sku varchar(16) NOT NULL,
    name text NOT NULL,
    price cents NOT NULL,
    weight_kg numeric(8, 3) NOT NULL,
    attributes jsonb NOT NULL DEFAULT '{}',
    picture_id oid,
    discontinued boolean NOT NULL DEFAULT false
);
COMMENT ON COLUMN products.picture_id IS 'A large object';

CREATE TABLE orders (
    id bigint GENERATED BY DEFAULT AS IDENTITY,
    customer_id bigint NOT NULL,
    status order_status NOT NULL DEFAULT 'new',
    placed_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    total bigint NOT NULL DEFAULT 0,
    note text
);

CREATE TABLE order_items (
    id bigserial,
    order_id bigint NOT NULL,
    product_id integer NOT NULL,
    quantity smallint NOT NULL DEFAULT 1,
    unit_price cents NOT NULL
);

CREATE TABLE events (
    id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    customer_id bigint,
    kind text NOT NULL,
    payload jsonb NOT NULL
) PARTITION BY RANGE (occurred_at);
COMMENT ON TABLE events IS 'What visitors did; one partition a month';

SELECT format('CREATE TABLE events_%s PARTITION OF events FOR VALUES FROM (%L) TO (%L)',
              to_char(month, 'YYYY_MM'), month, month + interval '1 month')
FROM generate_series(timestamptz '2025-01-01', '2025-12-01', '1 month') AS month \gexec
CREATE TABLE events_other PARTITION OF events DEFAULT;

CREATE SEQUENCE invoice_number AS bigint START WITH 2025000001 INCREMENT BY 1 CACHE 10;
COMMENT ON SEQUENCE invoice_number IS 'Handed out without gaps, or nearly so';

CREATE UNLOGGED TABLE carts (
    session_id uuid PRIMARY KEY,
    customer_id bigint,
    items jsonb NOT NULL
);

-- Rows --------------------------------------------------------------------------------------
-- n * 2654435761 modulo 2^32 (Knuth's multiplicative hash) scatters the numbers well enough.

INSERT INTO customers (id, public_id, email, full_name, address, phone_numbers, newsletter,
                       birthday, joined_at)
OVERRIDING SYSTEM VALUE
SELECT n,
       md5('customer ' || n)::uuid,
       lower(given || '.' || family) || n || '@' || host,
       given || ' ' || family,
       CASE WHEN h % 11 > 0 THEN ROW(street || ' ' || h % 140 + 1, lpad((h % 99999)::text, 5, '0'),
                                     city, country)::postal_address END,
       CASE h % 4 WHEN 0 THEN '{}'::text[]
                  WHEN 1 THEN ARRAY['+49 30 ' || h % 9000000 + 1000000]
                  ELSE ARRAY['+44 20 ' || h % 90000000, '+33 1 ' || h % 7919] END,
       h % 3 = 0,
       CASE WHEN h % 5 > 0 THEN date '1940-01-01' + (h % 24000)::int END,
       timestamptz '2021-03-01 08:00:00+00' + n * interval '37 minutes'
           + h % 1000000 * interval '1 microsecond'
FROM (
    SELECT n, n::bigint * 2654435761 % 4294967296 AS h FROM generate_series(1, :customers) AS n
) AS numbered,
LATERAL (SELECT
    (ARRAY['Ada', 'Björn', 'Chloé', 'Dmitri', 'Élodie', 'Fatima', 'Grace', 'Håkon', 'İpek',
           'João', 'Kenji', 'Łucja', 'Mário', 'Nguyễn', 'Olu', 'Zoë'])[h % 16 + 1] AS given,
    (ARRAY['Abbott', 'Bäcker', 'Castaño', 'Dvořák', 'Eriksson', 'Fløistad', 'García', 'Hopper',
           'Ionescu', 'Jørgensen', 'Kowalski', 'O''Brien', 'Müller', 'Šimić'])[h / 16 % 14 + 1]
        AS family,
    (ARRAY['example.com', 'example.org', 'mail.example.net', 'post.example'])[h / 224 % 4 + 1]
        AS host,
    (ARRAY['High Street', 'Hauptstraße', 'Rue de la Paix', 'Calle Mayor'])[h / 7 % 4 + 1]
        AS street,
    (ARRAY['Leeds', 'Köln', 'Orléans', 'Málaga'])[h / 7 % 4 + 1] AS city,
    (ARRAY['GB', 'DE', 'FR', 'ES'])[h / 7 % 4 + 1] AS country
) AS words;

INSERT INTO products (id, sku, name, price, weight_kg, attributes, discontinued)
SELECT 999 + n,
       'SKU-' || lpad(n::text, 6, '0'),
       (ARRAY['Lamp', 'Chair', 'Kettle', 'Notebook', 'Rucksack', 'Clock'])[h % 6 + 1]
           || ' № ' || n,
       (h % 20000 + 99)::int,
       (h % 30000 + 50) / 1000.0,
       jsonb_build_object(
           'colour', (ARRAY['red', 'green', 'blue', 'oak', 'black'])[h % 5 + 1],
           'size', jsonb_build_array(h % 90 + 10, h / 100 % 90 + 10, h / 10000 % 90 + 10),
           'tags', to_jsonb((ARRAY['new', 'sale', 'gift', 'eco', 'fragile'])[1:(h % 5)::int]),
           'warranty', CASE WHEN h % 3 = 0 THEN NULL ELSE h % 5 END),
       h % 29 = 0
FROM (
    SELECT n, n::bigint * 2654435761 % 4294967296 AS h FROM generate_series(1, :products) AS n
) AS numbered;

INSERT INTO orders (id, customer_id, status, placed_at, updated_at, note)
SELECT n,
       h % :customers + 1,
       (ARRAY['shipped', 'shipped', 'shipped', 'paid', 'packed', 'returned', 'cancelled', 'new']
            ::order_status[])[h / 3 % 8 + 1],
       placed_at,
       placed_at + h % 400 * interval '17 minutes',
       CASE WHEN h % 17 = 0 THEN 'please leave it with the neighbour at No. ' || h % 90
            WHEN h % 17 = 1 THEN E'gift:\n"all the best"\n' || repeat('♥', (h % 7)::int)
            WHEN h % 17 = 2 THEN '' END
FROM (
    SELECT n,
           n::bigint * 2654435761 % 4294967296 AS h,
           timestamptz '2025-01-01 00:00:00+00' + n * (interval '364 days' / :orders) AS placed_at
    FROM generate_series(1, :orders) AS n
) AS numbered;

INSERT INTO order_items (id, order_id, product_id, quantity, unit_price)
SELECT row_number() OVER (ORDER BY n, line), n, p.id, (h / 7 % 4 + 1)::smallint, p.price
FROM (
    SELECT n, line, (n * 8 + line)::bigint * 2654435761 % 4294967296 AS h
    FROM generate_series(1, :orders) AS n, generate_series(1, n % 4 + 1) AS line
) AS numbered
JOIN products AS p ON p.id = 1000 + h % :products;

INSERT INTO events (id, occurred_at, customer_id, kind, payload)
SELECT md5('event ' || n)::uuid,
       -- A few are older than the first partition: they land in the default one.
       timestamptz '2024-12-30 00:00:00+00' + n * (interval '366 days' / :events)
           + h % 60000000 * interval '1 microsecond',
       CASE WHEN h % 6 > 0 THEN h % :customers + 1 END,
       (ARRAY['view', 'view', 'search', 'add_to_cart', 'checkout'])[h % 5 + 1],
       jsonb_build_object(
           'page', '/products/' || h % :products + 1000,
           'session', md5('session ' || n / 7),
           'ms', h % 3000,
           'referrer', (ARRAY['https://search.example/?q=lamp', NULL, 'newsletter'])[h % 3 + 1],
           'agent', jsonb_build_object('mobile', h % 2 = 0, 'version', h % 40 / 10.0))
FROM (
    SELECT n, n::bigint * 2654435761 % 4294967296 AS h FROM generate_series(1, :events) AS n
) AS numbered;

INSERT INTO carts
SELECT md5('cart ' || n)::uuid, n, jsonb_build_array(n * 3 % 1000, n * 7 % 1000)
FROM generate_series(1, 20) AS n;

UPDATE orders SET total = sums.total
FROM (SELECT order_id, sum(quantity * unit_price) AS total FROM order_items
      WHERE order_id % 50 = 0 GROUP BY order_id) AS sums
WHERE orders.id = sums.order_id;

SELECT setval(pg_get_serial_sequence('customers', 'id'), :customers);
SELECT setval(pg_get_serial_sequence('products', 'id'), 999 + :products);
SELECT setval(pg_get_serial_sequence('orders', 'id'), :orders);
SELECT setval(pg_get_serial_sequence('order_items', 'id'), (SELECT max(id) FROM order_items));
SELECT setval('invoice_number', 2025000001 + :orders / 2);

-- Constraints and indexes: after the rows, which is quicker --------------------------------------

ALTER TABLE customers ADD PRIMARY KEY (id),
                      ADD UNIQUE (public_id),
                      ADD CHECK (full_name <> '');
ALTER TABLE products ADD PRIMARY KEY (id),
                     ADD UNIQUE (sku),
                     ADD CONSTRAINT weighs_something CHECK (weight_kg > 0);
ALTER TABLE orders ADD PRIMARY KEY (id),
                   ADD FOREIGN KEY (customer_id) REFERENCES customers,
                   ADD CONSTRAINT updated_after_placed CHECK (updated_at >= placed_at);
ALTER TABLE order_items ADD PRIMARY KEY (id),
                        ADD FOREIGN KEY (order_id) REFERENCES orders ON DELETE CASCADE,
                        ADD FOREIGN KEY (product_id) REFERENCES products,
                        ADD CHECK (quantity BETWEEN 1 AND 1000);
ALTER TABLE events ADD PRIMARY KEY (occurred_at, id),
                   ADD FOREIGN KEY (customer_id) REFERENCES customers;
ALTER TABLE carts ADD FOREIGN KEY (customer_id) REFERENCES customers
                      ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED;

CREATE UNIQUE INDEX customers_email_key ON customers (lower(email::text));
CREATE INDEX customers_newsletter_idx ON customers (joined_at DESC) WHERE newsletter;
CREATE INDEX products_attributes_idx ON products USING gin (attributes);
CREATE INDEX products_name_idx ON products USING gin (to_tsvector('simple', name));
CREATE INDEX orders_customer_id_idx ON orders (customer_id) INCLUDE (status);
CREATE INDEX orders_open_idx ON orders (placed_at) WHERE status IN ('new', 'paid', 'packed');
CREATE INDEX order_items_order_id_idx ON order_items (order_id);
CREATE INDEX events_payload_idx ON events USING gin (payload jsonb_path_ops)
    WHERE kind = 'checkout';
CREATE INDEX events_occurred_at_idx ON events USING brin (occurred_at);
CREATE STATISTICS orders_customer_status (dependencies) ON customer_id, status FROM orders;

CREATE TRIGGER touch BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch_order();
CREATE TRIGGER recompute AFTER INSERT OR DELETE OR UPDATE OF order_id, quantity, unit_price
    ON order_items FOR EACH ROW EXECUTE FUNCTION recompute_order();
COMMENT ON TRIGGER touch ON orders IS 'Keeps updated_at honest';

-- Views -------------------------------------------------------------------------------------

CREATE VIEW reporting.open_orders AS
SELECT o.id, o.placed_at, o.status, c.full_name, (c.address).city, count(i.id) AS items,
       coalesce(sum(i.quantity * i.unit_price), 0) AS total
FROM orders AS o
JOIN customers AS c ON c.id = o.customer_id
LEFT JOIN order_items AS i ON i.order_id = o.id
WHERE o.status IN ('new', 'paid', 'packed')
GROUP BY o.id, c.id;
COMMENT ON VIEW reporting.open_orders IS 'What is still to be sent';

CREATE MATERIALIZED VIEW reporting.daily_sales AS
SELECT (o.placed_at AT TIME ZONE 'UTC')::date AS day, p.attributes ->> 'colour' AS colour,
       count(DISTINCT o.id) AS orders, sum(i.quantity * i.unit_price) AS revenue
FROM orders AS o
JOIN order_items AS i ON i.order_id = o.id
JOIN products AS p ON p.id = i.product_id
WHERE o.status <> 'cancelled'
GROUP BY 1, 2;
CREATE UNIQUE INDEX daily_sales_key ON reporting.daily_sales (day, colour);

CREATE FUNCTION reporting.revenue(since date, until date) RETURNS bigint
LANGUAGE sql STABLE
AS $$ SELECT sum(revenue)::bigint FROM reporting.daily_sales WHERE day BETWEEN since AND until $$;

REVOKE ALL ON carts FROM shop_reader;
REVOKE ALL ON customers FROM shop_reader;
GRANT SELECT (id, public_id, newsletter, joined_at, email_host) ON customers TO shop_reader;

-- Large objects ------------------------------------------------------------------------------
-- Their numbers are fixed, so that they too are equal after every load. 256 KB each.

SELECT lo_from_bytea((810000 + k)::oid, decode(string_agg(md5('picture ' || k || ' ' || n), ''
                                                          ORDER BY n), 'hex'))
FROM generate_series(1, 4) AS k, generate_series(1, 16384) AS n
GROUP BY k;
COMMENT ON LARGE OBJECT 810001 IS 'Picture of the first product';
GRANT SELECT ON LARGE OBJECT 810001 TO shop_reader;
UPDATE products SET picture_id = 809001 + id WHERE id BETWEEN 1000 AND 1003;

COMMIT;

RESET ROLE;
-- A small sample is enough for the planner and takes a tenth of the time.
SET default_statistics_target = 10;
ANALYZE;
\o
