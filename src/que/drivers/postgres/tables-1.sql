-- Version 1. Never change a version that has been published: add another file.
-- {schema} is put in by schema.py, which lets through only what is safe between quotes of either kind.

CREATE SEQUENCE "{schema}".job_ids;

-- state: 0 ready, 1 delayed, 2 running. Partial indexes hold only what may be asked for, so that taking jobs costs the
-- same whatever waits.
CREATE TABLE "{schema}".jobs (
    id bigint PRIMARY KEY DEFAULT nextval('"{schema}".job_ids'),
    state smallint NOT NULL,
    priority smallint NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    watched boolean NOT NULL DEFAULT false,
    token bigint,
    lease_until timestamptz,
    due timestamptz,
    expires timestamptz,
    run_timeout double precision,
    result_ttl double precision,
    done bigint NOT NULL DEFAULT 0,
    total bigint NOT NULL DEFAULT 0,
    function text NOT NULL CHECK (octet_length(function) BETWEEN 1 AND 512),
    job_id text NOT NULL,
    submitter text,
    worker text,
    unique_key text,
    payload bytea NOT NULL
) WITH (
    -- A queue is all churn: vacuum by what has changed, not by the share of what is there, and without pauses.
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0,
    fillfactor = 85
);
CREATE INDEX jobs_ready ON "{schema}".jobs (function, priority, id) WHERE state = 0;
CREATE INDEX jobs_due ON "{schema}".jobs (due) WHERE state = 1;
CREATE INDEX jobs_leased ON "{schema}".jobs (lease_until) WHERE state = 2;
CREATE INDEX jobs_expiring ON "{schema}".jobs (expires) WHERE expires IS NOT NULL AND state < 2 AND attempts = 0;
CREATE UNIQUE INDEX jobs_unique ON "{schema}".jobs (function, unique_key) WHERE unique_key IS NOT NULL;

-- Who asked for a job that it did not submit itself, or that was there already.
CREATE TABLE "{schema}".watchers (
    job bigint NOT NULL,
    watch_id text NOT NULL,
    peer text NOT NULL,
    PRIMARY KEY (job, watch_id)
);

-- Letters that are too long for a notification, or whose reader hears none.
CREATE SEQUENCE "{schema}".mail_ids;
CREATE TABLE "{schema}".mail (
    id bigint PRIMARY KEY,
    peer text NOT NULL,
    watch_id text NOT NULL,
    kind smallint NOT NULL,
    body bytea NOT NULL
);
CREATE INDEX mail_peer ON "{schema}".mail (peer, id);

CREATE TABLE "{schema}".results (
    id bigint PRIMARY KEY,
    kind smallint NOT NULL,
    body bytea NOT NULL,
    expires timestamptz NOT NULL
);
CREATE INDEX results_expire ON "{schema}".results (expires);

CREATE TABLE "{schema}".dead_letters (
    id bigint PRIMARY KEY,
    priority smallint NOT NULL,
    attempts integer NOT NULL,
    buried_at timestamptz NOT NULL,
    run_timeout double precision,
    result_ttl double precision,
    function text NOT NULL,
    job_id text NOT NULL,
    unique_key text,
    failure bytea NOT NULL,
    payload bytea NOT NULL
);
CREATE INDEX dead_letters_function ON "{schema}".dead_letters (function, id);
CREATE INDEX dead_letters_age ON "{schema}".dead_letters (buried_at);

-- The processes that are connected. A name that begins with l listens; one with p polls.
CREATE TABLE "{schema}".peers (
    name text PRIMARY KEY,
    seen timestamptz NOT NULL
);
CREATE TABLE "{schema}".consumers (
    function text NOT NULL,
    peer text NOT NULL,
    consumer integer NOT NULL,
    PRIMARY KEY (function, peer, consumer)
);
CREATE INDEX consumers_peer ON "{schema}".consumers (peer);
