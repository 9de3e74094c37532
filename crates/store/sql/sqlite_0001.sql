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

-- The order of one operator to end a halt with this epoch, where two have to order it.
CREATE TABLE halt_proposal (
    scope TEXT PRIMARY KEY, epoch INTEGER NOT NULL, proposed_by TEXT NOT NULL, at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

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

-- Money caps, as in PostgreSQL (0001_caps.sql). Amounts are decimals, sums are in units of the 18th place.
CREATE TABLE spend (
    party TEXT NOT NULL,
    account TEXT NOT NULL,
    counted_as TEXT NOT NULL,
    key TEXT NOT NULL,
    currency TEXT NOT NULL,
    amount TEXT NOT NULL,
    at INTEGER NOT NULL,
    executed INTEGER,
    PRIMARY KEY (party, account, counted_as, key, currency)
) STRICT, WITHOUT ROWID;
CREATE INDEX spend_at ON spend (at);

CREATE TABLE spend_attempt (
    print BLOB PRIMARY KEY,
    party TEXT NOT NULL,
    account TEXT NOT NULL,
    counted_as TEXT NOT NULL,
    key TEXT NOT NULL,
    at INTEGER NOT NULL,
    instance INTEGER NOT NULL,
    unknown INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX spend_attempt_key ON spend_attempt (party, account, counted_as, key);
CREATE INDEX spend_attempt_at ON spend_attempt (at);

CREATE TABLE spend_failure (
    party TEXT NOT NULL,
    account TEXT NOT NULL,
    counted_as TEXT NOT NULL,
    key TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (party, account, counted_as, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX spend_failure_at ON spend_failure (at);

CREATE TABLE meter (
    scope TEXT NOT NULL,
    counted_as TEXT NOT NULL,
    currency TEXT NOT NULL,
    grain INTEGER NOT NULL,
    slice INTEGER NOT NULL,
    units TEXT NOT NULL,
    calls INTEGER NOT NULL,
    PRIMARY KEY (scope, counted_as, currency, grain, slice)
) STRICT, WITHOUT ROWID;

CREATE TABLE cap_rule (
    shadow INTEGER NOT NULL,
    scope TEXT NOT NULL,
    measure INTEGER NOT NULL,
    currency TEXT NOT NULL,
    calls TEXT NOT NULL,
    amount TEXT NOT NULL,
    opens INTEGER NOT NULL,
    ends INTEGER,
    raised TEXT,
    raised_from INTEGER,
    PRIMARY KEY (shadow, scope, measure, currency, calls)
) STRICT, WITHOUT ROWID;

CREATE TABLE approval (
    id BLOB PRIMARY KEY,
    party TEXT NOT NULL,
    account TEXT NOT NULL,
    counted_as TEXT NOT NULL,
    key TEXT NOT NULL,
    body_sha256 BLOB NOT NULL,
    amounts TEXT NOT NULL,
    targets TEXT NOT NULL,
    state INTEGER NOT NULL,
    asked INTEGER NOT NULL,
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX approval_of ON approval (party, account, counted_as, key, body_sha256);
CREATE INDEX approval_until ON approval (until);

CREATE TABLE approval_signature (
    approval BLOB NOT NULL,
    operator TEXT NOT NULL,
    place INTEGER NOT NULL,
    PRIMARY KEY (approval, operator)
) STRICT, WITHOUT ROWID;

CREATE TABLE cap_midnight (ms INTEGER PRIMARY KEY) STRICT, WITHOUT ROWID;

-- Destinations, as in PostgreSQL (0001_destinations.sql).
CREATE TABLE destination_list (
    party TEXT NOT NULL,
    account TEXT NOT NULL,
    listed INTEGER NOT NULL,
    hold INTEGER NOT NULL,
    shorter INTEGER,
    shorter_from INTEGER,
    opens INTEGER,
    PRIMARY KEY (party, account)
) STRICT, WITHOUT ROWID;

CREATE TABLE destination (
    party TEXT NOT NULL,
    account TEXT NOT NULL,
    target TEXT NOT NULL,
    first_loaded INTEGER NOT NULL,
    usable_from INTEGER NOT NULL,
    PRIMARY KEY (party, account, target)
) STRICT, WITHOUT ROWID;

CREATE TABLE cap_delay (
    one INTEGER PRIMARY KEY CHECK (one = 1), ms INTEGER NOT NULL, shorter INTEGER, shorter_from INTEGER
) STRICT, WITHOUT ROWID;

-- Statements, as in PostgreSQL (0001_statements.sql).
CREATE TABLE usage_call (
    print BLOB PRIMARY KEY,
    party TEXT NOT NULL,
    account TEXT NOT NULL,
    operation TEXT NOT NULL,
    key TEXT NOT NULL,
    once INTEGER NOT NULL,
    parts TEXT NOT NULL,
    at INTEGER NOT NULL,
    result INTEGER,
    learned INTEGER,
    failed INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_call_at ON usage_call (party, at, print);
CREATE INDEX usage_call_age ON usage_call (at);
CREATE INDEX usage_call_key ON usage_call (party, operation, key);
CREATE INDEX usage_call_learned ON usage_call (party, learned);
CREATE INDEX usage_call_failed ON usage_call (party, failed) WHERE failed IS NOT NULL;

CREATE TABLE usage_day (
    day TEXT PRIMARY KEY, begins INTEGER NOT NULL, ends INTEGER NOT NULL CHECK (ends > begins)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage_count (
    day TEXT NOT NULL,
    party TEXT NOT NULL,
    account TEXT NOT NULL,
    operation TEXT NOT NULL,
    outcome TEXT NOT NULL,
    calls INTEGER NOT NULL,
    PRIMARY KEY (party, account, day, operation, outcome)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage_second (
    party TEXT NOT NULL,
    account TEXT NOT NULL,
    second INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    PRIMARY KEY (party, account, second)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage_peak (
    day TEXT NOT NULL,
    party TEXT NOT NULL,
    account TEXT NOT NULL,
    second INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    PRIMARY KEY (party, account, day)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage_writer (
    instance INTEGER PRIMARY KEY, number INTEGER NOT NULL, flushed INTEGER NOT NULL, ended INTEGER NOT NULL
) STRICT;

PRAGMA user_version = 1;
