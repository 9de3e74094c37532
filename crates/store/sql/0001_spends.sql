-- What calls spend, and the sums of it over slices of time.
--
-- `meter` does not depend on rules, so that a new rule is exact at once. The answers are those of `caps::judge` in Rust.
-- Functions without a version are as in `0001_caps.sql`.

-- A spend that counts, in one currency. It is removed once it is released.
CREATE TABLE spend (
    party text NOT NULL,
    account text NOT NULL,
    counted_as text NOT NULL,
    -- The call's own key; of a call without one, chr(31) and its stamp.
    key text NOT NULL,
    currency text NOT NULL,
    -- The largest amount of any attempt.
    amount numeric(38, 18) NOT NULL,
    -- When the last attempt was admitted: it counts in the slices of this time.
    at bigint NOT NULL,
    -- When the newest attempt was admitted that GatePay accepted.
    executed bigint,
    PRIMARY KEY (party, account, counted_as, key, currency)
);
CREATE INDEX spend_at ON spend (at);

-- An admitted call whose end is not known.
CREATE TABLE spend_attempt (
    print bytea PRIMARY KEY,
    party text NOT NULL,
    account text NOT NULL,
    counted_as text NOT NULL,
    key text NOT NULL,
    at bigint NOT NULL,
    instance bigint NOT NULL,
    -- Whether the instance does not know the end either.
    unknown boolean NOT NULL DEFAULT false
) WITH (fillfactor = 70, autovacuum_vacuum_threshold = 1000);
CREATE INDEX spend_attempt_key ON spend_attempt (party, account, counted_as, key);
CREATE INDEX spend_attempt_at ON spend_attempt (at);

-- A key of which an object has failed, by a notification. Copies of it undo no later spend under the key.
CREATE TABLE spend_failure (
    party text NOT NULL,
    account text NOT NULL,
    counted_as text NOT NULL,
    key text NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (party, account, counted_as, key)
);
CREATE INDEX spend_failure_at ON spend_failure (at);

-- Sums by slice: grain 0 is a 96th of an hour, grain 1 a 96th of 24 hours. The scope is that of a sub-account (`cap_scope`),
-- or '' for all together, which is kept only while a rule sums over all.
CREATE TABLE meter (
    scope text NOT NULL,
    counted_as text NOT NULL,
    currency text NOT NULL,
    grain smallint NOT NULL,
    slice bigint NOT NULL,
    amount numeric NOT NULL,
    calls bigint NOT NULL,
    PRIMARY KEY (scope, counted_as, currency, grain, slice)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 1000);
-- Slices that no window covers any more are found without reading the others.
CREATE INDEX meter_slice ON meter (grain, slice);

-- Decides alone about the spends of these sub-accounts until the transaction ends. Always in the same order.
CREATE FUNCTION lock_accounts(accounts text[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1734437990, w.number)
    FROM (
        SELECT DISTINCT hashtext(a) AS number
        FROM unnest(accounts || CASE WHEN sums_over_all() THEN ARRAY[''] ELSE '{}' END) AS a ORDER BY 1
    ) AS w;
END
$$;

-- Takes a spend from the slices it counts in, in some of its currencies. A slice in which nothing counts any more is gone: a
-- caller may name any currency, and reports read every row.
CREATE FUNCTION uncount_spend(s_party text, s_account text, s_counted_as text, s_key text, currencies text[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    DELETE FROM meter AS m
    USING spend AS s, (VALUES (0::smallint, 37500), (1::smallint, 900000)) AS g(grain, ms), sums_over_all() AS o(all_too)
    WHERE s.party = s_party AND s.account = s_account AND s.counted_as = s_counted_as AND s.key = s_key
        AND s.currency = ANY (currencies)
        AND (m.scope = cap_scope(s_account) OR m.scope = '' AND o.all_too)
        AND m.counted_as = s_counted_as AND m.currency = s.currency AND m.grain = g.grain AND m.slice = s.at / g.ms
        AND m.calls <= 1 AND m.amount <= s.amount;
    UPDATE meter AS m SET amount = greatest(m.amount - s.amount, 0), calls = greatest(m.calls - 1, 0)
    FROM spend AS s, (VALUES (0::smallint, 37500), (1::smallint, 900000)) AS g(grain, ms), sums_over_all() AS o(all_too)
    WHERE s.party = s_party AND s.account = s_account AND s.counted_as = s_counted_as AND s.key = s_key
        AND s.currency = ANY (currencies)
        AND (m.scope = cap_scope(s_account) OR m.scope = '' AND o.all_too)
        AND m.counted_as = s_counted_as AND m.currency = s.currency AND m.grain = g.grain AND m.slice = s.at / g.ms;
END
$$;

-- Reserves what the admitted calls of a batch spend, one after the other. A call over a rule gets verdict 8, one that needs an
-- approval verdict 10, and a refund under a rule verdict 11 if the currency of its order is not known. The stamps are recorded
-- already, that of a refused call too: so `cap_exceeded` proves that no copy was admitted or will be.
CREATE FUNCTION reserve_spends(
    at bigint, asking bigint, prints bytea[], parties text[], accounts text[],
    names text[], keys text[], part_rows integer[], part_currencies text[], part_amounts text[],
    digests bytea[], told_amounts text[], told_targets text[],
    INOUT verdicts smallint[], INOUT details bigint[], INOUT scopes text[], OUT shadows text[]
)
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp SET jit = off AS $$
DECLARE
    n integer;
    s_key text;
    currencies text[];
    amounts numeric[];
    breach record;
    needed text;
BEGIN
    shadows := array_fill(NULL::text, ARRAY[cardinality(prints)]);
    PERFORM lock_accounts(ARRAY(SELECT DISTINCT accounts[r] FROM unnest(part_rows) AS r WHERE verdicts[r] = 0));
    FOR n IN SELECT DISTINCT r FROM unnest(part_rows) AS r WHERE verdicts[r] = 0 ORDER BY r LOOP
        s_key := coalesce(keys[n], chr(31) || encode(prints[n], 'hex'));
        SELECT array_agg(p.currency ORDER BY p.currency), array_agg(p.amount ORDER BY p.currency) INTO currencies, amounts
        FROM (
            SELECT q.currency, least(sum(q.amount::numeric), 99999999999999999999.999999999999999999) AS amount
            FROM unnest(part_rows, part_currencies, part_amounts) AS q(r, currency, amount)
            WHERE q.r = n GROUP BY q.currency
        ) AS p;
        -- Without its currency nothing can be counted.
        IF array_position(currencies, NULL) IS NOT NULL THEN
            IF EXISTS (
                SELECT FROM cap_rule AS c
                WHERE c.scope IN ('', cap_scope(accounts[n])) AND NOT c.shadow
                    AND (c.ends IS NULL OR c.ends > reserve_spends.at) AND names[n] = ANY (string_to_array(c.calls, ','))
            ) THEN
                verdicts[n] := 11;
            END IF;
            CONTINUE;
        END IF;
        SELECT * INTO breach FROM cap_breach(at, parties[n], accounts[n], names[n], s_key, currencies, amounts);
        IF FOUND AND NOT breach.o_shadow AND split_part(breach.o_breach, ' ', 3) = '5' THEN
            needed := use_approval(at, prints[n], parties[n], accounts[n], names[n], coalesce(keys[n], ''),
                digests[n], told_amounts[n], told_targets[n]);
            IF needed IS NOT NULL THEN
                verdicts[n] := 10;
                scopes[n] := needed || ' ' || breach.o_breach;
                CONTINUE;
            END IF;
        ELSIF FOUND AND NOT breach.o_shadow THEN
            verdicts[n] := 8;
            details[n] := coalesce(breach.o_frees, 0);
            scopes[n] := breach.o_breach;
            CONTINUE;
        ELSIF FOUND THEN
            shadows[n] := concat_ws(' ', breach.o_breach, breach.o_frees);
        END IF;
        PERFORM uncount_spend(parties[n], accounts[n], names[n], s_key, currencies);
        INSERT INTO spend AS s
        SELECT parties[n], accounts[n], names[n], s_key, p.currency, p.amount, at, NULL
        FROM unnest(currencies, amounts) AS p(currency, amount)
        ON CONFLICT (party, account, counted_as, key, currency) DO UPDATE
        SET amount = greatest(s.amount, excluded.amount), at = excluded.at;
        INSERT INTO meter AS m
        SELECT o.scope, names[n], s.currency, g.grain, s.at / g.ms, s.amount, 1
        FROM spend AS s, (VALUES (0::smallint, 37500), (1::smallint, 900000)) AS g(grain, ms),
            unnest(CASE WHEN sums_over_all() THEN ARRAY['', cap_scope(accounts[n])] ELSE ARRAY[cap_scope(accounts[n])] END) AS o(scope)
        WHERE s.party = parties[n] AND s.account = accounts[n] AND s.counted_as = names[n] AND s.key = s_key
            AND s.currency = ANY (currencies)
        ON CONFLICT (scope, counted_as, currency, grain, slice) DO UPDATE
        SET amount = m.amount + excluded.amount, calls = m.calls + 1;
        INSERT INTO spend_attempt VALUES (prints[n], parties[n], accounts[n], names[n], s_key, at, asking)
        ON CONFLICT (print) DO UPDATE SET party = excluded.party, account = excluded.account,
            counted_as = excluded.counted_as, key = excluded.key, at = excluded.at, instance = excluded.instance,
            unknown = false;
    END LOOP;
END
$$;

-- Ends a spend of which every attempt is refuted. Returns whether it did.
CREATE FUNCTION release_if_refuted(s_party text, s_account text, s_counted_as text, s_key text) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held text[];
    accepted boolean;
BEGIN
    SELECT array_agg(s.currency), bool_or(s.executed IS NOT NULL) INTO held, accepted FROM spend AS s
    WHERE s.party = s_party AND s.account = s_account AND s.counted_as = s_counted_as AND s.key = s_key;
    IF held IS NULL OR accepted OR EXISTS (SELECT FROM spend_attempt AS a
        WHERE a.party = s_party AND a.account = s_account AND a.counted_as = s_counted_as AND a.key = s_key) THEN
        RETURN false;
    END IF;
    PERFORM uncount_spend(s_party, s_account, s_counted_as, s_key, held);
    DELETE FROM spend AS s
    WHERE s.party = s_party AND s.account = s_account AND s.counted_as = s_counted_as AND s.key = s_key;
    RETURN true;
END
$$;

-- What an instance knows about its calls: 0 not executed, 1 executed, 2 unknown, 3 found, which counts as executed.
CREATE FUNCTION settle_attempts_v1(c_prints bytea[], c_results smallint[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    closed record;
BEGIN
    PERFORM admitting();
    PERFORM lock_accounts(ARRAY(SELECT DISTINCT a.account FROM spend_attempt AS a WHERE a.print = ANY (c_prints)));
    UPDATE spend_attempt AS a SET unknown = true
    FROM unnest(c_prints, c_results) AS r(print, result) WHERE a.print = r.print AND r.result = 2;
    -- The executed ones first: they hold what others under the same key would release.
    FOR closed IN
        DELETE FROM spend_attempt AS a USING unnest(c_prints, c_results) AS r(print, result)
        WHERE a.print = r.print AND r.result IN (1, 3) RETURNING a.*
    LOOP
        UPDATE spend AS s SET executed = greatest(s.executed, closed.at)
        WHERE s.party = closed.party AND s.account = closed.account AND s.counted_as = closed.counted_as
            AND s.key = closed.key;
    END LOOP;
    FOR closed IN
        DELETE FROM spend_attempt AS a USING unnest(c_prints, c_results) AS r(print, result)
        WHERE a.print = r.print AND r.result = 0 RETURNING a.*
    LOOP
        PERFORM release_if_refuted(closed.party, closed.account, closed.counted_as, closed.key);
    END LOOP;
    PERFORM settle_usage(c_prints, c_results);
END
$$;

-- GatePay's last word on the object under a key. Returns whether its spend is released by it. A stated currency '' is any.
CREATE FUNCTION settle_object_v1(
    s_party text, s_account text, s_names text[], s_key text, stands boolean, decided bigint,
    stated_currencies text[], stated_amounts text[]
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    held text[];
    name text;
    released boolean := false;
    changed boolean;
BEGIN
    PERFORM admitting();
    PERFORM lock_accounts(ARRAY[s_account]);
    SELECT array_agg(DISTINCT s.counted_as) INTO held FROM spend AS s
    WHERE s.party = s_party AND s.account = s_account AND s.counted_as = ANY (s_names) AND s.key = s_key;
    -- GatePay may keep an object of each name, and told about one of them.
    IF held IS NULL OR NOT stands AND cardinality(held) > 1 THEN
        RETURN false;
    END IF;
    -- When a notification came says little about when GatePay decided: a failure counts once.
    IF NOT stands AND (
        EXISTS (SELECT FROM spend_failure AS f
            WHERE f.party = s_party AND f.account = s_account AND f.counted_as = held[1] AND f.key = s_key)
        OR EXISTS (SELECT FROM unnest(stated_currencies, stated_amounts) AS q(currency, amount) WHERE NOT EXISTS (
            SELECT FROM spend AS s
            WHERE s.party = s_party AND s.account = s_account AND s.counted_as = held[1] AND s.key = s_key
                AND q.currency IN ('', s.currency) AND s.amount = q.amount::numeric))
    ) THEN
        RETURN false;
    END IF;
    changed := EXISTS (SELECT FROM spend AS s
        WHERE s.party = s_party AND s.account = s_account AND s.counted_as = ANY (held) AND s.key = s_key
            AND s.executed <= decided);
    DELETE FROM spend_attempt AS a
    WHERE a.party = s_party AND a.account = s_account AND a.counted_as = ANY (held) AND a.key = s_key
        AND a.unknown AND a.at <= decided;
    changed := changed OR FOUND;
    UPDATE spend AS s
    SET executed = CASE WHEN stands THEN greatest(s.executed, decided) WHEN s.executed > decided THEN s.executed END
    WHERE s.party = s_party AND s.account = s_account AND s.counted_as = ANY (held) AND s.key = s_key;
    FOREACH name IN ARRAY held LOOP
        released := release_if_refuted(s_party, s_account, name, s_key) OR released;
    END LOOP;
    IF NOT stands AND (changed OR released) THEN
        INSERT INTO spend_failure VALUES (s_party, s_account, held[1], s_key, decided);
    END IF;
    RETURN released;
END
$$;

-- Marks the attempts that instances left open when they ended as unknown, and forgets spends that no window covers.
CREATE FUNCTION age_spends_v1() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    now bigint := now_ms();
    deleting bigint := deleting_ms();
BEGIN
    -- Rows that others hold are left to the next call: waiting for them could be a deadlock with admissions and settlements.
    UPDATE spend_attempt AS a SET unknown = true
    WHERE a.print IN (
        SELECT b.print FROM spend_attempt AS b
        WHERE NOT b.unknown AND (b.at < now - 600000 OR b.at < now - 60000 AND NOT EXISTS (
            SELECT FROM instance AS n WHERE n.id = b.instance AND n.steady > now - 5000))
        FOR UPDATE SKIP LOCKED
    );
    -- Longer than any window.
    DELETE FROM meter AS m WHERE m.ctid = ANY (ARRAY(
        SELECT o.ctid FROM meter AS o
        WHERE o.grain = 0 AND o.slice < (deleting - 93600000) / 37500 OR o.grain = 1 AND o.slice < (deleting - 345600000) / 900000
        FOR UPDATE SKIP LOCKED
    ));
    DELETE FROM spend_attempt AS a WHERE a.ctid = ANY (ARRAY(
        SELECT o.ctid FROM spend_attempt AS o WHERE o.at < deleting - 34560000000 FOR UPDATE SKIP LOCKED
    ));
    DELETE FROM spend AS s WHERE s.ctid = ANY (ARRAY(
        SELECT o.ctid FROM spend AS o WHERE o.at < deleting - 34560000000 FOR UPDATE SKIP LOCKED
    ));
    DELETE FROM spend_failure AS f WHERE f.ctid = ANY (ARRAY(
        SELECT o.ctid FROM spend_failure AS o WHERE o.at < deleting - 34560000000 FOR UPDATE SKIP LOCKED
    ));
    DELETE FROM approval AS a WHERE a.ctid = ANY (ARRAY(
        SELECT o.ctid FROM approval AS o WHERE o.until < deleting - 2592000000 FOR UPDATE SKIP LOCKED
    ));
END
$$;
