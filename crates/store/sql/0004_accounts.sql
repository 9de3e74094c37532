-- Caps and lists of destinations protect the money of a sub-account: all parties that act for it are bound together, and
-- count together, whatever their ids. A tenant that is removed, or replaced by another one, takes nothing of that away.

-- No admission, settlement or declaration runs meanwhile.
SELECT admitting_nothing();

-- The scope of a sub-account in `meter` and `cap_rule`. '' is that of all together; a call may name no account.
CREATE FUNCTION cap_scope(account text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$ SELECT CASE account WHEN '' THEN chr(31) ELSE account END $$;

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

-- Takes a spend from the slices it counts in, in some of its currencies.
CREATE OR REPLACE FUNCTION uncount_spend(s_party text, s_account text, s_counted_as text, s_key text, currencies text[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE meter AS m SET amount = greatest(m.amount - s.amount, 0), calls = greatest(m.calls - 1, 0)
    FROM spend AS s, (VALUES (0::smallint, 37500), (1::smallint, 900000)) AS g(grain, ms), sums_over_all() AS o(all_too)
    WHERE s.party = s_party AND s.account = s_account AND s.counted_as = s_counted_as AND s.key = s_key
        AND s.currency = ANY (currencies)
        AND (m.scope = cap_scope(s_account) OR m.scope = '' AND o.all_too)
        AND m.counted_as = s_counted_as AND m.currency = s.currency AND m.grain = g.grain AND m.slice = s.at / g.ms;
END
$$;

-- The first rule that a call breaks: real rules before shadow rules, those that ask for approvals after the others. No row if
-- all hold.
CREATE OR REPLACE FUNCTION cap_breach(
    at bigint, s_party text, s_account text, s_counted_as text, s_key text, currencies text[], amounts numeric[]
) RETURNS TABLE (o_shadow boolean, o_breach text, o_frees bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    own_scope text := cap_scope(s_account);
BEGIN
    RETURN QUERY
    WITH rule AS MATERIALIZED (
        SELECT c.*, string_to_array(c.calls, ',') AS names,
            CASE WHEN c.raised_from <= cap_breach.at THEN c.raised ELSE c.amount END AS most
        FROM cap_rule AS c
        WHERE c.scope IN ('', own_scope) AND (c.ends IS NULL OR c.ends > cap_breach.at)
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
        -- The sub-account has rules for the call, and none for this currency.
        SELECT false AS shadow, p.currency, '' AS scope, -1 AS measure, '' AS named, '' AS calls,
            'own ' || p.currency AS told, NULL::bigint AS frees
        FROM part AS p
        WHERE EXISTS (SELECT FROM rule AS c WHERE c.scope = own_scope AND NOT c.shadow)
            AND NOT EXISTS (SELECT FROM rule AS c WHERE c.scope = own_scope AND NOT c.shadow
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

-- Reserves what the admitted calls of a batch spend, one after the other; a call over a rule gets verdict 8, one that needs an
-- approval verdict 10. The stamps are recorded already, that of a refused call too: so `cap_exceeded` proves that no copy was
-- admitted or will be.
CREATE OR REPLACE FUNCTION reserve_spends(
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

-- What an instance knows about its calls: 0 not executed, 1 executed, 2 unknown, 3 found, which counts as executed.
CREATE OR REPLACE FUNCTION settle_attempts_v1(c_prints bytea[], c_results smallint[]) RETURNS void
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
CREATE OR REPLACE FUNCTION settle_object_v1(
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

DROP FUNCTION lock_spenders(text[]);

-- Rules of a party become rules of the sub-accounts that it has acted for. One that never spent anything is declared again
-- before its next call.
UPDATE cap_rule AS c SET amount = c.raised, raised = NULL, raised_from = NULL WHERE c.raised_from <= now_ms();
WITH former AS (DELETE FROM cap_rule AS c WHERE c.scope <> '' RETURNING c.*)
INSERT INTO cap_rule
SELECT f.shadow, a.account, f.measure, f.currency, f.calls, min(f.amount), max(f.opens),
    CASE WHEN bool_and(f.ends IS NOT NULL) THEN max(f.ends) END, NULL, NULL
FROM former AS f
JOIN (
    SELECT s.party, s.account FROM spend AS s UNION SELECT l.party, l.account FROM destination_list AS l
) AS a ON a.party = f.scope
WHERE a.account <> ''
GROUP BY f.shadow, a.account, f.measure, f.currency, f.calls;

-- Slices that no window covers any more are found without reading the others.
CREATE INDEX meter_slice ON meter (grain, slice);
DELETE FROM meter;
INSERT INTO meter
SELECT o.scope, s.counted_as, s.currency, g.grain, s.at / g.ms, sum(s.amount), count(*)
FROM spend AS s, (VALUES (0::smallint, 37500), (1::smallint, 900000)) AS g(grain, ms),
    unnest(CASE WHEN sums_over_all() THEN ARRAY['', cap_scope(s.account)] ELSE ARRAY[cap_scope(s.account)] END) AS o(scope)
WHERE s.at >= now_ms() - 345600000
GROUP BY o.scope, s.counted_as, s.currency, g.grain, s.at / g.ms;

-- An older program would declare rules by party.
CREATE OR REPLACE FUNCTION declare_caps_v1(
    d_shadows boolean[], d_scopes text[], d_measures smallint[], d_currencies text[], d_calls text[], d_limits text[],
    d_midnights bigint[], raise_ms bigint
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'caps are declared by sub-account: this program is older than the schema';
END
$$;
