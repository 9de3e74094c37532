-- Statements: what GatePay's word on a number says about the calls under it, the days of another time zone, and the few
-- calls under a number that decide how all others stand.

ALTER TABLE usage_call
    -- A time at which GatePay had decided about the failure. Calls that were admitted later are not covered.
    ADD COLUMN failed_by bigint,
    -- The call's own end, and when it was learned, if GatePay's word on its number came before: 0 refused or not sent,
    -- 1 accepted.
    ADD COLUMN own_result smallint,
    ADD COLUMN own_learned bigint;
UPDATE usage_call SET failed_by = failed WHERE failed IS NOT NULL;

DROP INDEX usage_call_key, usage_call_learned, usage_call_failed;
CREATE INDEX usage_call_key ON usage_call (party, account, operation, key, result, learned, print);
CREATE INDEX usage_call_learned ON usage_call (party, learned, print);
CREATE INDEX usage_call_failed ON usage_call (party, failed, print) WHERE failed IS NOT NULL;
CREATE INDEX usage_call_own ON usage_call (party, own_learned, print) WHERE own_learned IS NOT NULL;
CREATE INDEX usage_call_unknown ON usage_call (at) WHERE result IS NULL AND left(key, 1) <> chr(31);

-- Notes the ends of calls. The first result stays. Where each call under a number may be one of its own, GatePay's word on the
-- number does not tell which it is about, so that the call's own end is kept beside it.
CREATE OR REPLACE FUNCTION settle_usage(c_prints bytea[], c_results smallint[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now CONSTANT bigint := now_ms();
BEGIN
    PERFORM FROM usage_call AS u WHERE u.print = ANY (c_prints) ORDER BY u.print FOR UPDATE;
    UPDATE usage_call AS u SET own_result = r.result, own_learned = now
    FROM unnest(c_prints, c_results) AS r(print, result)
    WHERE u.print = r.print AND r.result IN (0, 1) AND u.result = 3 AND NOT u.once AND u.own_result IS NULL;
    UPDATE usage_call AS u SET result = r.result, learned = now
    FROM unnest(c_prints, c_results) AS r(print, result)
    WHERE u.print = r.print AND r.result <> 2 AND u.result IS NULL;
END
$$;

-- GatePay's word on the object under a key: it stands, or it has finally failed. A stated currency '' is any.
CREATE FUNCTION settle_usage_v2(
    s_party text, s_account text, s_operations text[], s_key text, stands boolean, decided bigint,
    stated_currencies text[], stated_amounts text[]
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    now CONSTANT bigint := now_ms();
    makers text[];
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
                AND (u.failed IS NOT NULL OR u.at <= decided AND (NOT u.once OR EXISTS (
                    SELECT FROM unnest(stated_currencies, stated_amounts) AS q(currency, amount)
                    WHERE NOT EXISTS (
                        SELECT FROM unnest(string_to_array(u.parts, ',')) AS p(part)
                        WHERE q.currency IN ('', split_part(p.part, '=', 1))
                            AND nullif(split_part(p.part, '=', 2), '')::numeric = q.amount::numeric))))
        ) THEN
            RETURN;
        END IF;
    END IF;
    UPDATE usage_call AS u SET result = 3, learned = now
    WHERE u.party = s_party AND u.account = s_account AND u.operation = ANY (s_operations) AND u.key = s_key
        AND u.result IS NULL AND u.once AND u.at <= decided;
    -- Where each call may be one of its own, the word is about one of them: the oldest, if none is known yet.
    UPDATE usage_call AS u SET result = 3, learned = now
    WHERE u.print IN (
        SELECT DISTINCT ON (o.operation) o.print FROM usage_call AS o
        WHERE o.party = s_party AND o.account = s_account AND o.operation = ANY (s_operations) AND o.key = s_key
            AND o.result IS NULL AND NOT o.once AND o.at <= decided
            AND NOT EXISTS (SELECT FROM usage_call AS k
                WHERE k.party = s_party AND k.account = s_account AND k.operation = o.operation AND k.key = s_key
                    AND k.result IN (1, 3) AND k.own_result IS DISTINCT FROM 0)
        ORDER BY o.operation, o.at, o.print
    );
    IF NOT stands THEN
        UPDATE usage_call AS u SET failed = now, failed_by = decided
        WHERE u.party = s_party AND u.account = s_account AND u.operation = makers[1] AND u.key = s_key
            AND u.result IN (1, 3) AND u.at <= decided;
    END IF;
END
$$;

-- As flush_usage_v1, with the day of now and the days after it: the first one is taken whose date is later than that of the
-- last day, so that a time zone further west neither repeats a date nor moves all later ones.
CREATE FUNCTION flush_usage_v2(
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
            -- Of days on which no instance counted, those are left out on which no call was admitted either.
            IF last.day IS NULL OR NOT EXISTS (
                SELECT FROM usage_call AS u WHERE u.at >= last.ends AND u.at < d_begins[1]) THEN
                last.ends := greatest(coalesce(last.ends, 0), d_begins[1]);
            END IF;
            INSERT INTO usage_day VALUES (following.day, last.ends, following.ends) RETURNING * INTO last;
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

-- The calls under keys that decide how all others stand before a time: 1 the first of which was learned that GatePay has it,
-- 2 the first after the failure of that one, 3 the first that GatePay accepted, where it is asked for.
CREATE FUNCTION usage_heads_v1(
    h_party text, h_accounts text[], h_operations text[], h_keys text[], h_each boolean[], before bigint
) RETURNS TABLE (o_role integer, o_print bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    head usage_call%ROWTYPE;
BEGIN
    FOR n IN 1 .. cardinality(h_keys) LOOP
        -- Two ranges of the index, each in its order. What is not learned yet comes last.
        SELECT f.* INTO head FROM (
            (SELECT u.* FROM usage_call AS u
            WHERE u.party = h_party AND u.account = h_accounts[n] AND u.operation = h_operations[n] AND u.key = h_keys[n]
                AND u.result = 1
            ORDER BY u.learned, u.print LIMIT 1)
            UNION ALL
            (SELECT u.* FROM usage_call AS u
            WHERE u.party = h_party AND u.account = h_accounts[n] AND u.operation = h_operations[n] AND u.key = h_keys[n]
                AND u.result = 3 AND (u.own_result = 0 AND u.own_learned < before) IS NOT TRUE
            ORDER BY u.learned, u.print LIMIT 1)
        ) AS f WHERE f.learned < before ORDER BY f.learned, f.print LIMIT 1;
        CONTINUE WHEN NOT FOUND;
        o_role := 1;
        o_print := head.print;
        RETURN NEXT;
        IF head.failed < before THEN
            SELECT f.print INTO o_print FROM (
                SELECT u.print, u.learned FROM usage_call AS u
                WHERE u.party = h_party AND u.account = h_accounts[n] AND u.operation = h_operations[n] AND u.key = h_keys[n]
                    AND u.result IN (1, 3) AND (u.own_result = 0 AND u.own_learned < before) IS NOT TRUE
                    AND u.at > coalesce(head.failed_by, head.failed)
                ORDER BY u.learned, u.print LIMIT 1
            ) AS f WHERE f.learned < before;
            IF FOUND THEN
                o_role := 2;
                RETURN NEXT;
            END IF;
        END IF;
        IF h_each[n] THEN
            SELECT f.print INTO o_print FROM (
                (SELECT u.print, u.learned FROM usage_call AS u
                WHERE u.party = h_party AND u.account = h_accounts[n] AND u.operation = h_operations[n] AND u.key = h_keys[n]
                    AND u.result = 1
                ORDER BY u.learned, u.print LIMIT 1)
                UNION ALL
                (SELECT u.print, u.learned FROM usage_call AS u
                WHERE u.party = h_party AND u.account = h_accounts[n] AND u.operation = h_operations[n] AND u.key = h_keys[n]
                    AND u.result = 3 AND u.own_result = 1 AND u.own_learned < before
                ORDER BY u.learned, u.print LIMIT 1)
            ) AS f WHERE f.learned < before ORDER BY f.learned, f.print LIMIT 1;
            IF FOUND THEN
                o_role := 3;
                RETURN NEXT;
            END IF;
        END IF;
    END LOOP;
END
$$;

-- As note_owners_v1 of schema 2. A row without the currency of its order takes it from a later note.
CREATE OR REPLACE FUNCTION note_owners_v1(
    kinds text[], keys text[], tenants text[], accounts text[], ats bigint[], operations text[], currencies text[], o_source text
) RETURNS text[]
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET enable_seqscan = off AS $$
DECLARE
    at_ms bigint := now_ms();
    woken text[];
BEGIN
    IF o_source = 'asked' THEN
        PERFORM notifying();
    END IF;
    INSERT INTO owner (kind, key, tenant, account, at, currency, operation, source)
    SELECT DISTINCT ON (r.kind COLLATE "C", r.key COLLATE "C", r.tenant, r.account)
        r.kind, r.key, r.tenant, r.account,
        max(coalesce(r.at, at_ms)) OVER (PARTITION BY r.kind, r.key, r.tenant, r.account),
        max(r.currency) OVER (PARTITION BY r.kind, r.key, r.tenant, r.account), r.operation, o_source
    FROM unnest(kinds, keys, tenants, accounts, ats, operations, currencies)
        WITH ORDINALITY AS r(kind, key, tenant, account, at, operation, currency, n)
    WHERE o_source <> 'asked'
        OR NOT EXISTS (SELECT FROM isolation AS i WHERE i.operation = r.operation AND i.verdict = 'shared')
    ORDER BY r.kind COLLATE "C", r.key COLLATE "C", r.tenant, r.account, r.n
    -- A tenant id that has a former sub-account again uses the key as another tenant: the last use counts.
    ON CONFLICT ON CONSTRAINT owner_pkey DO UPDATE SET at = greatest(owner.at, excluded.at),
        source = CASE WHEN owner.source = 'asked' THEN excluded.source ELSE owner.source END,
        operation = CASE WHEN owner.source = 'asked' THEN excluded.operation ELSE owner.operation END,
        currency = coalesce(owner.currency, excluded.currency)
    WHERE owner.at < excluded.at OR (owner.source = 'asked' AND excluded.source <> 'asked')
        OR owner.currency IS NULL AND excluded.currency IS NOT NULL;
    PERFORM wait_for_standbys();
    IF NOT EXISTS (SELECT FROM unnest(kinds, keys) AS r(kind, key) JOIN hint AS h USING (kind, key)) THEN
        RETURN '{}';
    END IF;
    PERFORM notifying();
    WITH due AS (
        UPDATE event AS e SET decide_at = at_ms, asks = false
        WHERE e.state = 'quarantined'
            AND e.id IN (SELECT h.event FROM unnest(kinds, keys) AS r(kind, key) JOIN hint AS h USING (kind, key))
        RETURNING e.id
    )
    SELECT coalesce(array_agg(d.id::text ORDER BY d.id), '{}') INTO woken FROM due AS d;
    RETURN woken;
END
$$;
