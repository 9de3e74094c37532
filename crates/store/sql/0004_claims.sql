-- What the configurations of all instances say about caps and lists of destinations. Of several the stricter holds: an instance
-- with an older configuration raises nothing that a newer one lowered, whichever of them says so last.

-- The rules of each instance's configuration. A row is gone once its instance gave no sign of life for a minute.
CREATE TABLE cap_claim (
    instance bigint PRIMARY KEY,
    -- Counts the declarations of the instance, so that it sees whether its last one is still here.
    number bigint NOT NULL,
    shadows boolean[] NOT NULL,
    scopes text[] NOT NULL,
    measures smallint[] NOT NULL,
    currencies text[] NOT NULL,
    calls text[] NOT NULL,
    limits text[] NOT NULL,
    raise_ms bigint NOT NULL
);

-- The same of destinations.
CREATE TABLE destination_claim (
    instance bigint PRIMARY KEY,
    number bigint NOT NULL,
    accounts text[] NOT NULL,
    listed boolean[] NOT NULL,
    holds bigint[] NOT NULL,
    target_accounts text[] NOT NULL,
    targets text[] NOT NULL
);

-- Whether the claims of an instance count at a time.
CREATE FUNCTION claims_count(c_instance bigint, at bigint) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM instance AS n WHERE n.id = c_instance AND n.seen > at - 60000);
END
$$;

-- Puts the rules of all instances' configurations in force, after this instance has declared its own: lower ones at once,
-- higher ones after the longest `raise_ms`.
CREATE FUNCTION declare_caps_v2(
    c_id bigint, c_number bigint,
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
    INSERT INTO cap_claim AS k
    VALUES (c_id, c_number, d_shadows, d_scopes, d_measures, d_currencies, d_calls, d_limits, raise_ms)
    ON CONFLICT (instance) DO UPDATE SET number = excluded.number, shadows = excluded.shadows, scopes = excluded.scopes,
        measures = excluded.measures, currencies = excluded.currencies, calls = excluded.calls, limits = excluded.limits,
        raise_ms = excluded.raise_ms;
    DELETE FROM cap_claim AS k WHERE k.instance <> c_id AND NOT claims_count(k.instance, now);
    SELECT coalesce(array_agg(r.shadow), '{}'), coalesce(array_agg(r.scope), '{}'), coalesce(array_agg(r.measure), '{}'),
        coalesce(array_agg(r.currency), '{}'), coalesce(array_agg(r.calls), '{}'), coalesce(array_agg(r.most), '{}')
    INTO STRICT d_shadows, d_scopes, d_measures, d_currencies, d_calls, d_limits
    FROM (
        SELECT d.shadow, d.scope, d.measure, d.currency, d.calls, min(d.most::numeric)::text AS most
        FROM cap_claim AS k, unnest(k.shadows, k.scopes, k.measures, k.currencies, k.calls, k.limits)
            AS d(shadow, scope, measure, currency, calls, most)
        GROUP BY d.shadow, d.scope, d.measure, d.currency, d.calls
    ) AS r;
    SELECT max(k.raise_ms) INTO STRICT raise_ms FROM cap_claim AS k;
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

-- Whether the last declaration of an instance is in force, with those of all other instances that are alive and no more.
CREATE FUNCTION caps_stand_v1(c_id bigint, c_number bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    now bigint := now_ms();
BEGIN
    RETURN EXISTS (SELECT FROM cap_claim AS k WHERE k.instance = c_id AND k.number = c_number)
        AND NOT EXISTS (SELECT FROM cap_claim AS k WHERE k.instance <> c_id AND NOT claims_count(k.instance, now));
END
$$;

-- The list of one sub-account: the destinations of all tenants that act for it.
CREATE TABLE account_list (
    account text PRIMARY KEY,
    -- Whether money goes to listed destinations only.
    listed boolean NOT NULL,
    -- How long a new destination waits, in milliseconds.
    hold bigint NOT NULL,
    -- A shorter hold, and from when on it holds.
    shorter bigint,
    shorter_from bigint,
    -- When a list ends that is no longer configured.
    opens bigint
);

CREATE TABLE account_destination (
    account text NOT NULL,
    target text NOT NULL,
    first_loaded bigint NOT NULL,
    usable_from bigint NOT NULL,
    PRIMARY KEY (account, target)
);

-- `destination_list` and `destination` are those of older programs, which use them until they end.
INSERT INTO account_list
SELECT l.account, bool_or(l.listed), max(l.hold), NULL, NULL,
    CASE WHEN bool_and(l.opens IS NOT NULL OR NOT l.listed) THEN max(l.opens) END
FROM destination_list AS l GROUP BY l.account;
INSERT INTO account_destination
SELECT t.account, t.target, min(t.first_loaded), min(t.usable_from) FROM destination AS t GROUP BY t.account, t.target;

-- Takes over the destinations of all instances' configurations, after this instance has declared its own: what one of them
-- lacks is gone at once, what is new waits.
CREATE FUNCTION declare_destinations_v2(
    c_id bigint, c_number bigint,
    d_accounts text[], d_listed boolean[], d_holds bigint[], t_accounts text[], t_targets text[]
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    now bigint;
BEGIN
    LOCK TABLE account_list IN SHARE ROW EXCLUSIVE MODE;
    now := now_ms();
    INSERT INTO destination_claim AS k VALUES (c_id, c_number, d_accounts, d_listed, d_holds, t_accounts, t_targets)
    ON CONFLICT (instance) DO UPDATE SET number = excluded.number, accounts = excluded.accounts, listed = excluded.listed,
        holds = excluded.holds, target_accounts = excluded.target_accounts, targets = excluded.targets;
    DELETE FROM destination_claim AS k WHERE k.instance <> c_id AND NOT claims_count(k.instance, now);
    -- A destination counts if every configuration with a list of the sub-account has it.
    SELECT coalesce(array_agg(r.account), '{}'), coalesce(array_agg(r.target), '{}') INTO STRICT t_accounts, t_targets
    FROM (
        SELECT t.account, t.target
        FROM destination_claim AS k, unnest(k.target_accounts, k.targets) AS t(account, target)
        GROUP BY t.account, t.target
        HAVING count(*) = (SELECT count(*) FROM destination_claim AS o WHERE t.account = ANY (o.accounts))
    ) AS r;
    SELECT coalesce(array_agg(r.account), '{}'), coalesce(array_agg(r.listed), '{}'), coalesce(array_agg(r.hold), '{}')
    INTO STRICT d_accounts, d_listed, d_holds
    FROM (
        SELECT d.account, bool_or(d.listed) AS listed, max(d.hold) AS hold
        FROM destination_claim AS k, unnest(k.accounts, k.listed, k.holds) AS d(account, listed, hold)
        GROUP BY d.account
    ) AS r;
    UPDATE account_list AS l SET hold = l.shorter, shorter = NULL, shorter_from = NULL WHERE l.shorter_from <= now;
    UPDATE account_list AS l SET listed = false, opens = NULL WHERE l.opens <= now;
    DELETE FROM account_destination AS t WHERE NOT EXISTS (
        SELECT FROM unnest(t_accounts, t_targets) AS d(account, target) WHERE d.account = t.account AND d.target = t.target);
    DELETE FROM account_list AS l WHERE NOT l.listed AND l.account <> ALL (d_accounts);
    UPDATE account_list AS l SET opens = now + l.hold
    WHERE l.listed AND l.opens IS NULL AND NOT EXISTS (
        SELECT FROM unnest(d_accounts, d_listed) AS d(account, listed) WHERE d.account = l.account AND d.listed);
    INSERT INTO account_list AS l
    SELECT d.account, d.listed, d.hold, NULL, NULL, NULL
    FROM unnest(d_accounts, d_listed, d_holds) AS d(account, listed, hold)
    ON CONFLICT (account) DO UPDATE
    SET listed = l.listed OR excluded.listed,
        opens = CASE WHEN NOT excluded.listed THEN l.opens END,
        hold = greatest(l.hold, excluded.hold),
        shorter = CASE WHEN excluded.hold < l.hold THEN excluded.hold END,
        shorter_from = CASE WHEN excluded.hold < l.hold THEN
            CASE WHEN l.shorter <= excluded.hold THEN l.shorter_from ELSE now + l.hold END END;
    UPDATE account_destination AS t SET usable_from = greatest(t.usable_from, t.first_loaded + l.hold)
    FROM account_list AS l WHERE l.account = t.account AND t.usable_from > now;
    INSERT INTO account_destination
    SELECT d.account, d.target, now, now + l.hold
    FROM unnest(t_accounts, t_targets) AS d(account, target)
    JOIN account_list AS l ON l.account = d.account
    ON CONFLICT (account, target) DO NOTHING;
    UPDATE destination_epoch SET number = number + 1;
END
$$;

-- Whether the last declaration of an instance is in force, with those of all other instances that are alive and no more.
CREATE FUNCTION destinations_stand_v1(c_id bigint, c_number bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    now bigint := now_ms();
BEGIN
    RETURN EXISTS (SELECT FROM destination_claim AS k WHERE k.instance = c_id AND k.number = c_number)
        AND NOT EXISTS (SELECT FROM destination_claim AS k WHERE k.instance <> c_id AND NOT claims_count(k.instance, now));
END
$$;
