-- Schema 3. Approvals, as in PostgreSQL (0003_approvals.sql).

CREATE INDEX approval_waiting ON approval (party, until) WHERE state = 0;
CREATE INDEX approval_asked ON approval (asked, id);

CREATE TABLE approver_rule (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    number INTEGER NOT NULL,
    fewer INTEGER,
    fewer_from INTEGER,
    delay INTEGER NOT NULL,
    shorter INTEGER,
    shorter_from INTEGER
) STRICT;

PRAGMA user_version = 3;
