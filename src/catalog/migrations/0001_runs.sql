-- What this host did, will do and may say. Times are milliseconds since 1970, UTC.

CREATE TABLE run (
    id              TEXT PRIMARY KEY,                  -- sorts by the order of recording
    kind            TEXT NOT NULL CHECK (kind IN ('backup', 'drill', 'verify')),
    policy          TEXT NOT NULL,
    trigger         TEXT NOT NULL CHECK (trigger IN ('schedule', 'manual', 'api')),
    actor           TEXT NOT NULL,                     -- who asked: a token's name, a peer, the scheduler
    nominal_ms      INTEGER,                           -- the newest occurrence that it answers
    missed          INTEGER NOT NULL DEFAULT 0,        -- earlier occurrences that it makes up for
    retry_of        TEXT REFERENCES run (id),          -- the interrupted run that it repeats
    state           TEXT NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'partial', 'failed',
                                                   'cancelled', 'timed_out', 'interrupted')),
    cancel_asked    INTEGER NOT NULL DEFAULT 0,
    boot_id         TEXT NOT NULL,                     -- the process that recorded it
    pid             INTEGER NOT NULL,
    process_start   INTEGER NOT NULL,
    queued_ms       INTEGER NOT NULL,
    started_ms      INTEGER,
    ended_ms        INTEGER,
    scope           TEXT,                              -- what it saved, and where to; known when it begins
    drill_files     INTEGER,                           -- asked for; none for other kinds
    snapshot        TEXT,
    recovery_point  INTEGER NOT NULL DEFAULT 0,        -- whether the policy counts its snapshot as one
    files           INTEGER NOT NULL DEFAULT 0,
    bytes           INTEGER NOT NULL DEFAULT 0,
    new_bytes       INTEGER NOT NULL DEFAULT 0,
    stored_bytes    INTEGER NOT NULL DEFAULT 0,
    vanished        INTEGER NOT NULL DEFAULT 0,
    unreadable      INTEGER NOT NULL DEFAULT 0,
    error           TEXT,
    error_class     TEXT,
    problems        TEXT NOT NULL DEFAULT '[]',        -- a JSON list of sentences
    progress        TEXT,                              -- JSON; as last seen
    idempotency_key TEXT,
    body_hash       BLOB
) STRICT;

CREATE INDEX run_by_policy ON run (policy, kind, id);
CREATE INDEX run_points ON run (policy, id) WHERE recovery_point = 1;
CREATE INDEX run_open ON run (id) WHERE state IN ('queued', 'running');
CREATE INDEX run_keys ON run (idempotency_key) WHERE idempotency_key IS NOT NULL;

-- A run is queued, then runs, then ends, and that is that.
CREATE TRIGGER run_begins_queued BEFORE INSERT ON run WHEN NEW.state <> 'queued'
BEGIN SELECT RAISE(ABORT, 'a run begins queued'); END;
CREATE TRIGGER run_ends_once BEFORE UPDATE ON run WHEN OLD.state NOT IN ('queued', 'running')
BEGIN SELECT RAISE(ABORT, 'a run that ended never changes'); END;
CREATE TRIGGER run_never_goes_back BEFORE UPDATE OF state ON run WHEN OLD.state = 'running' AND NEW.state = 'queued'
BEGIN SELECT RAISE(ABORT, 'a run never goes back'); END;
CREATE TRIGGER run_keeps_its_name BEFORE UPDATE OF id, kind, policy ON run
    WHEN OLD.id <> NEW.id OR OLD.kind <> NEW.kind OR OLD.policy <> NEW.policy
BEGIN SELECT RAISE(ABORT, 'a run keeps its name'); END;
CREATE TRIGGER run_is_kept BEFORE DELETE ON run
BEGIN SELECT RAISE(ABORT, 'a run is kept'); END;

-- What a drill found: one row for each drill that compared something.
CREATE TABLE drill (
    run           TEXT PRIMARY KEY REFERENCES run (id),
    checked_files INTEGER NOT NULL,
    checked_bytes INTEGER NOT NULL,
    mismatches    INTEGER NOT NULL,
    not_run       INTEGER NOT NULL,
    outside       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Every time at which a schedule was due, once, and what became of it.
CREATE TABLE occurrence (
    policy      TEXT NOT NULL,
    kind        TEXT NOT NULL,
    identity    TEXT NOT NULL,                         -- trigger and nominal local time
    nominal_ms  INTEGER NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('started', 'missed', 'skipped')),
    reason      TEXT,
    run         TEXT REFERENCES run (id),              -- that answers it, or makes up for it
    recorded_ms INTEGER NOT NULL,
    PRIMARY KEY (policy, kind, identity)
) STRICT, WITHOUT ROWID;
CREATE INDEX occurrence_by_time ON occurrence (policy, kind, nominal_ms);

-- How far each schedule has been dealt with. Another schedule under the same name starts afresh.
CREATE TABLE schedule (
    policy      TEXT NOT NULL,
    kind        TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    after_ms    INTEGER NOT NULL,
    PRIMARY KEY (policy, kind)
) STRICT, WITHOUT ROWID;

-- Sums for counters, so that they go on where they stood.
CREATE TABLE run_tally (
    policy TEXT NOT NULL, kind TEXT NOT NULL, result TEXT NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (policy, kind, result)
) STRICT, WITHOUT ROWID;
CREATE TABLE byte_tally (
    policy TEXT NOT NULL PRIMARY KEY, read INTEGER NOT NULL, new INTEGER NOT NULL, stored INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE missed_tally (
    policy TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (policy, kind, reason)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER run_is_counted AFTER UPDATE OF state ON run
    WHEN OLD.state IN ('queued', 'running') AND NEW.state NOT IN ('queued', 'running')
BEGIN
    INSERT INTO run_tally VALUES (NEW.policy, NEW.kind, NEW.state, 1)
        ON CONFLICT (policy, kind, result) DO UPDATE SET n = n + 1;
    INSERT INTO byte_tally SELECT NEW.policy, NEW.bytes, NEW.new_bytes, NEW.stored_bytes WHERE NEW.kind = 'backup'
        ON CONFLICT (policy) DO UPDATE
        SET read = read + excluded.read, new = new + excluded.new, stored = stored + excluded.stored;
END;
CREATE TRIGGER miss_is_counted AFTER INSERT ON occurrence WHEN NEW.state <> 'started'
BEGIN
    INSERT INTO missed_tally VALUES (NEW.policy, NEW.kind, coalesce(NEW.reason, 'unknown'), 1)
        ON CONFLICT (policy, kind, reason) DO UPDATE SET n = n + 1;
END;

-- Who may ask. Only hashes of tokens are here.
CREATE TABLE token (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    role       TEXT NOT NULL CHECK (role IN ('read', 'run', 'drill', 'admin')),
    hash       BLOB NOT NULL UNIQUE,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    revoked_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX token_name ON token (name) WHERE revoked_ms IS NULL;

-- When the daemon last wrote that it is alive.
CREATE TABLE pulse (one INTEGER PRIMARY KEY CHECK (one = 1), at_ms INTEGER NOT NULL) STRICT;
