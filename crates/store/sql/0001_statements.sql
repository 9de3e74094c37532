-- Statements: the admitted calls that change something, and counts of all others.
--
-- A statement is computed from these rows. What was learned of a call has the time at which it was learned, so that the
-- statement of a day that has ended stays as it was.

CREATE TABLE usage_call (
    print bytea PRIMARY KEY,
    party text NOT NULL,
    account text NOT NULL,
    operation text NOT NULL,
    -- The call's own key; of a call without one, chr(31) and its stamp.
    key text NOT NULL,
    -- Whether all calls under one key are one.
    once boolean NOT NULL,
    -- Amounts by currency: ETH=0.5,USDT=12. Empty for a write, '?' if they cannot be read exactly.
    parts text NOT NULL,
    at bigint NOT NULL,
    -- 0 refused or not sent, 1 accepted, 3 found under its key; NULL while that is not known.
    result smallint,
    learned bigint,
    -- When it was learned that the object of an accepted call has finally failed.
    failed bigint
) WITH (fillfactor = 80);
CREATE INDEX usage_call_at ON usage_call (party, at, print);
CREATE INDEX usage_call_age ON usage_call USING brin (at);
CREATE INDEX usage_call_key ON usage_call (party, operation, key);
CREATE INDEX usage_call_learned ON usage_call (party, learned);
CREATE INDEX usage_call_failed ON usage_call (party, failed) WHERE failed IS NOT NULL;

-- Days begin where the one before ended, also if the configured time zone has changed.
CREATE TABLE usage_day (
    day date PRIMARY KEY,
    begins bigint NOT NULL,
    ends bigint NOT NULL CHECK (ends > begins)
);

CREATE TABLE usage_count (
    day date NOT NULL,
    party text NOT NULL,
    account text NOT NULL,
    operation text NOT NULL,
    outcome text NOT NULL,
    calls bigint NOT NULL,
    PRIMARY KEY (party, account, day, operation, outcome)
) WITH (fillfactor = 50);

-- Requests by second, until all instances have told theirs.
CREATE TABLE usage_second (
    party text NOT NULL,
    account text NOT NULL,
    second bigint NOT NULL,
    calls bigint NOT NULL,
    PRIMARY KEY (party, account, second)
);

CREATE TABLE usage_peak (
    day date NOT NULL,
    party text NOT NULL,
    account text NOT NULL,
    second bigint NOT NULL,
    calls bigint NOT NULL,
    PRIMARY KEY (party, account, day)
) WITH (fillfactor = 50);

-- The last flush of each instance. One that is not `ended` has lost what it counted after that.
CREATE TABLE usage_writer (
    instance bigint PRIMARY KEY,
    number bigint NOT NULL,
    flushed bigint NOT NULL,
    ended boolean NOT NULL
) WITH (fillfactor = 50);

-- Books the admitted calls of a batch.
CREATE FUNCTION note_usage(
    at bigint, prints bytea[], parties text[], accounts text[], operations text[], verdicts smallint[],
    keys text[], onces boolean[], parts text[]
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO usage_call (print, party, account, operation, key, once, parts, at)
    SELECT r.print, r.party, r.account, r.operation, coalesce(r.key, chr(31) || encode(r.print, 'hex')), r.once, r.parts,
        note_usage.at
    FROM unnest(prints, parties, accounts, operations, verdicts, keys, onces, parts)
        AS r(print, party, account, operation, verdict, key, once, parts)
    WHERE r.verdict = 0 AND r.parts IS NOT NULL
    ORDER BY r.print
    ON CONFLICT (print) DO NOTHING;
END
$$;

-- Notes the ends of calls. The first result stays.
CREATE FUNCTION settle_usage(c_prints bytea[], c_results smallint[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM FROM usage_call AS u WHERE u.print = ANY (c_prints) ORDER BY u.print FOR UPDATE;
    UPDATE usage_call AS u SET result = r.result, learned = now_ms()
    FROM unnest(c_prints, c_results) AS r(print, result)
    WHERE u.print = r.print AND r.result <> 2 AND u.result IS NULL;
END
$$;

-- GatePay's word on the object under a key: it has it, or it has finally failed.
CREATE FUNCTION settle_usage_v1(
    s_party text, s_account text, s_operations text[], s_key text, failed boolean, decided bigint
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
BEGIN
    PERFORM FROM usage_call AS u
    WHERE u.party = s_party AND u.account = s_account AND u.operation = ANY (s_operations) AND u.key = s_key
    ORDER BY u.print FOR UPDATE;
    UPDATE usage_call AS u SET result = 3, learned = now_ms()
    WHERE u.party = s_party AND u.account = s_account AND u.operation = ANY (s_operations) AND u.key = s_key
        AND u.result IS NULL AND u.at <= decided;
    IF settle_usage_v1.failed THEN
        UPDATE usage_call AS u SET failed = now_ms()
        WHERE u.party = s_party AND u.account = s_account AND u.operation = ANY (s_operations) AND u.key = s_key
            AND u.result IN (1, 3) AND u.failed IS NULL AND u.at <= decided;
    END IF;
END
$$;

-- Adds what an instance has counted since its last flush, and forgets what is older than 400 days.
CREATE FUNCTION flush_usage_v1(
    f_instance bigint, f_number bigint, f_ended boolean, d_date text, d_begins bigint, d_ends bigint,
    c_parties text[], c_accounts text[], c_operations text[], c_outcomes text[], c_calls bigint[],
    s_parties text[], s_accounts text[], s_seconds bigint[], s_calls bigint[]
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    now bigint;
    last usage_day%ROWTYPE;
    begins bigint;
BEGIN
    -- Flushes come one after another, so that all instances begin the same day.
    PERFORM pg_advisory_xact_lock(1734437989, 3);
    now := now_ms();
    PERFORM FROM usage_writer AS w WHERE w.instance = f_instance AND w.number >= f_number;
    IF FOUND THEN
        RETURN;
    END IF;
    INSERT INTO usage_writer VALUES (f_instance, f_number, now, f_ended)
    ON CONFLICT (instance) DO UPDATE SET number = excluded.number, flushed = excluded.flushed, ended = excluded.ended;
    SELECT * INTO last FROM usage_day AS d ORDER BY d.ends DESC LIMIT 1;
    IF NOT FOUND OR last.ends <= now THEN
        begins := greatest(coalesce(last.ends, 0), d_begins);
        IF d_ends > begins THEN
            INSERT INTO usage_day VALUES (greatest(d_date::date, last.day + 1), begins, d_ends) RETURNING * INTO last;
        END IF;
        DELETE FROM usage_day AS d WHERE d.ends < now - 34560000000;
        DELETE FROM usage_count AS c WHERE c.day < (SELECT min(d.day) FROM usage_day AS d);
        DELETE FROM usage_peak AS p WHERE p.day < (SELECT min(d.day) FROM usage_day AS d);
        DELETE FROM usage_writer AS w WHERE w.flushed < now - 34560000000;
    END IF;
    INSERT INTO usage_count AS u
    SELECT last.day, c.party, c.account, c.operation, c.outcome, sum(c.calls)
    FROM unnest(c_parties, c_accounts, c_operations, c_outcomes, c_calls) AS c(party, account, operation, outcome, calls)
    GROUP BY c.party, c.account, c.operation, c.outcome
    ON CONFLICT (party, account, day, operation, outcome) DO UPDATE SET calls = u.calls + excluded.calls;
    WITH told AS (
        INSERT INTO usage_second AS u
        SELECT s.party, s.account, s.second, sum(s.calls)
        FROM unnest(s_parties, s_accounts, s_seconds, s_calls) AS s(party, account, second, calls)
        GROUP BY s.party, s.account, s.second
        ON CONFLICT (party, account, second) DO UPDATE SET calls = u.calls + excluded.calls
        RETURNING u.*
    )
    INSERT INTO usage_peak AS p
    SELECT DISTINCT ON (t.party, t.account) last.day, t.party, t.account, t.second, t.calls
    FROM told AS t ORDER BY t.party, t.account, t.calls DESC, t.second
    ON CONFLICT (party, account, day) DO UPDATE SET second = excluded.second, calls = excluded.calls
    WHERE p.calls < excluded.calls;
    DELETE FROM usage_second AS s WHERE s.second < now / 1000 - 60;
END
$$;

-- Forgets booked calls that are older than 400 days.
CREATE FUNCTION age_usage_v1() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    -- A value, since a volatile function is no condition of an index.
    before CONSTANT bigint := now_ms() - 34560000000;
BEGIN
    DELETE FROM usage_call AS u WHERE u.ctid = ANY (ARRAY(
        SELECT o.ctid FROM usage_call AS o WHERE o.at < before LIMIT 30000 FOR UPDATE SKIP LOCKED
    ));
END
$$;
