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
    failed bigint,
    -- A time at which GatePay had decided about the failure, set together with `failed`. Calls that were admitted later are not
    -- covered.
    failed_by bigint,
    -- The call's own end, and when it was learned, if GatePay's word on its number came before: 0 refused or not sent,
    -- 1 accepted.
    own_result smallint,
    own_learned bigint
) WITH (fillfactor = 80);
CREATE INDEX usage_call_at ON usage_call (party, at, print);
CREATE INDEX usage_call_age ON usage_call USING brin (at);
CREATE INDEX usage_call_key ON usage_call (account, operation, key, party, result, learned, print);
CREATE INDEX usage_call_learned ON usage_call (party, learned, print);
CREATE INDEX usage_call_failed ON usage_call (party, failed, print) WHERE failed IS NOT NULL;
CREATE INDEX usage_call_own ON usage_call (party, own_learned, print) WHERE own_learned IS NOT NULL;
-- For the newest of each party: one party's do not hide another's.
CREATE INDEX usage_call_unknown ON usage_call (party, operation, at) WHERE result IS NULL AND left(key, 1) <> chr(31);

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
-- What is forgotten is found without reading the days that are kept, here and below.
CREATE INDEX usage_count_day ON usage_count (day);

-- Requests by second, until all instances have told theirs.
CREATE TABLE usage_second (
    party text NOT NULL,
    account text NOT NULL,
    second bigint NOT NULL,
    calls bigint NOT NULL,
    PRIMARY KEY (party, account, second)
);
CREATE INDEX usage_second_age ON usage_second (second);

CREATE TABLE usage_peak (
    day date NOT NULL,
    party text NOT NULL,
    account text NOT NULL,
    second bigint NOT NULL,
    calls bigint NOT NULL,
    PRIMARY KEY (party, account, day)
) WITH (fillfactor = 50);
CREATE INDEX usage_peak_day ON usage_peak (day);

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

-- Notes the ends of calls. The first result stays. Where that is GatePay's word on a number, which does not tell which of the
-- calls under the number made the object, the call's own end is kept beside it.
CREATE FUNCTION settle_usage(c_prints bytea[], c_results smallint[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now CONSTANT bigint := now_ms();
BEGIN
    PERFORM FROM usage_call AS u WHERE u.print = ANY (c_prints) ORDER BY u.print FOR UPDATE;
    UPDATE usage_call AS u SET own_result = r.result, own_learned = now
    FROM unnest(c_prints, c_results) AS r(print, result)
    WHERE u.print = r.print AND r.result IN (0, 1) AND u.result = 3 AND u.own_result IS NULL;
    UPDATE usage_call AS u SET result = r.result, learned = now
    FROM unnest(c_prints, c_results) AS r(print, result)
    WHERE u.print = r.print AND r.result <> 2 AND u.result IS NULL;
END
$$;

-- Whether a booked call asked for the amounts that GatePay states of an object, of which a currency '' is any, and if they are the
-- whole of it, for nothing else. NULL if the call's own cannot be read.
CREATE FUNCTION asked_for(parts text, stated_currencies text[], stated_amounts text[], whole boolean) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN asked_for.parts NOT IN ('', '?') THEN
        NOT EXISTS (SELECT FROM unnest(stated_currencies, stated_amounts) AS q(currency, amount) WHERE NOT EXISTS (
            SELECT FROM unnest(string_to_array(asked_for.parts, ',')) AS p(part)
            WHERE q.currency IN ('', split_part(p.part, '=', 1)) AND split_part(p.part, '=', 2)::numeric = q.amount::numeric))
        AND (NOT whole OR cardinality(string_to_array(asked_for.parts, ',')) = cardinality(stated_amounts))
    END
$$;

-- GatePay's word on the object under a key: it stands, or it has finally failed. A stated currency '' is any. Returns whether a call
-- stays unknown because it asked for other amounts than those that GatePay states, and no call is known that asked for these.
CREATE FUNCTION settle_usage_v1(
    s_party text, s_account text, s_operations text[], s_key text, stands boolean, decided bigint,
    stated_currencies text[], stated_amounts text[], whole boolean
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    now CONSTANT bigint := now_ms();
    -- Whether the object is that of a call which asked for its amounts.
    compares CONSTANT boolean := stands AND cardinality(stated_amounts) > 0;
    makers text[];
    others boolean := false;
BEGIN
    PERFORM FROM usage_call AS u
    WHERE u.party = s_party AND u.account = s_account AND u.operation = ANY (s_operations) AND u.key = s_key
    ORDER BY u.print FOR UPDATE;
    IF NOT stands THEN
        SELECT array_agg(DISTINCT u.operation) INTO makers FROM usage_call AS u
        WHERE u.party = s_party AND u.account = s_account AND u.operation = ANY (s_operations) AND u.key = s_key
            AND u.result IS DISTINCT FROM 0 AND u.own_result IS DISTINCT FROM 0;
        -- GatePay may keep an object of each operation, and told about one of them. A failure counts once: a late copy must
        -- not undo a later call under the key.
        IF makers IS NULL OR cardinality(makers) > 1 OR EXISTS (
            SELECT FROM usage_call AS u
            WHERE u.party = s_party AND u.account = s_account AND u.operation = makers[1] AND u.key = s_key
                AND u.result IS DISTINCT FROM 0
                AND (u.failed IS NOT NULL OR u.at <= decided AND (NOT u.once
                    OR cardinality(stated_amounts) > 0 AND asked_for(u.parts, stated_currencies, stated_amounts, whole) IS NOT TRUE))
        ) THEN
            RETURN false;
        END IF;
    END IF;
    IF compares THEN
        -- As if GatePay had accepted these calls by its own answer: of the calls under the key they come first.
        UPDATE usage_call AS u SET own_result = 1, own_learned = now
        WHERE u.party = s_party AND u.account = s_account AND u.operation = ANY (s_operations) AND u.key = s_key
            AND u.result = 3 AND u.own_result IS NULL AND u.once AND u.at <= decided
            AND asked_for(u.parts, stated_currencies, stated_amounts, whole);
        UPDATE usage_call AS u SET result = 1, learned = now
        WHERE u.party = s_party AND u.account = s_account AND u.operation = ANY (s_operations) AND u.key = s_key
            AND u.result IS NULL AND u.once AND u.at <= decided
            AND asked_for(u.parts, stated_currencies, stated_amounts, whole);
    END IF;
    UPDATE usage_call AS u SET result = 3, learned = now
    WHERE u.party = s_party AND u.account = s_account AND u.operation = ANY (s_operations) AND u.key = s_key
        AND u.result IS NULL AND u.once AND u.at <= decided
        AND (NOT compares OR asked_for(u.parts, stated_currencies, stated_amounts, whole) IS NULL OR EXISTS (
            SELECT FROM usage_call AS k
            WHERE k.party = s_party AND k.account = s_account AND k.operation = u.operation AND k.key = s_key
                AND k.result IN (1, 3) AND k.own_result IS DISTINCT FROM 0
                AND asked_for(k.parts, stated_currencies, stated_amounts, whole)));
    -- Where each call may be one of its own, the word is about one of them: the oldest, if none is known yet.
    UPDATE usage_call AS u SET result = 3, learned = now
    WHERE u.print IN (
        SELECT DISTINCT ON (o.operation) o.print FROM usage_call AS o
        WHERE o.party = s_party AND o.account = s_account AND o.operation = ANY (s_operations) AND o.key = s_key
            AND o.result IS NULL AND NOT o.once AND o.at <= decided
            AND (NOT compares OR asked_for(o.parts, stated_currencies, stated_amounts, whole) IS NOT FALSE)
            AND NOT EXISTS (SELECT FROM usage_call AS k
                WHERE k.party = s_party AND k.account = s_account AND k.operation = o.operation AND k.key = s_key
                    AND k.result IN (1, 3) AND k.own_result IS DISTINCT FROM 0)
        ORDER BY o.operation, o.at, o.print
    );
    IF compares THEN
        others := EXISTS (SELECT FROM usage_call AS u
            WHERE u.party = s_party AND u.account = s_account AND u.operation = ANY (s_operations) AND u.key = s_key
                AND u.result IS NULL AND u.once AND u.at <= decided);
    END IF;
    IF NOT stands THEN
        UPDATE usage_call AS u SET failed = now, failed_by = decided
        WHERE u.party = s_party AND u.account = s_account AND u.operation = makers[1] AND u.key = s_key
            AND u.result IN (1, 3) AND u.at <= decided;
    END IF;
    RETURN others;
END
$$;

-- Adds what an instance has counted since its last flush, and forgets days that are older than 400 days. The caller brings the present
-- day and the days after it: the first one is taken whose date is later than that of the last day, so that a time zone
-- further west neither repeats a date nor moves all later ones.
CREATE FUNCTION flush_usage_v1(
    f_instance bigint, f_number bigint, f_ended boolean, d_dates text[], d_begins bigint[], d_ends bigint[],
    c_parties text[], c_accounts text[], c_operations text[], c_outcomes text[], c_calls bigint[],
    s_parties text[], s_accounts text[], s_seconds bigint[], s_calls bigint[]
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    now bigint;
    last usage_day%ROWTYPE;
    following record;
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
    IF last.day IS NULL OR last.ends <= now THEN
        SELECT d.day::date AS day, d.ends INTO following FROM unnest(d_dates, d_ends) AS d(day, ends)
        WHERE d.ends > now AND (last.day IS NULL OR d.day::date > last.day)
        ORDER BY d.ends LIMIT 1;
        IF FOUND THEN
            -- The time since the last day belongs to the new day if calls were admitted in it, and otherwise to no day.
            IF last.day IS NULL OR NOT EXISTS (
                SELECT FROM usage_call AS u WHERE u.at >= last.ends AND u.at < d_begins[1]) THEN
                last.ends := greatest(coalesce(last.ends, 0), d_begins[1]);
            END IF;
            INSERT INTO usage_day VALUES (following.day, last.ends, following.ends) RETURNING * INTO last;
        END IF;
        DELETE FROM usage_day AS d WHERE d.ends < deleting_ms() - 34560000000;
        DELETE FROM usage_writer AS w WHERE w.flushed < deleting_ms() - 34560000000;
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

-- Forgets booked calls that are older than 400 days, and counts of days that are forgotten: a limited number each time, so that
-- the first flush of a day takes no longer than any other.
CREATE FUNCTION age_usage_v1() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    -- A value, since a volatile function is no condition of an index.
    before CONSTANT bigint := deleting_ms() - 34560000000;
    oldest CONSTANT date := (SELECT min(d.day) FROM usage_day AS d);
BEGIN
    DELETE FROM usage_count AS c WHERE c.ctid = ANY (ARRAY(
        SELECT o.ctid FROM usage_count AS o WHERE o.day < oldest ORDER BY o.day LIMIT 30000 FOR UPDATE SKIP LOCKED
    ));
    DELETE FROM usage_peak AS p WHERE p.ctid = ANY (ARRAY(
        SELECT o.ctid FROM usage_peak AS o WHERE o.day < oldest ORDER BY o.day LIMIT 30000 FOR UPDATE SKIP LOCKED
    ));
    DELETE FROM usage_call AS u WHERE u.ctid = ANY (ARRAY(
        SELECT o.ctid FROM usage_call AS o WHERE o.at < before LIMIT 30000 FOR UPDATE SKIP LOCKED
    ));
END
$$;

-- Of the calls under a key that were admitted after `since`, the first one whose object GatePay was known to have before
-- `before`; with `accepted`, the first one that GatePay was known to have accepted in its own answer.
CREATE FUNCTION first_known_usage(
    k_party text, k_account text, k_operation text, k_key text, since bigint, before bigint, accepted boolean
) RETURNS SETOF usage_call
LANGUAGE plpgsql STABLE AS $$
BEGIN
    -- Two ranges of the index, each in its order.
    RETURN QUERY SELECT f.* FROM (
        (SELECT u.* FROM usage_call AS u
        WHERE u.party = k_party AND u.account = k_account AND u.operation = k_operation AND u.key = k_key
            AND u.result = 1 AND u.learned < before AND u.at > since
        ORDER BY u.learned, u.print LIMIT 1)
        UNION ALL
        (SELECT u.* FROM usage_call AS u
        WHERE u.party = k_party AND u.account = k_account AND u.operation = k_operation AND u.key = k_key
            AND u.result = 3 AND u.learned < before AND u.at > since
            AND CASE WHEN accepted THEN u.own_result = 1 AND u.own_learned < before
                ELSE (u.own_result = 0 AND u.own_learned < before) IS NOT TRUE END
        ORDER BY u.learned, u.print LIMIT 1)
    ) AS f ORDER BY f.learned, f.print LIMIT 1;
END
$$;

-- The call under a key that counts. Where all calls under it are one, the call that GatePay accepted in its own answer made the
-- object: it comes before a call whose key was only found, unless the object of that call has failed.
CREATE FUNCTION first_usage(
    k_party text, k_account text, k_operation text, k_key text, since bigint, before bigint
) RETURNS SETOF usage_call
LANGUAGE plpgsql STABLE AS $$
DECLARE
    known usage_call%ROWTYPE;
    accepted usage_call%ROWTYPE;
BEGIN
    SELECT * INTO known FROM first_known_usage(k_party, k_account, k_operation, k_key, since, before, false);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF known.once AND known.result = 3 THEN
        SELECT * INTO accepted FROM first_known_usage(k_party, k_account, k_operation, k_key, since, before, true);
        IF FOUND AND ((known.failed < before) IS NOT TRUE OR accepted.failed < before) THEN
            known := accepted;
        END IF;
    END IF;
    RETURN NEXT known;
END
$$;

-- The first call of another party for the same sub-account under a key, of which it was learned before a call of the party's that
-- GatePay has its object. What was learned later about it is left out.
CREATE FUNCTION first_usage_elsewhere(head usage_call) RETURNS SETOF usage_call
LANGUAGE plpgsql STABLE AS $$
BEGIN
    -- Two ranges of the index beside that of the party's own calls, of which there may be any number.
    RETURN QUERY SELECT f.* FROM (
        (SELECT u.* FROM usage_call AS u
        WHERE u.account = head.account AND u.operation = head.operation AND u.key = head.key AND u.party < head.party)
        UNION ALL
        (SELECT u.* FROM usage_call AS u
        WHERE u.account = head.account AND u.operation = head.operation AND u.key = head.key AND u.party > head.party)
    ) AS f
    WHERE f.result IN (1, 3) AND f.once AND (f.learned, f.print) < (head.learned, head.print)
        AND (f.own_result = 0 AND f.own_learned < head.learned) IS NOT TRUE
    ORDER BY f.learned, f.print LIMIT 1;
END
$$;

-- The calls under keys that decide how all others stand before a time: 1 the one that counts, 2 the one that counts after the
-- failure of its object, 3 the first that GatePay accepted, where it is asked for, and else 4 the one of
-- another party that counts.
CREATE FUNCTION usage_heads_v1(
    h_party text, h_accounts text[], h_operations text[], h_keys text[], h_each boolean[], before bigint
) RETURNS TABLE (o_role integer, o_print bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    head usage_call%ROWTYPE;
    other usage_call%ROWTYPE;
    ended bigint;
BEGIN
    FOR n IN 1 .. cardinality(h_keys) LOOP
        SELECT * INTO head FROM first_usage(h_party, h_accounts[n], h_operations[n], h_keys[n], -1, before);
        CONTINUE WHEN NOT FOUND;
        o_role := 1;
        o_print := head.print;
        RETURN NEXT;
        ended := CASE WHEN head.failed < before THEN head.failed_by END;
        IF NOT h_each[n] THEN
            SELECT * INTO other FROM first_usage_elsewhere(head);
            IF FOUND THEN
                o_role := 4;
                o_print := other.print;
                RETURN NEXT;
                -- The object that both have under the key.
                IF other.failed < before THEN
                    ended := coalesce(ended, other.failed_by);
                END IF;
            END IF;
        END IF;
        IF ended IS NOT NULL THEN
            SELECT f.print INTO o_print FROM first_usage(
                h_party, h_accounts[n], h_operations[n], h_keys[n], ended, before) AS f;
            IF FOUND THEN
                o_role := 2;
                RETURN NEXT;
            END IF;
        END IF;
        IF h_each[n] THEN
            SELECT f.print INTO o_print FROM first_known_usage(
                h_party, h_accounts[n], h_operations[n], h_keys[n], -1, before, true) AS f;
            IF FOUND THEN
                o_role := 3;
                RETURN NEXT;
            END IF;
        END IF;
    END LOOP;
END
$$;
