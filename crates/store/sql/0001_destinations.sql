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

-- The lists of each instance's configuration, as in `cap_claim`.
CREATE TABLE destination_claim (
    instance bigint PRIMARY KEY,
    -- As in `cap_claim`.
    number bigint NOT NULL,
    accounts text[] NOT NULL,
    listed boolean[] NOT NULL,
    holds bigint[] NOT NULL,
    target_accounts text[] NOT NULL,
    targets text[] NOT NULL,
    -- As in `cap_claim`.
    gone bigint
);

-- Counts the changes of lists, so that an instance sees those of others.
CREATE TABLE destination_epoch (one boolean PRIMARY KEY CHECK (one), number bigint NOT NULL);
INSERT INTO destination_epoch VALUES (true, 0);

-- Takes over the destinations of all instances' configurations, after this instance has declared its own: what one of them
-- lacks is gone at once, what is new waits. Each part writes only what differs, and the lists have another number only if one of
-- them has changed: every instance declares again when one joins or leaves. Declarations that come late, and the answer, are as
-- with `declare_caps_v1`.
CREATE FUNCTION declare_destinations_v1(
    c_id bigint, c_number bigint,
    d_accounts text[], d_listed boolean[], d_holds bigint[], t_accounts text[], t_targets text[]
) RETURNS boolean
-- All lists are compared with all lists: never one by one, whatever the statistics of a table say that has just been filled.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET jit = off SET enable_nestloop = off AS $$
DECLARE
    now bigint;
    same boolean;
    fewer boolean;
    changed boolean;
BEGIN
    LOCK TABLE account_list IN SHARE ROW EXCLUSIVE MODE;
    now := now_ms();
    IF NOT EXISTS (SELECT FROM instance AS n WHERE n.id = c_id) THEN
        RETURN false;
    END IF;
    UPDATE destination_claim AS k SET number = c_number
    WHERE k.instance = c_id AND k.number < c_number AND k.gone IS NULL AND k.accounts = d_accounts AND k.listed = d_listed AND k.holds = d_holds
        AND k.target_accounts = t_accounts AND k.targets = t_targets;
    same := FOUND;
    IF NOT same THEN
        INSERT INTO destination_claim AS k VALUES (c_id, c_number, d_accounts, d_listed, d_holds, t_accounts, t_targets)
        ON CONFLICT (instance) DO UPDATE SET number = excluded.number, accounts = excluded.accounts, listed = excluded.listed,
            holds = excluded.holds, target_accounts = excluded.target_accounts, targets = excluded.targets, gone = NULL
        WHERE k.number < excluded.number;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
    END IF;
    UPDATE destination_claim AS k
    SET gone = now, accounts = '{}', listed = '{}', holds = '{}', target_accounts = '{}', targets = '{}'
    WHERE k.instance <> c_id AND k.gone IS NULL AND NOT claims_count(k.instance, now);
    fewer := FOUND;
    DELETE FROM destination_claim AS k WHERE k.gone < now - 34560000000;
    -- The claims are unchanged, and so are the lists unless a time has come.
    IF same AND NOT fewer AND NOT EXISTS (SELECT FROM account_list AS l WHERE l.shorter_from <= now OR l.opens <= now) THEN
        RETURN true;
    END IF;
    -- A destination counts if every configuration with a list of the sub-account has it.
    SELECT coalesce(array_agg(t.account), '{}'), coalesce(array_agg(t.target), '{}') INTO STRICT t_accounts, t_targets
    FROM (
        SELECT u.account, u.target, count(*) AS claims
        FROM destination_claim AS k, unnest(k.target_accounts, k.targets) AS u(account, target)
        GROUP BY u.account, u.target
    ) AS t
    JOIN (
        SELECT u.account, count(*) AS claims FROM destination_claim AS k, unnest(k.accounts) AS u(account) GROUP BY u.account
    ) AS n ON n.account = t.account AND n.claims = t.claims;
    SELECT coalesce(array_agg(r.account), '{}'), coalesce(array_agg(r.listed), '{}'), coalesce(array_agg(r.hold), '{}')
    INTO STRICT d_accounts, d_listed, d_holds
    FROM (
        SELECT d.account, bool_or(d.listed) AS listed, max(d.hold) AS hold
        FROM destination_claim AS k, unnest(k.accounts, k.listed, k.holds) AS d(account, listed, hold)
        GROUP BY d.account
    ) AS r;
    UPDATE account_list AS l SET hold = l.shorter, shorter = NULL, shorter_from = NULL WHERE l.shorter_from <= now;
    changed := FOUND;
    UPDATE account_list AS l SET listed = false, opens = NULL WHERE l.opens <= now;
    changed := changed OR FOUND;
    DELETE FROM account_destination AS t WHERE NOT EXISTS (
        SELECT FROM unnest(t_accounts, t_targets) AS d(account, target) WHERE d.account = t.account AND d.target = t.target);
    changed := changed OR FOUND;
    DELETE FROM account_list AS l WHERE NOT l.listed AND NOT EXISTS (
        SELECT FROM unnest(d_accounts) AS d(account) WHERE d.account = l.account);
    changed := changed OR FOUND;
    UPDATE account_list AS l SET opens = now + l.hold
    WHERE l.listed AND l.opens IS NULL AND NOT EXISTS (
        SELECT FROM unnest(d_accounts, d_listed) AS d(account, listed) WHERE d.account = l.account AND d.listed);
    changed := changed OR FOUND;
    UPDATE account_list AS l
    SET listed = n.listed, opens = n.opens, hold = n.hold, shorter = n.shorter, shorter_from = n.shorter_from
    FROM (
        SELECT k.account, k.listed OR d.listed AS listed, CASE WHEN NOT d.listed THEN k.opens END AS opens,
            greatest(k.hold, d.hold) AS hold, CASE WHEN d.hold < k.hold THEN d.hold END AS shorter,
            CASE WHEN d.hold < k.hold THEN
                CASE WHEN k.shorter <= d.hold THEN k.shorter_from ELSE now + k.hold END END AS shorter_from
        FROM unnest(d_accounts, d_listed, d_holds) AS d(account, listed, hold)
        JOIN account_list AS k ON k.account = d.account
    ) AS n
    WHERE n.account = l.account AND (l.listed, l.opens, l.hold, l.shorter, l.shorter_from)
        IS DISTINCT FROM (n.listed, n.opens, n.hold, n.shorter, n.shorter_from);
    changed := changed OR FOUND;
    INSERT INTO account_list
    SELECT d.account, d.listed, d.hold, NULL, NULL, NULL
    FROM unnest(d_accounts, d_listed, d_holds) AS d(account, listed, hold)
    WHERE NOT EXISTS (SELECT FROM account_list AS l WHERE l.account = d.account);
    changed := changed OR FOUND;
    UPDATE account_destination AS t SET usable_from = t.first_loaded + l.hold
    FROM account_list AS l
    WHERE l.account = t.account AND t.usable_from > now AND t.usable_from < t.first_loaded + l.hold;
    changed := changed OR FOUND;
    INSERT INTO account_destination
    SELECT d.account, d.target, now, now + l.hold
    FROM unnest(t_accounts, t_targets) AS d(account, target)
    JOIN account_list AS l ON l.account = d.account
    WHERE NOT EXISTS (
        SELECT FROM account_destination AS t WHERE t.account = d.account AND t.target = d.target);
    changed := changed OR FOUND;
    IF changed THEN
        UPDATE destination_epoch SET number = number + 1;
    END IF;
    RETURN true;
END
$$;

-- Whether an instance's last declaration is in force, beside those of other living instances only.
CREATE FUNCTION destinations_stand_v1(c_id bigint, c_number bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    now bigint := now_ms();
BEGIN
    RETURN EXISTS (SELECT FROM destination_claim AS k WHERE k.instance = c_id AND k.number = c_number AND k.gone IS NULL)
        AND NOT EXISTS (SELECT FROM destination_claim AS k WHERE k.instance <> c_id AND k.gone IS NULL
            AND NOT claims_count(k.instance, now));
END
$$;
