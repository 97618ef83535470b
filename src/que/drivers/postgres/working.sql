-- What workers do. All functions are replaced by each migration: {schema} and {plans} are put in by schema.py.

-- Takes at most `most` jobs, from each function at most `share`, higher priorities first and then in their order.
-- The lows are ids below which no job of that function and priority waits: what stands there has been taken, and dead
-- rows of it are not to be looked at again.
CREATE OR REPLACE FUNCTION "{schema}".take(
    functions text[], high bigint[], normal bigint[], low bigint[], share integer, most integer,
    taker text, new_token bigint, lease_seconds double precision
) RETURNS TABLE (id bigint, priority smallint, function text, payload bytea, job_id text, attempts integer, run_timeout double precision)
LANGUAGE plpgsql {plans} AS $$
BEGIN
    RETURN QUERY
    UPDATE "{schema}".jobs SET
        state = 2,
        attempts = jobs.attempts + 1,
        token = new_token,
        worker = taker,
        lease_until = clock_timestamp() + make_interval(secs => lease_seconds)
    FROM (
        SELECT shares.id
        FROM unnest(functions, high, normal, low) AS lane (function, high, normal, low)
        CROSS JOIN LATERAL (
            SELECT ready.id
            FROM (VALUES (1::smallint, lane.high), (0::smallint, lane.normal), ((-1)::smallint, lane.low))
                AS level (priority, low)
            CROSS JOIN LATERAL (
                SELECT waiting.id FROM "{schema}".jobs AS waiting
                WHERE waiting.state = 0 AND waiting.function = lane.function AND waiting.priority = level.priority
                    AND waiting.id >= level.low
                ORDER BY waiting.id LIMIT share FOR UPDATE SKIP LOCKED
            ) AS ready
            LIMIT share
        ) AS shares
        LIMIT most
    ) AS chosen
    WHERE jobs.id = chosen.id
    RETURNING jobs.id, jobs.priority, jobs.function, jobs.payload, jobs.job_id, jobs.attempts, jobs.run_timeout;
END
$$;

-- Takes as take() does, as many as the rate allows among all who take by one. The last row has no job: it says in how
-- many seconds there may be more, NULL where nothing waits.
CREATE OR REPLACE FUNCTION "{schema}".take_throttled(
    its_function text, high bigint, normal bigint, low bigint, most integer, taker text, new_token bigint,
    lease_seconds double precision, rate_count bigint, rate_seconds double precision
) RETURNS TABLE (
    id bigint, priority smallint, function text, payload bytea, job_id text, attempts integer,
    run_timeout double precision, wait_seconds double precision
)
LANGUAGE plpgsql {plans} AS $$
DECLARE
    this_moment timestamptz;
    counts_until timestamptz;
    earlier_ones bigint;
    all_so_far bigint;
    free bigint;
    taken bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('que:{schema}:begun:' || its_function, 0));
    this_moment := clock_timestamp();
    -- A clock that was put back has made rows that would count for too long.
    DELETE FROM "{schema}".begun WHERE begun.function = its_function
        AND (begun.until <= this_moment OR begun.until > this_moment + make_interval(secs => rate_seconds));
    SELECT begun.until, begun.earlier INTO counts_until, earlier_ones FROM "{schema}".begun
        WHERE begun.function = its_function ORDER BY begun.until, begun.so_far LIMIT 1;
    SELECT begun.so_far INTO all_so_far FROM "{schema}".begun
        WHERE begun.function = its_function ORDER BY begun.until DESC, begun.so_far DESC LIMIT 1;
    counts_until := coalesce(counts_until, this_moment + make_interval(secs => rate_seconds));
    free := rate_count - coalesce(all_so_far - earlier_ones, 0);
    most := least(most, free);
    IF most > 0 THEN
        RETURN QUERY SELECT jobs.*, NULL::double precision FROM "{schema}".take(
            ARRAY[its_function], ARRAY[high], ARRAY[normal], ARRAY[low], most, most, taker, new_token, lease_seconds
        ) AS jobs;
        GET DIAGNOSTICS taken = ROW_COUNT;
        IF taken > 0 THEN
            INSERT INTO "{schema}".begun VALUES (
                its_function, this_moment + make_interval(secs => rate_seconds), coalesce(all_so_far, 0),
                coalesce(all_so_far, 0) + taken
            );
        END IF;
    END IF;
    IF free <= 0 OR taken = free THEN
        wait_seconds := extract(epoch FROM counts_until - this_moment);
    ELSIF taken = most THEN
        wait_seconds := 0;
    END IF;
    RETURN NEXT;
END
$$;

-- Gives back what was taken under this token and never arrived at the taker.
CREATE OR REPLACE FUNCTION "{schema}".untake(lost_token bigint) RETURNS void
LANGUAGE plpgsql {plans} AS $$
DECLARE
    ids bigint[];
    functions text[];
    priorities smallint[];
BEGIN
    WITH returned AS (
        UPDATE "{schema}".jobs
        SET state = 0, attempts = attempts - 1, token = NULL, worker = NULL, lease_until = NULL
        WHERE state = 2 AND lease_until > '-infinity' AND token = lost_token
        RETURNING id, function, priority
    )
    SELECT array_agg(id), array_agg(function), array_agg(priority) INTO ids, functions, priorities FROM returned;
    PERFORM "{schema}".wake(functions, priorities, ids);
END
$$;

-- Writes each verdict whose token still holds its job, and returns the positions of those, counted from 1.
-- verdicts: 0 completed (or NULL), 1 failed, 2 failed and not to be buried, 3 redeliver, 4 released.
CREATE OR REPLACE FUNCTION "{schema}".settle(
    ids bigint[], tokens bigint[], verdicts smallint[], bodies bytea[], afters double precision[]
) RETURNS bigint[]
LANGUAGE plpgsql {plans} AS $$
DECLARE
    places bigint[];
    their_ids bigint[];
    submitters text[];
    job_ids text[];
    kinds smallint[];
    their_bodies bytea[];
    result_ttls double precision[];
    watched boolean[];
BEGIN
    WITH gone AS (
        DELETE FROM "{schema}".jobs
        USING unnest(ids, tokens, verdicts, bodies) WITH ORDINALITY AS each (id, token, verdict, body, n)
        WHERE jobs.id = each.id AND jobs.token = each.token AND jobs.state = 2 AND coalesce(each.verdict, 0) < 3
        RETURNING each.n, coalesce(each.verdict, 0::smallint) AS verdict, each.body, jobs.*
    ), buried AS (
        INSERT INTO "{schema}".dead_letters (
            id, priority, attempts, buried_at, run_timeout, result_ttl, function, job_id, unique_key, failure, payload
        )
        SELECT
            id, priority, attempts, clock_timestamp(), run_timeout, result_ttl, function, job_id, unique_key, body, payload
        FROM gone WHERE verdict = 1 AND submitter IS NULL
        ON CONFLICT (id) DO NOTHING
    )
    SELECT
        array_agg(n), array_agg(id), array_agg(submitter), array_agg(job_id), array_agg(least(verdict, 1)::smallint),
        array_agg(body), array_agg(result_ttl), array_agg(gone.watched)
    INTO places, their_ids, submitters, job_ids, kinds, their_bodies, result_ttls, watched
    FROM gone;
    PERFORM "{schema}".ended(their_ids, submitters, job_ids, kinds, their_bodies, result_ttls, watched);
    IF 3 <= ANY (verdicts) THEN
        places := coalesce(places, '{}') || "{schema}".requeue(ids, tokens, verdicts, afters);
    END IF;
    RETURN coalesce(places, '{}');
END
$$;

-- Settles the verdicts 3 and 4: the jobs wait again, after some seconds or in their old place.
CREATE OR REPLACE FUNCTION "{schema}".requeue(
    ids bigint[], tokens bigint[], verdicts smallint[], afters double precision[]
) RETURNS bigint[]
LANGUAGE plpgsql {plans} AS $$
DECLARE
    places bigint[];
    their_ids bigint[];
    functions text[];
    priorities smallint[];
BEGIN
    WITH waiting AS (
        UPDATE "{schema}".jobs SET
            state = CASE WHEN each.verdict = 3 AND each.after > 0 THEN 1 ELSE 0 END,
            due = CASE WHEN each.verdict = 3 AND each.after > 0
                THEN clock_timestamp() + make_interval(secs => each.after) END,
            attempts = CASE WHEN each.verdict = 4 THEN attempts - 1 ELSE attempts END,
            token = NULL, worker = NULL, lease_until = NULL
        FROM unnest(ids, tokens, verdicts, afters) WITH ORDINALITY AS each (id, token, verdict, after, n)
        WHERE jobs.id = each.id AND jobs.token = each.token AND jobs.state = 2 AND each.verdict >= 3
        RETURNING each.n, jobs.id, function, priority
    )
    SELECT coalesce(array_agg(n), '{}'), array_agg(id), array_agg(function), array_agg(priority)
    INTO places, their_ids, functions, priorities FROM waiting;
    PERFORM "{schema}".wake(functions, priorities, their_ids);
    RETURN places;
END
$$;

-- Lets leases begin anew, and returns the positions of those that are held still, counted from 1. A row that is locked
-- is being settled or taken back: nobody waits for that while the other leases run out, and the next call tells which.
CREATE OR REPLACE FUNCTION "{schema}".extend(ids bigint[], tokens bigint[], lease_seconds double precision)
RETURNS bigint[]
LANGUAGE plpgsql {plans} AS $$
DECLARE
    places bigint[];
BEGIN
    WITH held AS MATERIALIZED (
        SELECT each.n, each.id, each.token
        FROM unnest(ids, tokens) WITH ORDINALITY AS each (id, token, n)
        JOIN "{schema}".jobs ON jobs.id = each.id AND jobs.token = each.token AND jobs.state = 2
    ), free AS MATERIALIZED (
        SELECT jobs.id
        FROM held JOIN "{schema}".jobs ON jobs.id = held.id AND jobs.token = held.token AND jobs.state = 2
        FOR UPDATE OF jobs SKIP LOCKED
    ), renewed AS (
        UPDATE "{schema}".jobs SET lease_until = clock_timestamp() + make_interval(secs => lease_seconds)
        FROM free WHERE jobs.id = free.id
    )
    SELECT coalesce(array_agg(n), '{}') INTO places FROM held;
    RETURN places;
END
$$;
