-- What happens by itself, and what can be asked. {schema} and {plans} are put in by schema.py.

-- Lets happen what is due: jobs expire, delays end, leases that ran out are taken back, a thousand at a time.
-- Returns whether this peer was unknown, whether it has mail, and the seconds until something else is due, or NULL.
CREATE OR REPLACE FUNCTION "{schema}".look(
    my_name text, OUT was_unknown boolean, OUT has_mail boolean, OUT wait_seconds double precision
)
LANGUAGE plpgsql {plans} AS $$
DECLARE
    at timestamptz := clock_timestamp();
    ids bigint[];
    functions text[];
    priorities smallint[];
BEGIN
    UPDATE "{schema}".peers SET seen = at WHERE name = my_name AND seen < at - interval '10 seconds';
    was_unknown := NOT EXISTS (SELECT FROM "{schema}".peers WHERE name = my_name);
    IF was_unknown THEN
        INSERT INTO "{schema}".peers (name, seen) VALUES (my_name, at) ON CONFLICT DO NOTHING;
    END IF;
    PERFORM "{schema}".expire(at);
    WITH ripe AS (
        UPDATE "{schema}".jobs SET state = 0, due = NULL
        WHERE id IN (
            SELECT id FROM "{schema}".jobs WHERE state = 1 AND due <= at
            ORDER BY due LIMIT 1000 FOR UPDATE SKIP LOCKED
        ) RETURNING id, function, priority
    ), lost AS (
        UPDATE "{schema}".jobs SET state = 0, token = NULL, worker = NULL, lease_until = NULL
        WHERE id IN (
            SELECT id FROM "{schema}".jobs WHERE state = 2 AND lease_until <= at
            ORDER BY lease_until LIMIT 1000 FOR UPDATE SKIP LOCKED
        ) RETURNING id, function, priority
    )
    SELECT array_agg(id), array_agg(function), array_agg(priority) INTO ids, functions, priorities
    FROM (SELECT * FROM ripe UNION ALL SELECT * FROM lost) AS back;
    PERFORM "{schema}".wake(functions, priorities, ids);
    has_mail := EXISTS (SELECT FROM "{schema}".mail WHERE peer = my_name);
    wait_seconds := extract(epoch FROM least(
        (SELECT min(due) FROM "{schema}".jobs WHERE state = 1),
        (SELECT min(lease_until) FROM "{schema}".jobs WHERE state = 2),
        (SELECT min(expires) FROM "{schema}".jobs WHERE expires IS NOT NULL AND state < 2 AND attempts = 0)
    ) - clock_timestamp());
END
$$;

-- Ends the jobs that nobody took in time.
CREATE OR REPLACE FUNCTION "{schema}".expire(at timestamptz) RETURNS void
LANGUAGE plpgsql {plans} AS $$
DECLARE
    ids bigint[];
    submitters text[];
    job_ids text[];
    result_ttls double precision[];
    watched boolean[];
BEGIN
    WITH gone AS (
        DELETE FROM "{schema}".jobs
        WHERE id IN (
            SELECT id FROM "{schema}".jobs WHERE expires IS NOT NULL AND state < 2 AND attempts = 0 AND expires <= at
            ORDER BY expires LIMIT 1000 FOR UPDATE SKIP LOCKED
        ) RETURNING *
    )
    SELECT array_agg(id), array_agg(submitter), array_agg(job_id), array_agg(result_ttl), array_agg(gone.watched)
    INTO ids, submitters, job_ids, result_ttls, watched FROM gone;
    IF ids IS NOT NULL THEN
        PERFORM "{schema}".ended(
            ids, submitters, job_ids, array_fill(2::smallint, ARRAY[cardinality(ids)]),
            array_fill('nobody took the job in time'::bytea, ARRAY[cardinality(ids)]), result_ttls, watched
        );
    END IF;
END
$$;

-- Ends a job that waits, or tells the worker of one that runs; false if there is none.
CREATE OR REPLACE FUNCTION "{schema}".cancel(its_id bigint) RETURNS boolean
LANGUAGE plpgsql {plans} AS $$
DECLARE
    job "{schema}".jobs;
BEGIN
    DELETE FROM "{schema}".jobs WHERE id = its_id AND state < 2 RETURNING * INTO job;
    IF FOUND THEN
        PERFORM "{schema}".ended(
            ARRAY[job.id], ARRAY[job.submitter], ARRAY[job.job_id], ARRAY[3::smallint],
            ARRAY['the job was cancelled before it ran'::bytea], ARRAY[job.result_ttl], ARRAY[job.watched]
        );
        RETURN true;
    END IF;
    SELECT * INTO job FROM "{schema}".jobs WHERE id = its_id AND state = 2;
    IF FOUND THEN
        PERFORM "{schema}".tell(
            ARRAY[job.worker], ARRAY[job.id::text], ARRAY[8::smallint], ARRAY[job.token::text::bytea]
        );
        RETURN true;
    END IF;
    -- It has changed hands between the two looks, or it is gone.
    IF EXISTS (SELECT FROM "{schema}".jobs WHERE id = its_id) THEN
        RETURN "{schema}".cancel(its_id);
    END IF;
    RETURN false;
END
$$;

-- Forgets a peer that has said good-bye; what it ran goes to others, and counts as run.
CREATE OR REPLACE FUNCTION "{schema}".leave(my_name text) RETURNS void
LANGUAGE plpgsql {plans} AS $$
DECLARE
    ids bigint[];
    functions text[];
    priorities smallint[];
BEGIN
    WITH back AS (
        UPDATE "{schema}".jobs SET state = 0, token = NULL, worker = NULL, lease_until = NULL
        WHERE state = 2 AND lease_until > '-infinity' AND worker = my_name
        RETURNING id, function, priority
    )
    SELECT array_agg(id), array_agg(function), array_agg(priority) INTO ids, functions, priorities FROM back;
    PERFORM "{schema}".wake(functions, priorities, ids);
    PERFORM "{schema}".forget(ARRAY[my_name]);
END
$$;

-- Nothing stays of these peers.
CREATE OR REPLACE FUNCTION "{schema}".forget(names text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM "{schema}".peers WHERE name = ANY (names);
    DELETE FROM "{schema}".consumers WHERE peer = ANY (names);
    DELETE FROM "{schema}".watchers WHERE peer = ANY (names);
    DELETE FROM "{schema}".attending WHERE peer = ANY (names);
    DELETE FROM "{schema}".mail WHERE peer = ANY (names);
END
$$;

-- Forgets the peers that were not seen for two minutes, what was kept until now, and dead letters that nobody asked for
-- in time.
CREATE OR REPLACE FUNCTION "{schema}".sweep(dead_letter_ttl double precision) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM "{schema}".forget(array_agg(name)) FROM "{schema}".peers
    WHERE seen < clock_timestamp() - interval '2 minutes';
    DELETE FROM "{schema}".results WHERE expires <= clock_timestamp();
    DELETE FROM "{schema}".kept WHERE expires <= clock_timestamp();
    DELETE FROM "{schema}".begun WHERE until <= clock_timestamp();
    DELETE FROM "{schema}".dead_letters WHERE buried_at <= clock_timestamp() - make_interval(secs => dead_letter_ttl);
END
$$;

-- Queues these dead letters again, under their ids, and returns how many there were. One whose unique key is taken
-- coalesces with its holder.
CREATE OR REPLACE FUNCTION "{schema}".replay(ids bigint[]) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    count bigint;
    their_ids bigint[];
    functions text[];
    priorities smallint[];
BEGIN
    WITH raised AS (
        DELETE FROM "{schema}".dead_letters WHERE id = ANY (ids) RETURNING *
    ), queued AS (
        INSERT INTO "{schema}".jobs (id, state, function, priority, job_id, unique_key, run_timeout, result_ttl, payload)
        SELECT id, 0, function, priority, job_id, unique_key, run_timeout, result_ttl, payload FROM raised
        ON CONFLICT DO NOTHING
    )
    SELECT count(*), array_agg(id), array_agg(function), array_agg(priority)
    INTO count, their_ids, functions, priorities FROM raised;
    PERFORM "{schema}".wake(functions, priorities, their_ids);
    RETURN count;
END
$$;

-- This consumer of a peer serves these functions.
CREATE OR REPLACE FUNCTION "{schema}".serve(my_name text, its_number integer, functions text[]) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO "{schema}".consumers (function, peer, consumer)
    SELECT each, my_name, its_number FROM unnest(functions) AS each
    ON CONFLICT DO NOTHING
$$;

-- This consumer serves nothing more.
CREATE OR REPLACE FUNCTION "{schema}".serve_no_more(my_name text, its_number integer) RETURNS void
LANGUAGE sql AS $$
    DELETE FROM "{schema}".consumers WHERE peer = my_name AND consumer = its_number
$$;

-- What is known of a job: its state, what its handler said last, and how many wait for it.
CREATE OR REPLACE FUNCTION "{schema}".status(its_id bigint)
RETURNS TABLE (running boolean, done bigint, total bigint, waiting bigint)
LANGUAGE sql STABLE AS $$
    SELECT state = 2, done, total,
        (submitter IS NOT NULL)::integer + (SELECT count(*) FROM "{schema}".watchers WHERE job = its_id)
    FROM "{schema}".jobs WHERE id = its_id
$$;

-- Each function's jobs (delayed ones count as queued) and consumers; it counts every job.
CREATE OR REPLACE FUNCTION "{schema}".depths()
RETURNS TABLE (function text, queued bigint, running bigint, workers bigint)
LANGUAGE sql STABLE AS $$
    SELECT each.function, sum(each.queued)::bigint, sum(each.running)::bigint, sum(each.workers)::bigint
    FROM (
        SELECT function, count(*) FILTER (WHERE state < 2) AS queued, count(*) FILTER (WHERE state = 2) AS running,
            0 AS workers
        FROM "{schema}".jobs GROUP BY 1
        UNION ALL
        SELECT function, 0, 0, count(*) FROM "{schema}".consumers GROUP BY 1
    ) AS each
    GROUP BY 1 ORDER BY 1
$$;

-- The oldest dead letters of a function.
CREATE OR REPLACE FUNCTION "{schema}".buried(its_function text, most bigint)
RETURNS TABLE (id bigint, payload bytea, failure bytea, attempts integer, buried_at double precision)
LANGUAGE sql STABLE AS $$
    SELECT id, payload, failure, attempts, extract(epoch FROM buried_at)::double precision
    FROM "{schema}".dead_letters WHERE function = its_function ORDER BY id LIMIT most
$$;

-- Forgets these dead letters, and returns how many there were.
CREATE OR REPLACE FUNCTION "{schema}".drop_letters(ids bigint[]) RETURNS bigint
LANGUAGE sql AS $$
    WITH gone AS (DELETE FROM "{schema}".dead_letters WHERE id = ANY (ids) RETURNING id) SELECT count(*) FROM gone
$$;
