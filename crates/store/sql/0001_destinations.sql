-- Destinations: where the money of sub-accounts may go, and from when on. The rules are those of
-- `destinations::DestinationBook` in Rust.
--
-- The lists are those of the configurations of all instances. Of several the stricter holds, as with caps.

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

-- The lists of each instance's configuration. A row is gone once its instance gave no sign of life for a minute.
CREATE TABLE destination_claim (
    instance bigint PRIMARY KEY,
    -- As in `cap_claim`.
    number bigint NOT NULL,
    accounts text[] NOT NULL,
    listed boolean[] NOT NULL,
    holds bigint[] NOT NULL,
    target_accounts text[] NOT NULL,
    targets text[] NOT NULL
);

-- Counts declarations, so that an instance sees those of others.
CREATE TABLE destination_epoch (one boolean PRIMARY KEY CHECK (one), number bigint NOT NULL);
INSERT INTO destination_epoch VALUES (true, 0);

-- Takes over the destinations of all instances' configurations, after this instance has declared its own: what one of them
-- lacks is gone at once, what is new waits.
CREATE FUNCTION declare_destinations_v1(
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
