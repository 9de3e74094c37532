-- Money caps: what calls spend, the sums of it over slices of time, and the rules in force.
--
-- `meter` does not depend on rules, so that a new rule is exact at once. The answers are those of `caps::judge` in Rust.

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

-- Sums by slice: grain 0 is a 96th of an hour, grain 1 a 96th of 24 hours. The scope is a party, or '' for all together,
-- which is kept only while a rule sums over all.
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

-- Measures: 0 per call, 1 per hour, 2 per 24 hours, 3 per day, 4 count per hour, 5 to be approved above.
CREATE TABLE cap_rule (
    shadow boolean NOT NULL,
    scope text NOT NULL,
    measure smallint NOT NULL,
    -- '*': each currency that has no rule of its own.
    currency text NOT NULL,
    -- The names under which calls are counted, with commas between them.
    calls text NOT NULL,
    amount numeric(38, 18) NOT NULL,
    -- From when on its currency may be spent: a new currency is a raise.
    opens bigint NOT NULL,
    -- When it ends, if it is removed.
    ends bigint,
    -- A higher limit, and from when on it holds.
    raised numeric(38, 18),
    raised_from bigint,
    PRIMARY KEY (shadow, scope, measure, currency, calls)
);

-- A call above a rule of measure 5. States: 0 waiting, 1 approved, 2 rejected, 3 used.
CREATE TABLE approval (
    id bytea PRIMARY KEY,
    party text NOT NULL,
    account text NOT NULL,
    counted_as text NOT NULL,
    -- Empty if the call has none.
    key text NOT NULL,
    body_sha256 bytea NOT NULL,
    amounts text NOT NULL,
    targets text NOT NULL,
    state smallint NOT NULL,
    asked bigint NOT NULL,
    until bigint NOT NULL
);
CREATE INDEX approval_of ON approval (party, account, counted_as, key, body_sha256);
CREATE INDEX approval_until ON approval (until);

CREATE TABLE approval_signature (
    approval bytea NOT NULL REFERENCES approval ON DELETE CASCADE,
    operator text NOT NULL,
    place smallint NOT NULL,
    PRIMARY KEY (approval, operator)
);

-- The midnights of the configured time zone. After a change of the zone: up to the end of the day that was under way.
CREATE TABLE cap_midnight (ms bigint PRIMARY KEY);

-- How late a raise holds, in milliseconds. A shorter delay is a raise too.
CREATE TABLE cap_delay (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    ms bigint NOT NULL,
    -- A shorter delay, and from when on it holds.
    shorter bigint,
    shorter_from bigint
);

-- The functions below that have no version are called with the search path set. They are in PL/pgSQL, which keeps their
-- plans: planning them for each call would take longer than the call.

CREATE FUNCTION sums_over_all() RETURNS boolean
LANGUAGE sql STABLE AS $$ SELECT EXISTS (SELECT FROM cap_rule AS c WHERE c.scope = '') $$;

-- Decides alone about the spends of these parties until the transaction ends. Always in the same order.
CREATE FUNCTION lock_spenders(parties text[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1734437990, w.number)
    FROM (
        SELECT DISTINCT hashtext(p) AS number
        FROM unnest(parties || CASE WHEN sums_over_all() THEN ARRAY[''] ELSE '{}' END) AS p ORDER BY 1
    ) AS w;
END
$$;

-- Takes a spend from the slices it counts in, in some of its currencies.
CREATE FUNCTION uncount_spend(s_party text, s_account text, s_counted_as text, s_key text, currencies text[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE meter AS m SET amount = greatest(m.amount - s.amount, 0), calls = greatest(m.calls - 1, 0)
    FROM spend AS s, (VALUES (0::smallint, 37500), (1::smallint, 900000)) AS g(grain, ms), sums_over_all() AS o(all_too)
    WHERE s.party = s_party AND s.account = s_account AND s.counted_as = s_counted_as AND s.key = s_key
        AND s.currency = ANY (currencies)
        AND (m.scope = s_party OR m.scope = '' AND o.all_too)
        AND m.counted_as = s_counted_as AND m.currency = s.currency AND m.grain = g.grain AND m.slice = s.at / g.ms;
END
$$;

-- The first rule that a call breaks: real rules before shadow rules, those that ask for approvals after the others. No row if
-- all hold.
CREATE FUNCTION cap_breach(
    at bigint, s_party text, s_account text, s_counted_as text, s_key text, currencies text[], amounts numeric[]
) RETURNS TABLE (o_shadow boolean, o_breach text, o_frees bigint)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN QUERY
    WITH rule AS MATERIALIZED (
        SELECT c.*, string_to_array(c.calls, ',') AS names,
            CASE WHEN c.raised_from <= cap_breach.at THEN c.raised ELSE c.amount END AS most
        FROM cap_rule AS c
        WHERE c.scope IN ('', s_party) AND (c.ends IS NULL OR c.ends > cap_breach.at)
            AND s_counted_as = ANY (string_to_array(c.calls, ','))
    ), day AS MATERIALIZED (
        SELECT coalesce(max(d.ms) FILTER (WHERE d.ms <= cap_breach.at), greatest(cap_breach.at - 90000000, 0)) AS began,
            min(d.ms) FILTER (WHERE d.ms > cap_breach.at) AS ends
        FROM cap_midnight AS d
    ), part AS (
        SELECT p.currency, p.amount, s.amount AS own, s.at AS own_at
        FROM unnest(currencies, amounts) AS p(currency, amount)
        LEFT JOIN spend AS s ON s.party = s_party AND s.account = s_account AND s.counted_as = s_counted_as
            AND s.key = s_key AND s.currency = p.currency
    ), breach AS (
        -- The party has rules for the call, and none for this currency.
        SELECT false AS shadow, p.currency, '' AS scope, -1 AS measure, '' AS named, '' AS calls,
            'own ' || p.currency AS told, NULL::bigint AS frees
        FROM part AS p
        WHERE EXISTS (SELECT FROM rule AS c WHERE c.scope = s_party AND NOT c.shadow)
            AND NOT EXISTS (SELECT FROM rule AS c WHERE c.scope = s_party AND NOT c.shadow
                AND c.currency IN ('*', p.currency) AND c.opens <= cap_breach.at)
        UNION ALL
        SELECT c.shadow, p.currency, c.scope, c.measure, c.currency, c.calls,
            concat_ws(' ', CASE c.scope WHEN '' THEN 'all' ELSE 'own' END, p.currency, c.measure, c.most, r.room),
            CASE WHEN c.measure IN (0, 5) THEN NULL WHEN c.measure = 3 THEN (SELECT d.ends FROM day AS d)
                ELSE (u.oldest + 1) * w.ms + w.length END
        FROM part AS p
        JOIN rule AS c ON c.currency = p.currency OR c.currency = '*' AND NOT EXISTS (
            SELECT FROM rule AS e WHERE e.scope = c.scope AND NOT e.shadow AND e.currency = p.currency
                AND e.opens <= cap_breach.at AND e.ends IS NULL)
        CROSS JOIN LATERAL (
            SELECT CASE WHEN c.measure IN (1, 4) THEN 0 ELSE 1 END::smallint AS grain,
                CASE WHEN c.measure IN (1, 4) THEN 37500 ELSE 900000 END::bigint AS ms,
                CASE c.measure WHEN 2 THEN 86400000 ELSE 3600000 END::bigint AS length
        ) AS w
        CROSS JOIN LATERAL (
            SELECT CASE c.measure WHEN 3 THEN (SELECT d.began FROM day AS d)
                ELSE greatest(cap_breach.at - w.length, 0) END / w.ms AS first
        ) AS f
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(m.amount), 0) AS amount, coalesce(sum(m.calls), 0) AS calls,
                min(m.slice) FILTER (WHERE m.amount > 0 OR m.calls > 0) AS oldest
            FROM meter AS m
            WHERE c.measure BETWEEN 1 AND 4 AND m.scope = c.scope AND m.counted_as = ANY (c.names) AND m.currency = p.currency
                AND m.grain = w.grain AND m.slice >= f.first
        ) AS u
        CROSS JOIN LATERAL (SELECT p.own IS NOT NULL AND p.own_at / w.ms >= f.first AS inside) AS i
        CROSS JOIN LATERAL (
            -- What counts under the call's own key makes room for it.
            SELECT CASE c.measure WHEN 0 THEN 0 WHEN 5 THEN 0 WHEN 4 THEN u.calls
                    ELSE u.amount - CASE WHEN i.inside THEN p.own ELSE 0 END END AS used,
                CASE c.measure WHEN 0 THEN p.amount WHEN 5 THEN p.amount WHEN 4 THEN CASE WHEN i.inside THEN 0 ELSE 1 END
                    ELSE CASE WHEN i.inside AND p.amount <= p.own THEN 0 ELSE greatest(p.amount, p.own) END END AS takes
        ) AS t
        CROSS JOIN LATERAL (SELECT greatest(c.most - t.used, 0) AS room) AS r
        WHERE t.takes > r.room
    )
    SELECT b.shadow, b.told, b.frees FROM breach AS b
    ORDER BY b.shadow, b.measure = 5, b.currency COLLATE "C", b.measure < 0 DESC, b.scope COLLATE "C", b.measure, b.named COLLATE "C",
        b.calls COLLATE "C"
    LIMIT 1;
END
$$;

-- Takes the approval of a call away, since the call passes. Without one, returns which it needs: its id and its state.
CREATE FUNCTION use_approval(
    at bigint, print bytea, s_party text, s_account text, s_counted_as text, s_key text,
    digest bytea, told_amounts text, told_targets text
) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    known record;
BEGIN
    IF digest IS NULL THEN
        RETURN '- 0';
    END IF;
    SELECT a.id, a.state INTO known FROM approval AS a
    WHERE a.party = s_party AND a.account = s_account AND a.counted_as = s_counted_as AND a.key = s_key
        AND a.body_sha256 = digest AND a.state <> 3 AND a.until > at
    FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO approval VALUES (substr(print, 1, 8), s_party, s_account, s_counted_as, s_key, digest,
            told_amounts, told_targets, 0, at, at + 86400000);
        RETURN encode(substr(print, 1, 8), 'hex') || ' 0';
    END IF;
    IF known.state = 1 THEN
        UPDATE approval AS a SET state = 3 WHERE a.id = known.id;
        RETURN NULL;
    END IF;
    RETURN encode(known.id, 'hex') || ' ' || known.state;
END
$$;

-- An operator's approval of a call, of so many different operators each. Results: 0 taken, 1 not found, 2 closed, 3 own call.
CREATE FUNCTION approve_v1(c_id bytea, c_by text, needed integer) RETURNS smallint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    known record;
    now bigint;
    signed bigint;
BEGIN
    PERFORM admitting();
    SELECT a.party, a.state, a.until INTO known FROM approval AS a WHERE a.id = c_id FOR UPDATE;
    now := now_ms();
    CASE
        WHEN NOT FOUND THEN RETURN 1;
        WHEN known.until <= now OR known.state IN (2, 3) THEN RETURN 2;
        WHEN known.party = c_by THEN RETURN 3;
        WHEN known.state = 1 THEN RETURN 0;
        ELSE NULL;
    END CASE;
    SELECT count(*) INTO signed FROM approval_signature AS s WHERE s.approval = c_id;
    INSERT INTO approval_signature VALUES (c_id, c_by, signed) ON CONFLICT (approval, operator) DO NOTHING;
    SELECT count(*) INTO signed FROM approval_signature AS s WHERE s.approval = c_id;
    IF signed >= needed THEN
        UPDATE approval AS a SET state = 1, until = now + 86400000 WHERE a.id = c_id;
    END IF;
    RETURN 0;
END
$$;

-- An operator's rejection of a call. Results as above.
CREATE FUNCTION reject_v1(c_id bytea) RETURNS smallint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    known record;
BEGIN
    PERFORM admitting();
    SELECT a.state, a.until INTO known FROM approval AS a WHERE a.id = c_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 1;
    ELSIF known.until <= now_ms() OR known.state = 3 THEN
        RETURN 2;
    END IF;
    UPDATE approval AS a SET state = 2 WHERE a.id = c_id;
    RETURN 0;
END
$$;

-- Reserves what the admitted calls of a batch spend, one after the other; a call over a rule gets verdict 8, one that needs an
-- approval verdict 10. The stamps are recorded already, that of a refused call too: so `cap_exceeded` proves that no copy was
-- admitted or will be.
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
    PERFORM lock_spenders(ARRAY(SELECT DISTINCT parties[r] FROM unnest(part_rows) AS r WHERE verdicts[r] = 0));
    FOR n IN SELECT DISTINCT r FROM unnest(part_rows) AS r WHERE verdicts[r] = 0 ORDER BY r LOOP
        s_key := coalesce(keys[n], chr(31) || encode(prints[n], 'hex'));
        SELECT array_agg(p.currency ORDER BY p.currency), array_agg(p.amount ORDER BY p.currency) INTO currencies, amounts
        FROM (
            SELECT q.currency, least(sum(q.amount::numeric), 99999999999999999999.999999999999999999) AS amount
            FROM unnest(part_rows, part_currencies, part_amounts) AS q(r, currency, amount)
            WHERE q.r = n GROUP BY q.currency
        ) AS p;
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
            unnest(CASE WHEN sums_over_all() THEN ARRAY['', parties[n]] ELSE ARRAY[parties[n]] END) AS o(scope)
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
    PERFORM lock_spenders(ARRAY(SELECT DISTINCT a.party FROM spend_attempt AS a WHERE a.print = ANY (c_prints)));
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
    PERFORM lock_spenders(ARRAY[s_party]);
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

-- What instances that are gone left open is unknown from now on; what is in no window any more is forgotten.
CREATE FUNCTION age_spends_v1() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    now bigint := now_ms();
BEGIN
    -- It waits for no row, so that it is in no deadlock with admissions and settlements; the next call takes what is left.
    UPDATE spend_attempt AS a SET unknown = true
    WHERE a.print IN (
        SELECT b.print FROM spend_attempt AS b
        WHERE NOT b.unknown AND (b.at < now - 600000 OR b.at < now - 60000 AND NOT EXISTS (
            SELECT FROM instance AS n WHERE n.id = b.instance AND n.seen > now - 5000))
        FOR UPDATE SKIP LOCKED
    );
    DELETE FROM meter AS m WHERE m.ctid = ANY (ARRAY(
        SELECT o.ctid FROM meter AS o
        WHERE o.grain = 0 AND o.slice < (now - 7200000) / 37500 OR o.grain = 1 AND o.slice < (now - 345600000) / 900000
        FOR UPDATE SKIP LOCKED
    ));
    DELETE FROM spend_attempt AS a WHERE a.ctid = ANY (ARRAY(
        SELECT o.ctid FROM spend_attempt AS o WHERE o.at < now - 34560000000 FOR UPDATE SKIP LOCKED
    ));
    DELETE FROM spend AS s WHERE s.ctid = ANY (ARRAY(
        SELECT o.ctid FROM spend AS o WHERE o.at < now - 34560000000 FOR UPDATE SKIP LOCKED
    ));
    DELETE FROM spend_failure AS f WHERE f.ctid = ANY (ARRAY(
        SELECT o.ctid FROM spend_failure AS o WHERE o.at < now - 34560000000 FOR UPDATE SKIP LOCKED
    ));
    DELETE FROM approval AS a WHERE a.ctid = ANY (ARRAY(
        SELECT o.ctid FROM approval AS o WHERE o.until < now - 2592000000 FOR UPDATE SKIP LOCKED
    ));
END
$$;

-- The time by which caps are judged.
CREATE FUNCTION cap_now_v1() RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$ SELECT now_ms() $$;

-- The calls that rules in force cover.
CREATE FUNCTION capped_calls_v1() RETURNS TABLE (o_shadow boolean, o_scope text, o_calls text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    now bigint := now_ms();
BEGIN
    RETURN QUERY SELECT DISTINCT c.shadow, c.scope, c.calls FROM cap_rule AS c WHERE c.ends IS NULL OR c.ends > now;
END
$$;

-- Puts the rules of a configuration in force: lower ones at once, higher ones after `raise_ms`.
CREATE FUNCTION declare_caps_v1(
    d_shadows boolean[], d_scopes text[], d_measures smallint[], d_currencies text[], d_calls text[], d_limits text[],
    d_midnights bigint[], raise_ms bigint
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    now bigint;
    later bigint;
    summed boolean;
    delay cap_delay;
    days bigint[];
    midnight bigint;
BEGIN
    PERFORM admitting_nothing();
    now := now_ms();
    summed := sums_over_all();
    -- A shorter delay holds only once the longer one is over, while there are rules that it protects.
    SELECT * INTO delay FROM cap_delay;
    IF NOT EXISTS (SELECT FROM cap_rule AS c WHERE c.ends IS NULL OR c.ends > now) THEN
        delay := NULL;
    ELSIF delay.shorter_from <= now THEN
        delay := (true, delay.shorter, NULL, NULL);
    END IF;
    IF delay.ms IS NULL OR raise_ms >= delay.ms THEN
        delay := (true, raise_ms, NULL, NULL);
    ELSE
        delay.shorter_from := CASE WHEN delay.shorter <= raise_ms THEN delay.shorter_from ELSE now + delay.ms END;
        delay.shorter := raise_ms;
    END IF;
    INSERT INTO cap_delay SELECT delay.* ON CONFLICT (one) DO UPDATE
    SET ms = excluded.ms, shorter = excluded.shorter, shorter_from = excluded.shorter_from;
    later := now + delay.ms;
    -- While a rule counts by day, the day under way ends when it would have ended, and no later one is shorter than 23 hours:
    -- another zone makes no room.
    SELECT coalesce(array_agg(m.ms ORDER BY m.ms), '{}') INTO days FROM cap_midnight AS m
    WHERE EXISTS (SELECT FROM cap_rule AS c WHERE c.measure = 3 AND (c.ends IS NULL OR c.ends > now))
        AND (m.ms = (SELECT max(p.ms) FROM cap_midnight AS p WHERE p.ms <= now)
            OR m.ms = (SELECT min(p.ms) FROM cap_midnight AS p WHERE p.ms > now));
    FOR midnight IN SELECT DISTINCT m FROM unnest(d_midnights) AS m ORDER BY m LOOP
        IF cardinality(days) = 0 OR midnight >= days[cardinality(days)] + 82800000 THEN
            days := days || midnight;
        END IF;
    END LOOP;
    UPDATE cap_rule AS c SET amount = c.raised, raised = NULL, raised_from = NULL WHERE c.raised_from <= now;
    DELETE FROM cap_rule AS c WHERE c.ends <= now;
    UPDATE cap_rule AS c SET ends = later
    WHERE c.ends IS NULL AND NOT EXISTS (
        SELECT FROM unnest(d_shadows, d_scopes, d_measures, d_currencies, d_calls) AS d(shadow, scope, measure, currency, calls)
        WHERE (d.shadow, d.scope, d.measure, d.currency, d.calls) = (c.shadow, c.scope, c.measure, c.currency, c.calls));
    INSERT INTO cap_rule AS c
    SELECT d.shadow, d.scope, d.measure, d.currency, d.calls, d.most::numeric,
        CASE WHEN EXISTS (
            SELECT FROM cap_rule AS k
            WHERE NOT k.shadow AND k.scope = d.scope AND (k.ends IS NULL OR k.ends > now)
                AND string_to_array(k.calls, ',') && string_to_array(d.calls, ',')
        ) THEN later ELSE now END
    FROM unnest(d_shadows, d_scopes, d_measures, d_currencies, d_calls, d_limits)
        AS d(shadow, scope, measure, currency, calls, most)
    ON CONFLICT (shadow, scope, measure, currency, calls) DO UPDATE
    SET ends = NULL, amount = least(c.amount, excluded.amount),
        raised = CASE WHEN excluded.amount > c.amount THEN excluded.amount END,
        raised_from = CASE WHEN excluded.amount > c.amount THEN
            greatest(CASE WHEN c.raised >= excluded.amount THEN c.raised_from ELSE later END, now) END;
    DELETE FROM cap_midnight;
    INSERT INTO cap_midnight SELECT m FROM unnest(days) AS m;
    IF NOT summed AND sums_over_all() THEN
        DELETE FROM meter AS m WHERE m.scope = '';
        INSERT INTO meter
        SELECT '', m.counted_as, m.currency, m.grain, m.slice, sum(m.amount), sum(m.calls)
        FROM meter AS m GROUP BY m.counted_as, m.currency, m.grain, m.slice;
    END IF;
END
$$;
