-- Schema 2 of a store in a SQLite file: the tables of `0001_notifications.sql`.

CREATE TABLE incarnation (
    tenant TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    account TEXT NOT NULL,
    began INTEGER NOT NULL,
    PRIMARY KEY (tenant, incarnation)
) STRICT, WITHOUT ROWID;
CREATE INDEX incarnation_account ON incarnation (account);

CREATE TABLE endpoint (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    -- Empty for the URL in the tenant's file.
    url TEXT NOT NULL,
    next_at INTEGER,
    off TEXT,
    on_since INTEGER NOT NULL DEFAULT 0,
    gone INTEGER,
    failures INTEGER NOT NULL DEFAULT 0,
    failing_since INTEGER,
    open_until INTEGER,
    failed_probes INTEGER NOT NULL DEFAULT 0,
    claimed_by INTEGER,
    claimed_until INTEGER NOT NULL DEFAULT 0,
    turn INTEGER NOT NULL DEFAULT 0,
    waiting INTEGER NOT NULL DEFAULT 0,
    dead INTEGER NOT NULL DEFAULT 0,
    UNIQUE (tenant, incarnation, url)
) STRICT;
CREATE INDEX endpoint_due ON endpoint (next_at, id) WHERE next_at IS NOT NULL;

CREATE TABLE object (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    kind TEXT NOT NULL,
    object TEXT NOT NULL,
    rank INTEGER,
    final_status TEXT,
    has_conflict INTEGER NOT NULL DEFAULT 0,
    at INTEGER NOT NULL,
    UNIQUE (tenant, incarnation, kind, object)
) STRICT;
CREATE INDEX object_at ON object (at);

CREATE TABLE line (
    object INTEGER PRIMARY KEY,
    endpoint INTEGER NOT NULL,
    head BLOB NOT NULL,
    next_at INTEGER NOT NULL
) STRICT;
CREATE INDEX line_due ON line (endpoint, next_at, object);

CREATE TABLE event (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    received INTEGER NOT NULL,
    kind TEXT NOT NULL,
    object TEXT NOT NULL,
    status TEXT NOT NULL,
    rank INTEGER,
    news BLOB NOT NULL,
    body_print BLOB NOT NULL,
    token TEXT,
    tenant TEXT,
    incarnation INTEGER,
    placed_by TEXT,
    object_id INTEGER,
    endpoint INTEGER,
    place INTEGER,
    state TEXT NOT NULL,
    quarantine TEXT,
    decisions INTEGER NOT NULL DEFAULT 0,
    decide_at INTEGER,
    asks INTEGER NOT NULL DEFAULT 0,
    is_changed INTEGER NOT NULL,
    has_conflict INTEGER NOT NULL DEFAULT 0,
    waits_since INTEGER,
    next_at INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    -- The last column: SQLite reads the others without it.
    body BLOB NOT NULL,
    UNIQUE (news, body_print)
) STRICT;
CREATE INDEX event_object ON event (object);
CREATE INDEX event_place ON event (tenant, incarnation, place) WHERE tenant IS NOT NULL;
CREATE INDEX event_head ON event (object_id, (rank IS NULL), place) WHERE state = 'waiting';
CREATE INDEX event_oldest ON event (endpoint, received) WHERE state = 'waiting';
CREATE INDEX event_dead ON event (tenant, incarnation, received, id) WHERE state = 'dead';
CREATE INDEX event_listed ON event (state, id) WHERE state IN ('quarantined', 'operator', 'dead');
CREATE INDEX event_decide ON event (asks, decide_at, id) WHERE state = 'quarantined' AND decide_at IS NOT NULL;

CREATE TABLE event_place_number (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL) STRICT;
INSERT INTO event_place_number VALUES (1, 0);

CREATE TABLE hint (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    event BLOB NOT NULL,
    PRIMARY KEY (kind, key, event)
) STRICT, WITHOUT ROWID;
CREATE INDEX hint_event ON hint (event);

CREATE TABLE attempt (
    event BLOB NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    instance INTEGER NOT NULL,
    took INTEGER NOT NULL,
    status INTEGER,
    outcome TEXT NOT NULL,
    said BLOB NOT NULL,
    PRIMARY KEY (event, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX attempt_at ON attempt (at);

CREATE TABLE url_token (
    token TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    url TEXT NOT NULL,
    made_for TEXT NOT NULL,
    at INTEGER NOT NULL,
    UNIQUE (tenant, incarnation, url, made_for)
) STRICT, WITHOUT ROWID;

CREATE TABLE proposal (
    event BLOB PRIMARY KEY,
    tenant TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    proposed_by TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE isolation (
    upstream TEXT NOT NULL,
    client_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    verdict TEXT NOT NULL,
    accounts INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (upstream, client_id, operation)
) STRICT, WITHOUT ROWID;

CREATE INDEX owner_at ON owner (at);

-- The outcome of the object that a key names, proved by a notification: 1 found, 2 failed, 3 done. It only grows.
ALTER TABLE owner ADD COLUMN outcome INTEGER;
ALTER TABLE owner ADD COLUMN outcome_status TEXT;
ALTER TABLE owner ADD COLUMN outcome_event BLOB;
ALTER TABLE owner ADD COLUMN outcome_at INTEGER;

CREATE INDEX owner_asked ON owner (operation) WHERE source = 'asked';

-- Calls whose outcome is not known, by each of their keys. A settled call has no row.
CREATE TABLE open_call (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    tenant TEXT NOT NULL,
    account TEXT NOT NULL,
    call TEXT NOT NULL,
    operation TEXT NOT NULL,
    closes INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (kind, key, tenant, account, call)
) STRICT, WITHOUT ROWID;
CREATE INDEX open_call_call ON open_call (call);

PRAGMA user_version = 2;
