-- Schema 3, as in PostgreSQL. Approvals (0001_approvals.sql).

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

-- Statements (0003_statements.sql).

ALTER TABLE usage_call ADD COLUMN failed_by INTEGER;
ALTER TABLE usage_call ADD COLUMN own_result INTEGER;
ALTER TABLE usage_call ADD COLUMN own_learned INTEGER;
UPDATE usage_call SET failed_by = failed WHERE failed IS NOT NULL;

DROP INDEX usage_call_key;
DROP INDEX usage_call_learned;
DROP INDEX usage_call_failed;
CREATE INDEX usage_call_key ON usage_call (party, account, operation, key, result, learned, print);
CREATE INDEX usage_call_learned ON usage_call (party, learned, print);
CREATE INDEX usage_call_failed ON usage_call (party, failed, print) WHERE failed IS NOT NULL;
CREATE INDEX usage_call_own ON usage_call (party, own_learned, print) WHERE own_learned IS NOT NULL;
CREATE INDEX usage_call_unknown ON usage_call (at) WHERE result IS NULL AND substr(key, 1, 1) <> char(31);

PRAGMA user_version = 3;
