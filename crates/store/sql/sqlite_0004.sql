-- Caps and lists of destinations by sub-account, as in PostgreSQL (0004_accounts.sql). The sums of `meter` are made anew by the
-- program, which adds amounts exactly.

UPDATE cap_rule SET amount = raised, raised = NULL, raised_from = NULL
WHERE raised_from <= CAST(unixepoch('subsec') * 1000 AS INTEGER);
CREATE TEMPORARY TABLE former_rule AS SELECT * FROM cap_rule WHERE scope <> '';
DELETE FROM cap_rule WHERE scope <> '';
INSERT INTO cap_rule
SELECT shadow, account, measure, currency, calls, amount, opens, ends, NULL, NULL
FROM (
    SELECT f.shadow, a.account, f.measure, f.currency, f.calls, f.amount,
        max(f.opens) OVER same AS opens, CASE WHEN sum(f.ends IS NULL) OVER same = 0 THEN max(f.ends) OVER same END AS ends,
        row_number() OVER (
            PARTITION BY f.shadow, a.account, f.measure, f.currency, f.calls ORDER BY CAST(f.amount AS REAL)) AS place
    FROM former_rule AS f
    JOIN (SELECT party, account FROM spend UNION SELECT party, account FROM destination_list) AS a ON a.party = f.scope
    WHERE a.account <> ''
    WINDOW same AS (PARTITION BY f.shadow, a.account, f.measure, f.currency, f.calls)
)
WHERE place = 1;
DROP TABLE former_rule;

CREATE INDEX meter_slice ON meter (grain, slice);

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

INSERT INTO account_list
SELECT account, max(listed), max(hold), NULL, NULL, CASE WHEN sum(opens IS NULL AND listed) = 0 THEN max(opens) END
FROM destination_list GROUP BY account;
INSERT INTO account_destination
SELECT account, target, min(first_loaded), min(usable_from) FROM destination GROUP BY account, target;
DROP TABLE destination;
DROP TABLE destination_list;

CREATE TABLE cap_raise_signature (
    changes BLOB NOT NULL,
    operator TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (changes, operator)
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 4;
