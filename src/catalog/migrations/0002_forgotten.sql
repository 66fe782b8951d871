-- Snapshots that the admin of a repository let go, as the newest backup there saw it. While one stands here it is no recovery point.
CREATE TABLE forgotten (
    scope    TEXT NOT NULL,                            -- as of the runs
    snapshot TEXT NOT NULL,
    PRIMARY KEY (scope, snapshot)
) STRICT, WITHOUT ROWID;
