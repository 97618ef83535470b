-- How news travels. All functions are replaced by each migration: {schema} is put in by schema.py.
-- Kinds of letters: 0 completed, 1 failed, 2 expired, 3 cancelled, 4 unknown, 5 progress, 6 chunk, 7 warned, 8 stop.

-- Idle workers look at these jobs: one notification for each function and priority, with its lowest id.
CREATE OR REPLACE FUNCTION "{schema}".wake(functions text[], priorities smallint[], ids bigint[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('{schema}:work', json_build_array(lane.function, lane.priority, lane.low)::text)
    FROM (
        SELECT ready.function, coalesce(ready.priority, 0) AS priority, min(ready.id) AS low
        FROM unnest(functions, priorities, ids) AS ready (function, priority, id)
        GROUP BY 1, 2
    ) AS lane;
END
$$;

-- Each peer hears of its letters, in their order, once the transaction is committed. A notification holds less than
-- 8,000 bytes, so they travel in frames, and a long body stays in the table, from where its number is told.
CREATE OR REPLACE FUNCTION "{schema}".tell(peers text[], watch_ids text[], kinds smallint[], bodies bytea[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    told bigint;
BEGIN
    WITH letters AS MATERIALIZED (
        SELECT each.*, CASE
            WHEN each.peer LIKE 'p%' OR octet_length(each.body) > 2000 THEN nextval('"{schema}".mail_ids')
        END AS mail_id
        FROM unnest(peers, watch_ids, kinds, bodies) WITH ORDINALITY AS each (peer, watch_id, kind, body, n)
        WHERE each.peer IS NOT NULL
    ), posted AS (
        INSERT INTO "{schema}".mail (id, peer, watch_id, kind, body)
        SELECT mail_id, peer, watch_id, kind, body FROM letters
        WHERE mail_id IS NOT NULL AND EXISTS (SELECT FROM "{schema}".peers WHERE peers.name = letters.peer)
    ), spelled AS MATERIALIZED (
        SELECT n, peer, concat('[', to_json(watch_id), ',', kind, ',', coalesce(
            mail_id::text, '"' || replace(encode(body, 'base64'), E'\n', '') || '"'
        ), ']') AS letter
        FROM letters WHERE peer LIKE 'l%'
    ), placed AS (
        SELECT *, sum(octet_length(letter) + 1) OVER (PARTITION BY peer ORDER BY n) / 5000 AS frame FROM spelled
    ), frames AS (
        SELECT peer, '[' || string_agg(letter, ',' ORDER BY n) || ']' AS text
        FROM placed GROUP BY peer, frame ORDER BY min(n)
    )
    SELECT count(pg_notify('{schema}:' || frames.peer, frames.text)) INTO told FROM frames;
END
$$;

-- Those who wait for jobs that have left the table hear of it, and their ends are kept if that was asked for.
CREATE OR REPLACE FUNCTION "{schema}".ended(
    ids bigint[], submitters text[], job_ids text[], kinds smallint[], bodies bytea[],
    result_ttls double precision[], watched boolean[]
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    peers text[];
    watch_ids text[];
    their_kinds smallint[];
    their_bodies bytea[];
BEGIN
    IF 0 < ANY (result_ttls) THEN
        INSERT INTO "{schema}".results (id, kind, body, expires)
        SELECT each.id, each.kind, each.body, clock_timestamp() + make_interval(secs => each.ttl)
        FROM unnest(ids, kinds, bodies, result_ttls) AS each (id, kind, body, ttl)
        WHERE each.ttl > 0
        ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, body = excluded.body, expires = excluded.expires;
    END IF;
    PERFORM "{schema}".tell(submitters, job_ids, kinds, bodies);
    IF true = ANY (watched) THEN
        WITH heard AS (
            DELETE FROM "{schema}".watchers
            USING unnest(ids, kinds, bodies, watched) AS each (id, kind, body, watched)
            WHERE watchers.job = each.id AND each.watched
            RETURNING watchers.peer, watchers.watch_id, each.kind, each.body
        )
        SELECT array_agg(peer), array_agg(watch_id), array_agg(kind), array_agg(body)
        INTO peers, watch_ids, their_kinds, their_bodies FROM heard;
        PERFORM "{schema}".tell(peers, watch_ids, their_kinds, their_bodies);
    END IF;
END
$$;

-- Handlers' news of running jobs reach those who wait: progress (done and total as [done,total]), chunks, warnings.
CREATE OR REPLACE FUNCTION "{schema}".report(ids bigint[], tokens bigint[], kinds smallint[], bodies bytea[])
RETURNS void
LANGUAGE plpgsql {plans} AS $$
DECLARE
    peers text[];
    watch_ids text[];
    their_kinds smallint[];
    their_bodies bytea[];
BEGIN
    UPDATE "{schema}".jobs SET done = last.done, total = last.total
    FROM (
        SELECT DISTINCT ON (each.id) each.id, each.token,
            (convert_from(each.body, 'UTF8')::json ->> 0)::bigint AS done,
            (convert_from(each.body, 'UTF8')::json ->> 1)::bigint AS total
        FROM unnest(ids, tokens, kinds, bodies) WITH ORDINALITY AS each (id, token, kind, body, n)
        WHERE each.kind = 5
        ORDER BY each.id, each.n DESC
    ) AS last
    WHERE jobs.id = last.id AND jobs.token = last.token AND jobs.state = 2;
    WITH news AS (
        SELECT jobs.id, jobs.submitter, jobs.job_id, jobs.watched, each.kind, each.body, each.n
        FROM unnest(ids, tokens, kinds, bodies) WITH ORDINALITY AS each (id, token, kind, body, n)
        JOIN "{schema}".jobs ON jobs.id = each.id AND jobs.token = each.token AND jobs.state = 2
    ), readers AS (
        SELECT submitter AS peer, job_id AS watch_id, kind, body, n FROM news WHERE submitter IS NOT NULL
        UNION ALL
        SELECT watchers.peer, watchers.watch_id, news.kind, news.body, news.n
        FROM news JOIN "{schema}".watchers ON watchers.job = news.id
        WHERE news.watched
    )
    SELECT array_agg(peer ORDER BY n), array_agg(watch_id ORDER BY n), array_agg(kind ORDER BY n), array_agg(body ORDER BY n)
    INTO peers, watch_ids, their_kinds, their_bodies FROM readers;
    PERFORM "{schema}".tell(peers, watch_ids, their_kinds, their_bodies);
END
$$;
