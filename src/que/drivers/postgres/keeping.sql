-- Schedules and what is kept. All functions are replaced by each migration: {schema} and {plans} are put in by schema.py.

-- Grants the schedule, unless its ticks are done up to `until` or another owner has it.
CREATE OR REPLACE FUNCTION "{schema}".begin_ticks(
    its_name text, until double precision, new_owner text, seconds double precision,
    OUT granted boolean, OUT done_until double precision
)
LANGUAGE plpgsql {plans} AS $$
BEGIN
    INSERT INTO "{schema}".ticks (schedule) VALUES (its_name) ON CONFLICT DO NOTHING;
    UPDATE "{schema}".ticks SET owner = new_owner, held_until = clock_timestamp() + make_interval(secs => seconds)
    WHERE schedule = its_name AND (done IS NULL OR done < until)
        AND (owner IS NULL OR owner = new_owner OR held_until <= clock_timestamp());
    granted := FOUND;
    SELECT done INTO done_until FROM "{schema}".ticks WHERE schedule = its_name;
END
$$;

-- The ticks are done up to `until`, or a later moment known already; the owner lets go.
CREATE OR REPLACE FUNCTION "{schema}".end_ticks(its_name text, until double precision, its_owner text) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO "{schema}".ticks AS known (schedule, done) VALUES (its_name, until)
    ON CONFLICT (schedule) DO UPDATE SET
        done = greatest(known.done, excluded.done),
        owner = CASE WHEN known.owner <> its_owner THEN known.owner END
$$;

-- Until the transaction ends, nobody else writes these keys or begins to attend to them. Each key belongs to one of 64
-- locks, which everybody takes in the same order: never a circle, and few locks for any number of keys.
CREATE OR REPLACE FUNCTION "{schema}".hold(keys text[]) RETURNS void
LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(hashtextextended('que:{schema}', number)) FROM (
        SELECT DISTINCT 1 + (hashtextextended("{schema}".key(each), 0) & 63) AS number
        FROM unnest(keys) AS each ORDER BY number
    ) AS locks
$$;

-- Keeps each entry whose key is free, tells those who attend to it, and returns what `looked_for` then holds.
-- What is read along with a write is locked too: of many who write the last of several keys, one sees all of them.
CREATE OR REPLACE FUNCTION "{schema}".keep(
    keys text[], kinds smallint[], bodies bytea[], ttls double precision[], looked_for text[]
) RETURNS TABLE (kind smallint, body bytea)
LANGUAGE plpgsql {plans} AS $$
DECLARE
    peers text[];
    watch_ids text[];
    their_kinds smallint[];
    their_bodies bytea[];
BEGIN
    IF cardinality(keys) > 0 THEN
        PERFORM "{schema}".hold(keys || looked_for);
        WITH given AS (
            SELECT DISTINCT ON (1) "{schema}".key(each.key) AS key, each.kind, each.body, each.ttl
            FROM unnest(keys, kinds, bodies, ttls) WITH ORDINALITY AS each (key, kind, body, ttl, n)
            ORDER BY 1, n
        ), written AS (
            INSERT INTO "{schema}".kept AS known (key, kind, body, expires)
            SELECT given.key, given.kind, given.body, clock_timestamp() + make_interval(secs => given.ttl) FROM given
            ON CONFLICT (key) DO UPDATE SET kind = excluded.kind, body = excluded.body, expires = excluded.expires
            WHERE known.expires <= clock_timestamp()
            RETURNING known.key, known.kind, known.body
        ), heard AS (
            DELETE FROM "{schema}".attending USING written WHERE attending.key = written.key
            RETURNING attending.peer, attending.watch_id, written.kind, written.body
        )
        SELECT array_agg(heard.peer), array_agg(heard.watch_id), array_agg(heard.kind), array_agg(heard.body)
        INTO peers, watch_ids, their_kinds, their_bodies FROM heard;
        PERFORM "{schema}".tell(peers, watch_ids, their_kinds, their_bodies);
    END IF;
    RETURN QUERY
    SELECT known.kind, known.body FROM unnest(looked_for) WITH ORDINALITY AS each (key, n)
    LEFT JOIN "{schema}".kept AS known ON known.key = "{schema}".key(each.key) AND known.expires > clock_timestamp()
    ORDER BY each.n;
END
$$;

-- Frees these keys.
CREATE OR REPLACE FUNCTION "{schema}".free(keys text[]) RETURNS void
LANGUAGE sql AS $$
    DELETE FROM "{schema}".kept WHERE key IN (SELECT "{schema}".key(each) FROM unnest(keys) AS each)
$$;

-- Returns, for each watch, the kind and body of what is kept, (NULL, NULL) where that will be told, and (4, NULL) where
-- somebody who attends `again` has been told already, unheard, of what is not kept any more.
CREATE OR REPLACE FUNCTION "{schema}".attend(reader text, watch_ids text[], keys text[], again boolean)
RETURNS TABLE (watch_id text, kind smallint, body bytea)
LANGUAGE plpgsql {plans} AS $$
BEGIN
    PERFORM "{schema}".hold(keys);
    RETURN QUERY
    WITH wanted AS MATERIALIZED (
        SELECT each.watch_id, "{schema}".key(each.key) AS key, known.kind, known.body, EXISTS (
            SELECT FROM "{schema}".attending AS old
            WHERE old.key = "{schema}".key(each.key) AND old.watch_id = each.watch_id AND old.peer = reader
        ) AS attends
        FROM unnest(watch_ids, keys) AS each (watch_id, key)
        LEFT JOIN "{schema}".kept AS known ON known.key = "{schema}".key(each.key) AND known.expires > clock_timestamp()
    ), begun AS (
        INSERT INTO "{schema}".attending (key, watch_id, peer)
        SELECT wanted.key, wanted.watch_id, reader FROM wanted WHERE wanted.kind IS NULL AND NOT again
        ON CONFLICT DO NOTHING
    )
    SELECT wanted.watch_id,
        CASE WHEN wanted.kind IS NULL AND again AND NOT wanted.attends THEN 4::smallint ELSE wanted.kind END,
        wanted.body
    FROM wanted;
END
$$;
