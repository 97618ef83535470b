-- Version 2. Never change a version that has been published: add another file.

-- How far each schedule has come, and which scheduler has it. Moments of ticks are Unix seconds.
CREATE TABLE "{schema}".ticks (
    schedule text PRIMARY KEY,
    done double precision,
    owner text,
    held_until timestamptz
);

-- What is kept under keys: results of other engines' jobs, and flows.
CREATE TABLE "{schema}".kept (
    key text PRIMARY KEY,
    kind smallint NOT NULL,
    body bytea NOT NULL,
    expires timestamptz NOT NULL
);
CREATE INDEX kept_expire ON "{schema}".kept (expires);

-- Who waits for a key to be kept.
CREATE TABLE "{schema}".attending (
    key text NOT NULL,
    watch_id text NOT NULL,
    peer text NOT NULL,
    PRIMARY KEY (key, watch_id, peer)
);
CREATE INDEX attending_peer ON "{schema}".attending (peer);
