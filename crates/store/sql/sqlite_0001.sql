-- Schema 1 of a store in a SQLite file: one process. Times are milliseconds since 1970.

CREATE TABLE cluster (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    -- Drawn when the file is made.
    system_id INTEGER NOT NULL,
    -- Drawn at each start of the process that uses it. A copy of an earlier run has another one.
    run INTEGER NOT NULL,
    -- The run before, which the contact file still names if the process ended between the two writes of its start.
    previous_run INTEGER NOT NULL,
    -- The number of commits.
    position INTEGER NOT NULL,
    fingerprint_key BLOB NOT NULL CHECK (length(fingerprint_key) = 16),
    slice_ms INTEGER NOT NULL,
    halt_epoch INTEGER NOT NULL,
    guarded_until INTEGER NOT NULL,
    -- Whether the file was put back, and no operator has accepted it.
    restored INTEGER NOT NULL,
    -- The longest guard of any run, in milliseconds.
    guard_ms INTEGER NOT NULL DEFAULT 0,
    -- Writes without a body are refused until then: an earlier run served reads while the store was away.
    bodyless_until INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO cluster VALUES (1, random(), random(), 0, 0, randomblob(16), 60000, 0, 0, 0, 0, 0);

CREATE TABLE instance (
    id INTEGER PRIMARY KEY,
    began INTEGER NOT NULL,
    seen INTEGER NOT NULL,
    host TEXT NOT NULL,
    version TEXT NOT NULL,
    config_hash TEXT NOT NULL,
    journal_head TEXT,
    halt_epoch INTEGER NOT NULL,
    -- Whether it serves reads while the store is away.
    bodyless INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE slot (slot INTEGER PRIMARY KEY, slice INTEGER NOT NULL, filling INTEGER NOT NULL) STRICT;
INSERT INTO slot VALUES (0, 0, 1), (1, 0, 1), (2, 0, 1), (3, 0, 1), (4, 0, 1), (5, 0, 1), (6, 0, 1), (7, 0, 1);

CREATE TABLE stamp (
    slot INTEGER NOT NULL,
    print BLOB NOT NULL,
    admitted INTEGER NOT NULL,
    PRIMARY KEY (slot, print)
) STRICT, WITHOUT ROWID;

CREATE TABLE nonce (print BLOB PRIMARY KEY, admitted INTEGER NOT NULL, until INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX nonce_until ON nonce (until);

CREATE TABLE halt (
    scope TEXT PRIMARY KEY,
    since INTEGER NOT NULL,
    set_by TEXT NOT NULL,
    -- The epoch of the last order to halt it.
    epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The epoch of the last order to end a halt, by its scope: a halt of before has ended, and was not lost.
CREATE TABLE halt_end (scope TEXT PRIMARY KEY, epoch INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE owner (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    tenant TEXT NOT NULL,
    account TEXT NOT NULL,
    at INTEGER NOT NULL,
    currency TEXT,
    operation TEXT NOT NULL,
    source TEXT NOT NULL,
    PRIMARY KEY (kind, key, tenant, account)
) STRICT, WITHOUT ROWID;

-- Room for money caps; this schema does not write here.
CREATE TABLE spend (
    tenant TEXT NOT NULL,
    account TEXT NOT NULL,
    operation TEXT NOT NULL,
    key TEXT NOT NULL,
    currency TEXT NOT NULL,
    amount TEXT NOT NULL,
    state TEXT NOT NULL,
    at INTEGER NOT NULL,
    instance INTEGER NOT NULL,
    PRIMARY KEY (tenant, account, operation, key, currency)
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 1;
