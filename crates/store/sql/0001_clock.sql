-- The clocks of the store.
--
-- `wall_ms` is the server's clock as it stands. It judges stamps, which callers make by their own clocks, guards, and signs of
-- life as other instances see them. Whatever counts days, waits or ages goes by `now_ms`, the store's time: the server's clock
-- without its steps. `StoreClock` in Rust is the same rules.
--
-- A step is seen by the instances that were there: their own monotonic clocks tell how much time has passed since their last
-- signs of life. So the store's time never runs faster than real time while any instance is alive. A step does not count as
-- time before an operator accepts it (`store distrust`), or before the instances have run with it for 25 hours: by then
-- all that was counted, held or granted for a day is over in real time as well. What no instance has seen cannot be told from
-- a silence, and counts as time; after more than a day of it nothing is deleted for its age for the next 25 hours.

CREATE TABLE store_clock (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- The server's clock and the store's time at the last sign of life of any instance.
    wall bigint NOT NULL,
    steady bigint NOT NULL,
    -- Since when, in the store's time, the two have been more than 10 s apart.
    apart_since bigint,
    -- Whether an instance saw the step that put them apart.
    is_witnessed boolean NOT NULL DEFAULT false,
    -- Nothing is deleted for its age before this, in the store's time.
    keeps_until bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 100);

CREATE FUNCTION wall_ms() RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$;

-- Its one row is read by its key: functions that plan without sequential scans use these.

-- The store's time, in milliseconds since 1970. Between two signs of life the server's clock counts for 5 s at most.
CREATE FUNCTION now_ms() RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    read_wall bigint := wall_ms();
BEGIN
    RETURN coalesce((SELECT c.steady + least(greatest(read_wall - c.wall, 0), 5000) FROM store_clock AS c WHERE c.one), read_wall);
END
$$;

-- The store's time for deleting what is older than some age: 0, so that nothing is, while the clock is in doubt.
CREATE FUNCTION deleting_ms() RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    now bigint := now_ms();
BEGIN
    RETURN CASE WHEN EXISTS (
            SELECT FROM store_clock AS c WHERE c.one AND (c.apart_since IS NOT NULL OR c.keeps_until > now)
        ) THEN 0
        ELSE now END;
END
$$;

-- Takes the store's time back. What was scheduled or claimed for a time that does not come soon is due at once.
CREATE FUNCTION take_time_back(next bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
BEGIN
    PERFORM lock_approvals(next);
    UPDATE approval AS a SET until = next WHERE a.state IN (0, 1) AND a.until > next;
    PERFORM notifying();
    UPDATE instance AS n SET steady = next WHERE n.steady > next;
    UPDATE event AS e SET next_at = next WHERE e.state = 'waiting' AND e.next_at > next;
    UPDATE event AS e SET decide_at = next WHERE e.state = 'quarantined' AND e.decide_at > next;
    UPDATE line AS l SET next_at = next WHERE l.next_at > next;
    UPDATE endpoint AS p SET claimed_by = NULL, claimed_until = 0, open_until = NULL, next_at = least(p.next_at, next)
    WHERE p.claimed_until > next OR p.open_until > next OR p.next_at > next;
END
$$;

-- Accepts the server's clock as it stands.
CREATE FUNCTION accept_clock() RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    before bigint;
    read_wall bigint;
BEGIN
    SELECT c.steady INTO before FROM store_clock AS c WHERE c.one FOR UPDATE;
    read_wall := wall_ms();
    UPDATE store_clock AS c SET wall = read_wall, steady = read_wall, apart_since = NULL, is_witnessed = false, keeps_until = 0
    WHERE c.one;
    IF read_wall < before THEN
        PERFORM take_time_back(read_wall);
    END IF;
END
$$;

-- Advances the store's time with a sign of life, twice a second at most. `n_wall` and `n_steady` are the server's clock and the
-- store's time at the instance's sign of life before, and `n_silent` is the time since then by the instance's monotonic clock:
-- the store's time advances by no more than that. All three are NULL if the instance has given none.
--
-- Returns whether it did. If not, the instance tells the same again with its next sign, so that a step it saw is not lost.
CREATE FUNCTION tick_clock(n_wall bigint, n_steady bigint, n_silent bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    known store_clock%ROWTYPE;
    read_wall bigint := wall_ms();
    -- The step of the server's clock that the instance saw.
    stepped bigint := read_wall - n_wall - n_silent;
    passed bigint;
    credit bigint := 0;
    next bigint;
    apart bigint;
    is_silence boolean;
BEGIN
    -- A sign that saw a step tells of it also if one that did not, of a new instance, came just before.
    IF (abs(stepped) > 10000) IS NOT TRUE
        AND EXISTS (SELECT FROM store_clock AS c WHERE c.one AND read_wall BETWEEN c.wall AND c.wall + 499) THEN
        RETURN false;
    END IF;
    -- No sign of life waits for another one's commit.
    SELECT * INTO known FROM store_clock AS c WHERE c.one FOR UPDATE SKIP LOCKED;
    read_wall := wall_ms();
    IF known.wall IS NULL THEN
        INSERT INTO store_clock (wall, steady) VALUES (read_wall, read_wall) ON CONFLICT DO NOTHING;
        RETURN FOUND;
    END IF;
    stepped := read_wall - n_wall - n_silent;
    passed := greatest(read_wall - known.wall, 0);
    IF stepped IS NOT NULL THEN
        passed := n_steady + n_silent - known.steady;
        IF read_wall >= known.wall THEN
            passed := least(passed, read_wall - known.wall);
        END IF;
        passed := greatest(passed, 0);
    ELSIF EXISTS (SELECT FROM instance) THEN
        -- Others may be alive, and have seen more.
        passed := least(passed, 10000);
        credit := passed;
    END IF;
    is_silence := stepped IS NULL AND passed > 86400000;
    next := known.steady + passed;
    apart := read_wall - next;
    IF abs(apart) <= 10000 THEN
        next := next + greatest(least(apart, passed / 20), -passed / 20);
        known.apart_since := NULL;
        known.is_witnessed := false;
    ELSE
        known.is_witnessed := known.is_witnessed OR stepped IS NOT NULL
            AND (known.apart_since IS NULL OR abs(stepped) > 10000);
        -- The time that a newcomer takes for a silence does not count as time in which instances ran with the step.
        known.apart_since := coalesce(known.apart_since + credit, next);
        -- The first step back after a long silence shows that the silence was a step.
        IF apart < 0 AND next < known.keeps_until OR apart >= -86400000
            AND next - known.apart_since >= (CASE WHEN known.is_witnessed THEN 90000000 ELSE 10000 END) THEN
            is_silence := apart > 86400000 AND NOT known.is_witnessed;
            next := read_wall;
            known.apart_since := NULL;
            known.is_witnessed := false;
            IF apart < 0 THEN
                known.keeps_until := 0;
                PERFORM take_time_back(next);
            END IF;
        END IF;
    END IF;
    UPDATE store_clock AS c SET wall = read_wall, steady = next, apart_since = known.apart_since,
        is_witnessed = known.is_witnessed,
        keeps_until = CASE WHEN is_silence THEN next + 90000000 ELSE known.keeps_until END
    WHERE c.one;
    RETURN true;
END
$$;
