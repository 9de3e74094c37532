-- Money caps: the rules in force, and whether a call keeps them. The answers are those of `caps::judge` in Rust.
--
-- Caps protect the money of a sub-account: all parties that act for it are bound together, and count together, whatever
-- their ids. A tenant that is removed, or replaced by another one, takes nothing of that away.
--
-- The rules are those of the configurations of all instances. Of several the stricter holds: an instance with an older
-- configuration raises nothing that a newer one lowered, whichever of them says so last.

-- Measures: 0 per call, 1 per hour, 2 per 24 hours, 3 per day, 4 count per hour, 5 to be approved above, 6 for no currency: a file
-- with caps for a call allows no currency without one.
CREATE TABLE cap_rule (
    -- A rule is known by the next six columns together. They can be longer than an index takes.
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shadow boolean NOT NULL,
    -- That of a sub-account (`cap_scope`), or '' for all together.
    scope text NOT NULL,
    measure smallint NOT NULL,
    -- '*': each currency but for those of `exempt`.
    currency text NOT NULL,
    -- The names under which calls are counted, with commas between them.
    calls text NOT NULL,
    -- The currencies that the same file has rules of their own for, with commas between them: 'USDT', or 'USDT:create_payout' for
    -- one of the calls only. Another file's rules for them lift nothing of this one.
    exempt text NOT NULL,
    amount numeric(38, 18) NOT NULL,
    -- When it ends, if it is removed.
    ends bigint,
    -- A higher limit, and from when on it holds.
    raised numeric(38, 18),
    raised_from bigint
);
-- A call reads the rules of its own sub-account and those over all, however many others there are.
CREATE INDEX cap_rule_scope ON cap_rule (scope);

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

-- The rules of each instance's configuration. Once the instance has given no sign of life for a minute they count no more, and
-- the row stays.
CREATE TABLE cap_claim (
    instance bigint PRIMARY KEY,
    -- The number of the instance's declaration, by which the instance sees whether its last one is still here, and by which an
    -- older one that comes late is recognized.
    number bigint NOT NULL,
    shadows boolean[] NOT NULL,
    scopes text[] NOT NULL,
    measures smallint[] NOT NULL,
    currencies text[] NOT NULL,
    calls text[] NOT NULL,
    exempts text[] NOT NULL,
    limits text[] NOT NULL,
    raise_ms bigint NOT NULL,
    -- The number of operators for an order that one alone may not give.
    approvers integer NOT NULL,
    -- When the instance was taken for dead; the arrays are empty then. Such a row stays for 400 days.
    gone bigint
);

-- The operators that have approved the changes of a scope that wait. The changes are named by their whole digest.
CREATE TABLE cap_raise_signature (
    changes bytea NOT NULL,
    operator text NOT NULL,
    at bigint NOT NULL,
    scope text NOT NULL,
    PRIMARY KEY (changes, operator)
);

-- The functions below that have no version are called with the search path set. But for the smallest they are in PL/pgSQL,
-- which keeps their plans: planning them for each call would take longer than the call.

-- The scope of a sub-account in `cap_rule` and `meter`. '' is that of all together; a call may name no account.
CREATE FUNCTION cap_scope(account text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$ SELECT CASE account WHEN '' THEN chr(31) ELSE account END $$;

-- Declarations and early raises come one after another, before any of them stops admissions: what one of them has found out
-- about the rules stays true until it ends.
CREATE FUNCTION declaring() RETURNS void
LANGUAGE plpgsql VOLATILE AS $$ BEGIN PERFORM pg_advisory_xact_lock(1734437989, 5); END $$;

CREATE FUNCTION sums_over_all() RETURNS boolean
LANGUAGE sql STABLE AS $$ SELECT EXISTS (SELECT FROM cap_rule AS c WHERE c.scope = '') $$;

-- The first rule that a call breaks: real rules before shadow rules, those that ask for approvals after the others. No row if
-- all hold.
CREATE FUNCTION cap_breach(
    at bigint, s_party text, s_account text, s_counted_as text, s_key text, currencies text[], amounts numeric[]
) RETURNS TABLE (o_shadow boolean, o_breach text, o_frees bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    own_scope text := cap_scope(s_account);
BEGIN
    RETURN QUERY
    WITH rule AS MATERIALIZED (
        SELECT c.*, string_to_array(c.calls, ',') AS names, string_to_array(c.exempt, ',') AS exempted,
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
        SELECT c.shadow, p.currency, c.scope, CASE c.measure WHEN 6 THEN -1 ELSE c.measure END AS measure, c.currency AS named,
            c.calls, c.exempt,
            CASE c.measure WHEN 6 THEN 'own ' || p.currency
                ELSE concat_ws(' ', CASE c.scope WHEN '' THEN 'all' ELSE 'own' END, p.currency, c.measure, c.most, r.room) END AS told,
            CASE WHEN c.measure IN (0, 5, 6) THEN NULL WHEN c.measure = 3 THEN (SELECT d.ends FROM day AS d)
                ELSE (u.oldest + 1) * w.ms + w.length END AS frees
        FROM part AS p
        JOIN rule AS c ON c.currency = p.currency
            OR c.currency = '*' AND p.currency <> ALL (c.exempted) AND p.currency || ':' || s_counted_as <> ALL (c.exempted)
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
            SELECT CASE c.measure WHEN 0 THEN 0 WHEN 5 THEN 0 WHEN 6 THEN 0 WHEN 4 THEN u.calls
                    ELSE u.amount - CASE WHEN i.inside THEN p.own ELSE 0 END END AS used,
                CASE c.measure WHEN 0 THEN p.amount WHEN 5 THEN p.amount WHEN 6 THEN p.amount WHEN 4 THEN CASE WHEN i.inside THEN 0 ELSE 1 END
                    ELSE CASE WHEN i.inside AND p.amount <= p.own THEN 0 ELSE greatest(p.amount, p.own) END END AS takes
        ) AS t
        CROSS JOIN LATERAL (SELECT greatest(c.most - t.used, 0) AS room) AS r
        WHERE t.takes > r.room
    )
    SELECT b.shadow, b.told, b.frees FROM breach AS b
    ORDER BY b.shadow, b.measure = 5, b.currency COLLATE "C", b.measure < 0 DESC, b.scope COLLATE "C", b.measure, b.named COLLATE "C",
        b.calls COLLATE "C", b.exempt COLLATE "C"
    LIMIT 1;
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

-- The same of a sub-account and of all together, from the index, however many others there are.
CREATE FUNCTION capped_calls_of_v1(c_account text) RETURNS TABLE (o_shadow boolean, o_scope text, o_calls text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    now bigint := now_ms();
    own_scope text := cap_scope(c_account);
BEGIN
    RETURN QUERY SELECT DISTINCT c.shadow, c.scope, c.calls FROM cap_rule AS c
    WHERE c.scope IN ('', own_scope) AND (c.ends IS NULL OR c.ends > now);
END
$$;

-- Puts the rules of all instances' configurations in force, after this instance has declared its own: lower ones at once,
-- higher ones after the longest `raise_ms`. Admissions stop only while rules change, and not at all if the rules in force are
-- these already. Nothing is changed by an older declaration that comes late, even if the instance was taken for dead meanwhile,
-- and by a declaration of an instance that has not joined or has left. Returns whether the declaration is taken.
CREATE FUNCTION declare_caps_v1(
    c_id bigint, c_number bigint,
    d_shadows boolean[], d_scopes text[], d_measures smallint[], d_currencies text[], d_calls text[], d_exempts text[],
    d_limits text[], d_midnights bigint[], raise_ms bigint, d_approvers integer
) RETURNS boolean
-- All rules are compared with all rules: never one by one, whatever the statistics of a table say that has just been filled.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET jit = off SET enable_nestloop = off AS $$
DECLARE
    now bigint;
    later bigint;
    summed boolean;
    known cap_delay;
    delay cap_delay;
    days bigint[];
    midnight bigint;
    ended bigint[];
    numbers bigint[];
    fewer boolean;
BEGIN
    PERFORM declaring();
    now := now_ms();
    IF NOT EXISTS (SELECT FROM instance AS n WHERE n.id = c_id) THEN
        RETURN false;
    END IF;
    INSERT INTO cap_claim AS k
    VALUES (c_id, c_number, d_shadows, d_scopes, d_measures, d_currencies, d_calls, d_exempts, d_limits, raise_ms, d_approvers)
    ON CONFLICT (instance) DO UPDATE SET number = excluded.number, shadows = excluded.shadows, scopes = excluded.scopes,
        measures = excluded.measures, currencies = excluded.currencies, calls = excluded.calls, exempts = excluded.exempts,
        limits = excluded.limits, raise_ms = excluded.raise_ms, approvers = excluded.approvers, gone = NULL
    WHERE k.number < excluded.number;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE cap_claim AS k SET gone = now, shadows = '{}', scopes = '{}', measures = '{}', currencies = '{}', calls = '{}',
        exempts = '{}', limits = '{}', raise_ms = 0, approvers = 0
    WHERE k.instance <> c_id AND k.gone IS NULL AND NOT claims_count(k.instance, now);
    DELETE FROM cap_claim AS k WHERE k.gone < now - 34560000000;
    SELECT max(k.raise_ms), max(k.approvers) INTO STRICT raise_ms, d_approvers FROM cap_claim AS k;
    -- What changes, of all these rules. First those that none of the configurations has.
    SELECT coalesce(array_agg(c.number), '{}') INTO STRICT ended
    FROM cap_rule AS c
    LEFT JOIN (
        SELECT DISTINCT d.shadow, d.scope, d.measure, d.currency, d.calls, d.exempt
        FROM cap_claim AS k, unnest(k.shadows, k.scopes, k.measures, k.currencies, k.calls, k.exempts)
            AS d(shadow, scope, measure, currency, calls, exempt)
    ) AS d ON d.shadow = c.shadow AND d.scope = c.scope AND d.measure = c.measure AND d.currency = c.currency
        AND d.calls = c.calls AND d.exempt = c.exempt
    WHERE c.ends IS NULL AND d.scope IS NULL;
    -- Then those that are new, or are to have another limit than the one they have or get.
    SELECT coalesce(array_agg(r.shadow), '{}'), coalesce(array_agg(r.scope), '{}'), coalesce(array_agg(r.measure), '{}'),
        coalesce(array_agg(r.currency), '{}'), coalesce(array_agg(r.calls), '{}'), coalesce(array_agg(r.exempt), '{}'),
        coalesce(array_agg(r.most), '{}'), coalesce(array_agg(c.number), '{}')
    INTO STRICT d_shadows, d_scopes, d_measures, d_currencies, d_calls, d_exempts, d_limits, numbers
    FROM (
        SELECT d.shadow, d.scope, d.measure, d.currency, d.calls, d.exempt, min(d.most::numeric)::text AS most
        FROM cap_claim AS k, unnest(k.shadows, k.scopes, k.measures, k.currencies, k.calls, k.exempts, k.limits)
            AS d(shadow, scope, measure, currency, calls, exempt, most)
        GROUP BY d.shadow, d.scope, d.measure, d.currency, d.calls, d.exempt
    ) AS r
    LEFT JOIN cap_rule AS c ON c.shadow = r.shadow AND c.scope = r.scope AND c.measure = r.measure AND c.currency = r.currency
        AND c.calls = r.calls AND c.exempt = r.exempt AND (c.ends IS NULL OR c.ends > now)
    WHERE c.number IS NULL OR c.ends IS NOT NULL OR coalesce(c.raised, c.amount) <> r.most::numeric;
    -- A shorter delay holds only once the longer one is over, while there are rules that it protects.
    SELECT * INTO known FROM cap_delay;
    delay := known;
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
    fewer := approvers_change(now, d_approvers, raise_ms);
    IF cardinality(ended) = 0 AND cardinality(d_scopes) = 0 AND NOT fewer AND delay IS NOT DISTINCT FROM known
        AND days = (SELECT coalesce(array_agg(m.ms ORDER BY m.ms), '{}') FROM cap_midnight AS m) THEN
        RETURN true;
    END IF;
    PERFORM admitting_nothing();
    summed := sums_over_all();
    IF fewer THEN
        PERFORM take_approvers(now, d_approvers, raise_ms);
    END IF;
    INSERT INTO cap_delay SELECT delay.* ON CONFLICT (one) DO UPDATE
    SET ms = excluded.ms, shorter = excluded.shorter, shorter_from = excluded.shorter_from;
    UPDATE cap_rule AS c SET amount = c.raised, raised = NULL, raised_from = NULL WHERE c.raised_from <= now;
    DELETE FROM cap_rule AS c WHERE c.ends <= now;
    UPDATE cap_rule AS c SET ends = later WHERE c.number = ANY (ended);
    UPDATE cap_rule AS c
    SET ends = NULL, amount = least(c.amount, d.most::numeric),
        raised = CASE WHEN d.most::numeric > c.amount THEN d.most::numeric END,
        raised_from = CASE WHEN d.most::numeric > c.amount THEN
            greatest(CASE WHEN c.raised >= d.most::numeric THEN c.raised_from ELSE later END, now) END
    FROM unnest(numbers, d_limits) AS d(number, most) WHERE c.number = d.number;
    INSERT INTO cap_rule (shadow, scope, measure, currency, calls, exempt, amount)
    SELECT d.shadow, d.scope, d.measure, d.currency, d.calls, d.exempt, d.most::numeric
    FROM unnest(d_shadows, d_scopes, d_measures, d_currencies, d_calls, d_exempts, d_limits, numbers)
        AS d(shadow, scope, measure, currency, calls, exempt, most, number)
    WHERE d.number IS NULL;
    DELETE FROM cap_midnight;
    INSERT INTO cap_midnight SELECT m FROM unnest(days) AS m;
    IF NOT summed AND sums_over_all() THEN
        DELETE FROM meter AS m WHERE m.scope = '';
        INSERT INTO meter
        SELECT '', m.counted_as, m.currency, m.grain, m.slice, sum(m.amount), sum(m.calls)
        FROM meter AS m GROUP BY m.counted_as, m.currency, m.grain, m.slice;
    END IF;
    RETURN true;
END
$$;

-- Whether an instance's last declaration is in force, beside those of other living instances only.
CREATE FUNCTION caps_stand_v1(c_id bigint, c_number bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    now bigint := now_ms();
BEGIN
    RETURN EXISTS (SELECT FROM cap_claim AS k WHERE k.instance = c_id AND k.number = c_number AND k.gone IS NULL)
        AND NOT EXISTS (SELECT FROM cap_claim AS k WHERE k.instance <> c_id AND k.gone IS NULL AND NOT claims_count(k.instance, now));
END
$$;

-- An operator's approval of the changes of a scope that wait: with those of as many different operators as the store has in
-- force, or as the caller says if that is more, they hold at once, and not only later. An approval is good for a day. Results:
-- 0 taken, 1 these are not the changes that wait.
CREATE FUNCTION raise_caps_v1(
    c_raise bytea, c_scope text, c_by text, needed integer,
    r_shadows boolean[], r_measures smallint[], r_currencies text[], r_calls text[], r_exempts text[], r_limits text[],
    r_raised text[], r_removed boolean[]
) RETURNS smallint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    now bigint;
    signed bigint;
BEGIN
    PERFORM declaring();
    PERFORM admitting_nothing();
    now := now_ms();
    IF EXISTS (
        WITH shown AS (
            SELECT r.shadow, r.measure, r.currency, r.calls, r.exempt, r.most::numeric AS most, r.raised::numeric AS raised,
                r.removed
            FROM unnest(r_shadows, r_measures, r_currencies, r_calls, r_exempts, r_limits, r_raised, r_removed)
                AS r(shadow, measure, currency, calls, exempt, most, raised, removed)
        ), waiting AS (
            SELECT c.shadow, c.measure, c.currency, c.calls, c.exempt,
                CASE WHEN c.raised_from <= now THEN c.raised ELSE c.amount END AS most,
                CASE WHEN c.raised_from > now THEN c.raised END AS raised, c.ends IS NOT NULL AS removed
            FROM cap_rule AS c
            WHERE c.scope = c_scope AND (c.ends IS NULL OR c.ends > now) AND (c.raised_from > now OR c.ends IS NOT NULL)
        )
        (SELECT * FROM shown EXCEPT SELECT * FROM waiting) UNION ALL (SELECT * FROM waiting EXCEPT SELECT * FROM shown)
    ) THEN
        RETURN 1;
    END IF;
    DELETE FROM cap_raise_signature AS s WHERE s.at <= now - 86400000;
    INSERT INTO cap_raise_signature VALUES (c_raise, c_by, now, c_scope) ON CONFLICT (changes, operator) DO NOTHING;
    SELECT count(*) INTO signed FROM cap_raise_signature AS s WHERE s.changes = c_raise;
    IF signed >= greatest(needed, approvers_needed(now)) THEN
        UPDATE cap_rule AS c
        SET amount = coalesce(c.raised, c.amount), raised = NULL, raised_from = NULL,
            ends = CASE WHEN c.ends > now THEN now ELSE c.ends END
        WHERE c.scope = c_scope;
        -- Nothing waits for the scope any more. Of a rule that was removed the statement above changes only the time.
        DELETE FROM cap_raise_signature AS s WHERE s.scope = c_scope;
    END IF;
    RETURN 0;
END
$$;

-- Signatures are for the changes that their operators were shown. Once others wait for the scope they are forgotten, so that
-- they do not stand if the same changes come back from elsewhere. Whatever writes rules does this: it hangs on the table.
CREATE FUNCTION forget_raise_signatures() RETURNS trigger
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    now bigint;
BEGIN
    -- Nearly always there are none, and the rules need not be compared.
    IF NOT EXISTS (SELECT FROM cap_raise_signature) THEN
        RETURN NULL;
    END IF;
    now := now_ms();
    IF TG_OP = 'INSERT' THEN
        DELETE FROM cap_raise_signature AS s
        WHERE EXISTS (SELECT FROM after AS c WHERE c.scope = s.scope AND (c.raised_from > now OR c.ends > now));
    ELSIF TG_OP = 'DELETE' THEN
        DELETE FROM cap_raise_signature AS s
        WHERE EXISTS (SELECT FROM before AS c WHERE c.scope = s.scope AND (c.raised_from > now OR c.ends > now));
    ELSE
        DELETE FROM cap_raise_signature AS s
        WHERE EXISTS (
            SELECT FROM before AS b
            JOIN after AS c ON (c.shadow, c.scope, c.measure, c.currency, c.calls, c.exempt)
                = (b.shadow, b.scope, b.measure, b.currency, b.calls, b.exempt)
            WHERE b.scope = s.scope
                AND (b.raised_from > now OR b.ends IS NOT NULL OR c.raised_from > now OR c.ends IS NOT NULL)
                AND (b.amount, b.raised, b.ends IS NULL) IS DISTINCT FROM (c.amount, c.raised, c.ends IS NULL));
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER new_rules_forget_signatures AFTER INSERT ON cap_rule
REFERENCING NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION forget_raise_signatures();
CREATE TRIGGER old_rules_forget_signatures AFTER DELETE ON cap_rule
REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION forget_raise_signatures();
CREATE TRIGGER other_rules_forget_signatures AFTER UPDATE ON cap_rule
REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION forget_raise_signatures();
