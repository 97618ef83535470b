-- Version 3. Never change a version that has been published: add another file.

-- A row for each take of a function with a rate: until when it counts, how many had been taken earlier, and how many so
-- far. What counts is the last one's so_far less the first one's earlier, however many rows there are.
CREATE TABLE "{schema}".begun (
    function text NOT NULL,
    until timestamptz NOT NULL,
    earlier bigint NOT NULL,
    so_far bigint NOT NULL,
    PRIMARY KEY (function, until, so_far)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
