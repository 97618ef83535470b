-- How jobs come in. All functions are replaced by each migration: {schema} and {plans} are put in by schema.py.

-- Queues a batch and returns the id of each job: its own, or that of the job that has its unique key already.
-- An option that no job of the batch has is an empty array. Times are seconds from now.
CREATE OR REPLACE FUNCTION "{schema}".submit(
    peer text, functions text[], job_ids text[], payloads bytea[], background boolean[], priorities smallint[],
    delays double precision[], uniques text[], expiries double precision[], run_timeouts double precision[],
    result_ttls double precision[]
) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    started timestamptz := clock_timestamp();
    ids bigint[];
    n integer;
BEGIN
    WITH given AS MATERIALIZED (
        SELECT nextval('"{schema}".job_ids') AS id, each.*
        FROM unnest(
            functions, job_ids, payloads, background, priorities, delays, uniques, expiries, run_timeouts, result_ttls
        ) WITH ORDINALITY AS each (
            function, job_id, payload, is_background, priority, delay, unique_key, expiry, run_timeout, result_ttl, n
        )
    ), queued AS (
        INSERT INTO "{schema}".jobs (
            id, state, function, priority, due, expires, job_id, submitter, unique_key, run_timeout, result_ttl, payload
        )
        SELECT
            id,
            CASE WHEN delay > 0 THEN 1 ELSE 0 END,
            function,
            coalesce(priority, 0),
            CASE WHEN delay > 0 THEN started + make_interval(secs => delay) END,
            started + make_interval(secs => greatest(delay, 0) + expiry),
            job_id,
            CASE WHEN NOT is_background THEN peer END,
            "{schema}".key(unique_key),
            run_timeout,
            result_ttl,
            payload
        FROM given
        -- In the order of the keys, so that two batches of the same keys wait for each other and never in a circle.
        ORDER BY unique_key COLLATE "C", id
        ON CONFLICT (function, unique_key) WHERE unique_key IS NOT NULL DO NOTHING
        RETURNING id
    )
    SELECT array_agg(queued.id ORDER BY given.n) INTO ids FROM given LEFT JOIN queued USING (id);
    IF cardinality(uniques) > 0 THEN
        FOR n IN SELECT i FROM generate_subscripts(ids, 1) AS i WHERE ids[i] IS NULL ORDER BY functions[i], uniques[i] LOOP
            ids[n] := "{schema}".coalesce_with(peer, functions[n], uniques[n], job_ids[n], background[n]);
            IF ids[n] IS NULL THEN
                -- The one that had the key has ended meanwhile.
                ids[n] := ("{schema}".submit(
                    peer, functions[n:n], job_ids[n:n], payloads[n:n], background[n:n], priorities[n:n], delays[n:n],
                    uniques[n:n], expiries[n:n], run_timeouts[n:n], result_ttls[n:n]
                ))[1];
            END IF;
        END LOOP;
    END IF;
    PERFORM "{schema}".wake(functions, priorities, ids);
    RETURN ids;
END
$$;

-- A key of any length, short enough for an index.
CREATE OR REPLACE FUNCTION "{schema}".key(unique_key text) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN octet_length(unique_key) > 500 THEN 'sha256:' || encode(sha256(convert_to(unique_key, 'UTF8')), 'hex')
        ELSE unique_key
    END
$$;

-- Returns the id of the job that has this key, or NULL; somebody who waits for his own hears of that one's end.
CREATE OR REPLACE FUNCTION "{schema}".coalesce_with(
    peer text, its_function text, its_key text, watch_id text, is_background boolean
) RETURNS bigint
LANGUAGE plpgsql {plans} AS $$
DECLARE
    found_id bigint;
BEGIN
    IF is_background THEN
        SELECT id INTO found_id FROM "{schema}".jobs
        WHERE function = its_function AND unique_key = "{schema}".key(its_key);
    ELSE
        -- An update and no mere look: a verdict under way is waited for, and one that follows finds the watcher.
        UPDATE "{schema}".jobs SET watched = true
        WHERE function = its_function AND unique_key = "{schema}".key(its_key)
        RETURNING id INTO found_id;
        IF found_id IS NOT NULL THEN
            INSERT INTO "{schema}".watchers (job, watch_id, peer) VALUES (found_id, watch_id, peer);
        END IF;
    END IF;
    RETURN found_id;
END
$$;

-- Queues a job for anybody, in any language, in any transaction: it exists if and only if that is committed.
-- The params are bytes; que_send() takes JSON.
CREATE OR REPLACE FUNCTION "{schema}".que_send_bytes(
    function text, params bytea, priority integer DEFAULT 0, delay double precision DEFAULT NULL,
    unique_key text DEFAULT NULL, expires double precision DEFAULT NULL, run_timeout double precision DEFAULT NULL,
    result_ttl double precision DEFAULT NULL, job_id text DEFAULT NULL
) RETURNS bigint
LANGUAGE sql AS $$
    SELECT ("{schema}".submit(
        NULL, ARRAY[function], ARRAY[coalesce(job_id, gen_random_uuid()::text)], ARRAY[params], ARRAY[true],
        ARRAY[sign(priority)::smallint], ARRAY[delay], ARRAY[unique_key], ARRAY[expires], ARRAY[run_timeout],
        ARRAY[result_ttl]
    ))[1]
$$;

-- The same for JSON, as que's own serializer writes and reads it:
-- SELECT "{schema}".que_send('resize', '{"width": 640}', delay => 10)
CREATE OR REPLACE FUNCTION "{schema}".que_send(
    function text, params json, priority integer DEFAULT 0, delay double precision DEFAULT NULL,
    unique_key text DEFAULT NULL, expires double precision DEFAULT NULL, run_timeout double precision DEFAULT NULL,
    result_ttl double precision DEFAULT NULL
) RETURNS bigint
LANGUAGE sql AS $$
    SELECT "{schema}".que_send_bytes(
        function, convert_to(params::text, 'UTF8'), priority, delay, unique_key, expires, run_timeout, result_ttl
    )
$$;

-- Returns, for each job that somebody asks for, the kind and body of its end where that is kept, (NULL, NULL) where it
-- will be told, (4, NULL) where nothing is known.
CREATE OR REPLACE FUNCTION "{schema}".watch(reader text, watch_ids text[], ids bigint[])
RETURNS TABLE (watch_id text, kind smallint, body bytea)
LANGUAGE plpgsql {plans} AS $$
DECLARE
    live bigint[];
BEGIN
    WITH marked AS (
        UPDATE "{schema}".jobs SET watched = true WHERE id IN (SELECT unnest(ids)) RETURNING id
    )
    SELECT coalesce(array_agg(id), '{}') INTO live FROM marked;
    INSERT INTO "{schema}".watchers (job, watch_id, peer)
    SELECT each.job, each.watch_id, reader
    FROM unnest(ids, watch_ids) AS each (job, watch_id)
    JOIN "{schema}".jobs ON jobs.id = each.job
    WHERE each.job = ANY (live) AND jobs.job_id <> each.watch_id
    ON CONFLICT DO NOTHING;
    RETURN QUERY
    SELECT each.watch_id, CASE WHEN each.job = ANY (live) THEN NULL ELSE coalesce(results.kind, 4::smallint) END, results.body
    FROM unnest(ids, watch_ids) AS each (job, watch_id)
    LEFT JOIN "{schema}".results ON results.id = each.job AND results.expires > clock_timestamp();
END
$$;
