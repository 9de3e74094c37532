-- The tables of a store in a SQLite file, which one process uses. Times are milliseconds since 1970.
--
-- They are those of PostgreSQL but for what several instances share, in the order of its scripts, which explain them.

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
    bodyless_until INTEGER NOT NULL DEFAULT 0,
    -- The number of commits that were in the file without its log when the log began. A file under the log has fewer only if it was
    -- put there.
    under_log INTEGER NOT NULL DEFAULT 0,
    -- The number of commits before the start of the run.
    before_run INTEGER NOT NULL DEFAULT 0,
    -- Whether a run has begun and not ended in order.
    is_running INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO cluster VALUES (1, random(), random(), 0, 0, randomblob(16), 60000, 0, 0, 0, 0, 0, 0, 0, 0);

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
    bodyless INTEGER NOT NULL DEFAULT 0,
    -- Its last sign of life in the store's time.
    steady INTEGER NOT NULL DEFAULT 0
) STRICT;

-- The store's time (0001_clock.sql).
CREATE TABLE store_clock (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    wall INTEGER NOT NULL,
    steady INTEGER NOT NULL,
    apart_since INTEGER,
    is_witnessed INTEGER NOT NULL,
    keeps_until INTEGER NOT NULL
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

-- The epoch of the last order to end a halt, by its scope: an earlier halt has ended, and was not lost.
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
    -- The outcome of the object that the key names, proved by a notification: 1 found, 2 failed, 3 done. It only grows.
    outcome INTEGER,
    outcome_status TEXT,
    outcome_event BLOB,
    outcome_at INTEGER,
    PRIMARY KEY (kind, key, tenant, account)
) STRICT, WITHOUT ROWID;
CREATE INDEX owner_at ON owner (at);
CREATE INDEX owner_asked ON owner (operation) WHERE source = 'asked';
-- The primary key finds a refund by its order, the first word of its key.
CREATE INDEX owner_refund_number ON owner (substr(key, instr(key, ' ') + 1), key) WHERE kind = 'prepayId+refundRequestId';

-- Money caps (0001_caps.sql). Amounts are decimals.
CREATE TABLE cap_rule (
    shadow INTEGER NOT NULL,
    scope TEXT NOT NULL,
    measure INTEGER NOT NULL,
    currency TEXT NOT NULL,
    calls TEXT NOT NULL,
    exempt TEXT NOT NULL,
    amount TEXT NOT NULL,
    ends INTEGER,
    raised TEXT,
    raised_from INTEGER,
    PRIMARY KEY (shadow, scope, measure, currency, calls, exempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE cap_midnight (ms INTEGER PRIMARY KEY) STRICT, WITHOUT ROWID;

CREATE TABLE cap_delay (
    one INTEGER PRIMARY KEY CHECK (one = 1), ms INTEGER NOT NULL, shorter INTEGER, shorter_from INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE cap_raise_signature (
    changes BLOB NOT NULL,
    operator TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (changes, operator)
) STRICT, WITHOUT ROWID;

-- Spends (0001_spends.sql). Sums are in units of the 18th place.
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
CREATE INDEX meter_slice ON meter (grain, slice);

-- Approvals (0001_approvals.sql).
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
CREATE INDEX approval_waiting ON approval (party, until) WHERE state = 0;
CREATE INDEX approval_asked ON approval (asked, id);

CREATE TABLE approval_signature (
    approval BLOB NOT NULL,
    operator TEXT NOT NULL,
    place INTEGER NOT NULL,
    PRIMARY KEY (approval, operator)
) STRICT, WITHOUT ROWID;

CREATE TABLE approver_rule (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    number INTEGER NOT NULL,
    fewer INTEGER,
    fewer_from INTEGER,
    delay INTEGER NOT NULL,
    shorter INTEGER,
    shorter_from INTEGER
) STRICT;

-- Destinations (0001_destinations.sql).
CREATE TABLE account_list (
    account TEXT PRIMARY KEY,
    listed INTEGER NOT NULL,
    hold INTEGER NOT NULL,
    shorter INTEGER,
    shorter_from INTEGER,
    opens INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE account_destination (
    account TEXT NOT NULL,
    target TEXT NOT NULL,
    first_loaded INTEGER NOT NULL,
    usable_from INTEGER NOT NULL,
    PRIMARY KEY (account, target)
) STRICT, WITHOUT ROWID;

-- Statements (0001_statements.sql).
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
    failed INTEGER,
    failed_by INTEGER,
    own_result INTEGER,
    own_learned INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_call_at ON usage_call (party, at, print);
CREATE INDEX usage_call_age ON usage_call (at);
CREATE INDEX usage_call_key ON usage_call (account, operation, key, party, result, learned, print);
CREATE INDEX usage_call_learned ON usage_call (party, learned, print);
CREATE INDEX usage_call_failed ON usage_call (party, failed, print) WHERE failed IS NOT NULL;
CREATE INDEX usage_call_own ON usage_call (party, own_learned, print) WHERE own_learned IS NOT NULL;
CREATE INDEX usage_call_unknown ON usage_call (party, operation, at) WHERE result IS NULL AND substr(key, 1, 1) <> char(31);

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
CREATE INDEX usage_count_day ON usage_count (day);

CREATE TABLE usage_second (
    party TEXT NOT NULL,
    account TEXT NOT NULL,
    second INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    PRIMARY KEY (party, account, second)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_second_age ON usage_second (second);

CREATE TABLE usage_peak (
    day TEXT NOT NULL,
    party TEXT NOT NULL,
    account TEXT NOT NULL,
    second INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    PRIMARY KEY (party, account, day)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_peak_day ON usage_peak (day);

CREATE TABLE usage_writer (
    instance INTEGER PRIMARY KEY, number INTEGER NOT NULL, flushed INTEGER NOT NULL, ended INTEGER NOT NULL
) STRICT;

-- Notifications and their delivery (0001_notifications.sql).
CREATE TABLE incarnation (
    tenant TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    account TEXT NOT NULL,
    began INTEGER NOT NULL,
    PRIMARY KEY (tenant, incarnation)
) STRICT, WITHOUT ROWID;
CREATE INDEX incarnation_account ON incarnation (account);

CREATE TABLE last_credential (
    party TEXT PRIMARY KEY,
    client_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;

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

PRAGMA user_version = 1;
