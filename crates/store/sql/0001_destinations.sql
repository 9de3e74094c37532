-- Destinations: where tenants' money may go, and from when on. The rules are those of `destinations::DestinationBook` in Rust.

-- The list of one tenant with one sub-account.
CREATE TABLE destination_list (
    party text NOT NULL,
    account text NOT NULL,
    -- Whether money goes to listed destinations only.
    listed boolean NOT NULL,
    -- How long a new destination waits, in milliseconds.
    hold bigint NOT NULL,
    -- A shorter hold, and from when on it holds.
    shorter bigint,
    shorter_from bigint,
    -- When a list ends that is no longer configured.
    opens bigint,
    PRIMARY KEY (party, account)
);

CREATE TABLE destination (
    party text NOT NULL,
    account text NOT NULL,
    target text NOT NULL,
    first_loaded bigint NOT NULL,
    usable_from bigint NOT NULL,
    PRIMARY KEY (party, account, target)
);

-- Counts declarations, so that an instance sees those of others.
CREATE TABLE destination_epoch (one boolean PRIMARY KEY CHECK (one), number bigint NOT NULL);
INSERT INTO destination_epoch VALUES (true, 0);

-- Takes over the destinations of a configuration: what is removed is gone at once, what is new waits.
CREATE FUNCTION declare_destinations_v1(
    d_parties text[], d_accounts text[], d_listed boolean[], d_holds bigint[],
    t_parties text[], t_accounts text[], t_targets text[]
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    now bigint;
BEGIN
    LOCK TABLE destination_list IN SHARE ROW EXCLUSIVE MODE;
    now := now_ms();
    UPDATE destination_list AS l SET hold = l.shorter, shorter = NULL, shorter_from = NULL WHERE l.shorter_from <= now;
    UPDATE destination_list AS l SET listed = false, opens = NULL WHERE l.opens <= now;
    DELETE FROM destination AS t WHERE NOT EXISTS (
        SELECT FROM unnest(t_parties, t_accounts, t_targets) AS d(party, account, target)
        WHERE d.party = t.party AND d.account = t.account AND d.target = t.target);
    DELETE FROM destination_list AS l WHERE NOT l.listed AND NOT EXISTS (
        SELECT FROM unnest(d_parties, d_accounts) AS d(party, account) WHERE d.party = l.party AND d.account = l.account);
    UPDATE destination_list AS l SET opens = now + l.hold
    WHERE l.listed AND l.opens IS NULL AND NOT EXISTS (
        SELECT FROM unnest(d_parties, d_accounts, d_listed) AS d(party, account, listed)
        WHERE d.party = l.party AND d.account = l.account AND d.listed);
    INSERT INTO destination_list AS l
    SELECT d.party, d.account, d.listed, d.hold, NULL, NULL, NULL
    FROM unnest(d_parties, d_accounts, d_listed, d_holds) AS d(party, account, listed, hold)
    ON CONFLICT (party, account) DO UPDATE
    SET listed = l.listed OR excluded.listed,
        opens = CASE WHEN NOT excluded.listed THEN l.opens END,
        hold = greatest(l.hold, excluded.hold),
        shorter = CASE WHEN excluded.hold < l.hold THEN excluded.hold END,
        shorter_from = CASE WHEN excluded.hold < l.hold THEN
            CASE WHEN l.shorter <= excluded.hold THEN l.shorter_from ELSE now + l.hold END END;
    UPDATE destination AS t SET usable_from = greatest(t.usable_from, t.first_loaded + l.hold)
    FROM destination_list AS l WHERE l.party = t.party AND l.account = t.account AND t.usable_from > now;
    INSERT INTO destination
    SELECT d.party, d.account, d.target, now, now + l.hold
    FROM unnest(t_parties, t_accounts, t_targets) AS d(party, account, target)
    JOIN destination_list AS l ON l.party = d.party AND l.account = d.account
    ON CONFLICT (party, account, target) DO NOTHING;
    UPDATE destination_epoch SET number = number + 1;
END
$$;
