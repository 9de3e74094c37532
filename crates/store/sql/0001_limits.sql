-- Limits across instances: stocks of tokens, seats, and leases of the institution's rate.
--
-- All tables are unlogged, so that commits wait neither for the disk nor for a standby. A crash, a failover or a restore
-- empties them or brings them back as they were; either begins another era, in which nothing is lent until the loans of
-- the last one have ended, or every instance has said that its own have. Push-backs of GatePay's are kept over it.
-- `crates/store/src/limits/model.rs` is the same rules in Rust, held to this by tests.
--
-- Every call locks the one row of `limit_clock` first: calls follow each other, and none waits for a second lock. So the
-- time of one is the wait of all, and the functions keep their plans, as `admit_v1` does.

-- The clock of the limits, in milliseconds since the era began. Instances call several times a second, so a step of
-- `wall` backward, or of more than 500 ms forward, is a step of the server's clock or a silence. Neither counts as time:
-- no bucket fills by it, and no loan ends by it.
CREATE UNLOGGED TABLE limit_clock (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    era bigint NOT NULL,
    life bigint NOT NULL,
    wall bigint NOT NULL,
    ticked bigint NOT NULL,
    -- Whether no loan of an earlier era is in use, so that all may be lent.
    opened boolean NOT NULL DEFAULT false,
    -- When tokens and leases are lent: 2 s after the era began, or once it was opened. Buckets fill from then on, since
    -- tokens of the last era may have been used until then.
    lends_from bigint NOT NULL DEFAULT 2000,
    -- Whether the era began in a guard: rows of instances may be lost then.
    guarded boolean NOT NULL DEFAULT false,
    -- The latest time by `wall` at which an instance is known to have had an answer of the era before.
    heard bigint,
    -- When the last sweep ended, and the last tenant of the one that is under way.
    swept bigint NOT NULL,
    swept_to text NOT NULL DEFAULT ''
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 1000);

-- A row once limits were used. Logged, so that it outlives a crash.
CREATE TABLE limit_use (
    one boolean PRIMARY KEY DEFAULT true CHECK (one)
);

-- The instances that use limits: the number of their last call, and when it came.
CREATE UNLOGGED TABLE limit_member (
    id bigint PRIMARY KEY,
    serial bigint NOT NULL,
    seen bigint NOT NULL,
    -- Whether it has declared its seats in this era, and uses no loan of an earlier one.
    declared boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 1000);

-- The tokens of a limit that are not lent, and the figures in force since `at`. The tokens and all that is held are
-- never more than the burst.
CREATE UNLOGGED TABLE bucket (
    tenant text NOT NULL,
    lim text NOT NULL,
    tokens double precision NOT NULL,
    at bigint NOT NULL,
    rate double precision NOT NULL,
    burst double precision NOT NULL,
    PRIMARY KEY (tenant, lim)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 1000);

-- The most tokens of a bucket that an instance holds, and the figures of its configuration at `at`. Void once the instance
-- has been silent for 2 s. The figures of an instance that holds nothing count for 30 s: it may have another configuration
-- since, of which it says nothing before it asks for tokens.
CREATE UNLOGGED TABLE stock (
    tenant text NOT NULL,
    lim text NOT NULL,
    instance bigint NOT NULL,
    held double precision NOT NULL,
    rate double precision NOT NULL,
    burst double precision NOT NULL,
    at bigint NOT NULL,
    -- Until when the figures bind even if the instance ends, since GatePay has lowered them for a told time. After that they
    -- grow by a hundredth of the full ones each second.
    stays_until bigint NOT NULL DEFAULT -100000,
    PRIMARY KEY (tenant, lim, instance)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 1000);

-- The seats that an instance holds of a tenant, and the number of seats by its configuration. Void once the instance has
-- been silent for 5 s.
CREATE UNLOGGED TABLE seat (
    tenant text NOT NULL,
    instance bigint NOT NULL,
    held integer NOT NULL,
    seats integer NOT NULL,
    PRIMARY KEY (tenant, instance)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 1000);

-- An instance's part of the institution's rate until `until`, and its last report. Until `old_until` it may still use
-- the part that it had before.
CREATE UNLOGGED TABLE lease (
    instance bigint PRIMARY KEY,
    serial bigint NOT NULL,
    rate double precision NOT NULL,
    burst double precision NOT NULL,
    until bigint NOT NULL,
    old_rate double precision NOT NULL,
    old_burst double precision NOT NULL,
    old_until bigint NOT NULL,
    whole_rate double precision NOT NULL,
    whole_burst double precision NOT NULL,
    in_force double precision,
    tenants text[] NOT NULL,
    weights double precision[] NOT NULL,
    asked double precision[] NOT NULL,
    -- Until when `in_force` binds even if the instance ends. After that it grows as the figures of a stock do.
    in_force_until bigint NOT NULL DEFAULT -100000
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);

-- The rates to which GatePay has pushed instances back: those of a tenant's limit, or of the institution, with '' for both names.
-- Logged, and of no era: GatePay has said for how long they hold, whatever becomes of the instance and of the server.
CREATE TABLE push_back (
    instance bigint NOT NULL,
    tenant text NOT NULL,
    lim text NOT NULL,
    rate double precision NOT NULL,
    burst double precision NOT NULL,
    -- The institution's rate without it.
    whole_rate double precision NOT NULL,
    -- In the store's time.
    until bigint NOT NULL,
    PRIMARY KEY (instance, tenant, lim)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 1000);

-- Locks the limits, and returns the owner of their rows: the newest guard, which every failover and every loss moves. It is
-- the same for instances with either setting of `failover`, so that a change of the setting, instance by instance, begins
-- no era. NULL if it is not known whether this start of the server has lost anything; the next sign of life of an instance
-- finds out.
--
-- The owner is read under the lock: a caller that waited for it would bring back an earlier life.
CREATE FUNCTION lock_limits(lossless boolean) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp SET lock_timeout = '500ms' AS $$
BEGIN
    PERFORM FROM limit_clock FOR UPDATE;
    IF FOUND THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    RETURN (
        SELECT max(k.guarded_until) FROM life AS k
        WHERE lossless OR EXISTS (
            SELECT FROM identity() AS i
            JOIN life AS l ON l.system_id = i.system_id AND l.timeline = i.timeline AND l.confirmed_start = i.started
        )
    );
END
$$;

-- Locks the limits, and advances their clock. `t_wall` is NULL but in tests, which bring their own time. Seats are open
-- once `o_open`, tokens and leases from `o_lends_from` on.
CREATE FUNCTION tick_limits(
    t_life bigint, t_wall bigint, OUT o_era bigint, OUT o_now bigint, OUT o_open boolean, OUT o_lends_from bigint
)
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    clock limit_clock%ROWTYPE;
    read_wall bigint;
    at_ms bigint;
BEGIN
    INSERT INTO limit_clock AS c (era, life, wall, ticked, swept) VALUES (0, -1, 0, 0, 0) ON CONFLICT DO NOTHING;
    SELECT * INTO STRICT clock FROM limit_clock FOR UPDATE;
    -- Read after the lock, so that later calls have later times.
    read_wall := coalesce(t_wall, wall_ms());
    o_era := clock.era;
    o_now := clock.ticked;
    IF clock.life <> t_life THEN
        DELETE FROM limit_member;
        DELETE FROM bucket;
        DELETE FROM stock;
        DELETE FROM seat;
        DELETE FROM lease;
        o_era := floor(random() * 9e15)::bigint + 1;
        o_now := 0;
        UPDATE limit_clock SET swept = 0, swept_to = '', opened = false, lends_from = 2000, guarded = t_life > read_wall,
            heard = NULL;
        clock.opened := false;
        clock.lends_from := 2000;
        -- Their instances may be gone.
        at_ms := coalesce(t_wall, now_ms());
        INSERT INTO lease AS l SELECT p.instance, 0, 0, 0, 0, 0, 0, 0, p.whole_rate, 0, p.rate, '{}', '{}', '{}', p.until - at_ms
        FROM push_back AS p WHERE p.tenant = '' AND p.until > at_ms - 100000;
        INSERT INTO stock AS s SELECT p.tenant, p.lim, p.instance, 0, p.rate, p.burst, 0, p.until - at_ms
        FROM push_back AS p WHERE p.tenant <> '' AND p.until > at_ms - 100000;
        INSERT INTO bucket AS b SELECT p.tenant, p.lim, 0, 0, min(p.rate), min(p.burst)
        FROM push_back AS p WHERE p.tenant <> '' AND p.until > at_ms - 100000 GROUP BY p.tenant, p.lim;
    ELSIF read_wall - clock.wall BETWEEN 0 AND 500 THEN
        o_now := o_now + read_wall - clock.wall;
    END IF;
    o_open := clock.opened OR o_now >= 5000;
    o_lends_from := clock.lends_from;
    UPDATE limit_clock AS c SET era = o_era, life = t_life, wall = read_wall, ticked = o_now, opened = o_open;
END
$$;

-- Opens an era before its time: if no instance uses a loan of an earlier one. `n_era` is the era in which the calling
-- instance has declared its seats; if it is not this one, the instance had its last answer of an earlier era `n_silent` ms
-- ago.
--
-- The instances are those that `instance` has. Rows are complete unless a guard runs, since joining is a commit, and an
-- instance joins before it is lent anything.
CREATE FUNCTION open_limits(at_ms bigint, n_id bigint, n_era bigint, n_silent bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    clock limit_clock%ROWTYPE;
BEGIN
    SELECT * INTO STRICT clock FROM limit_clock;
    IF clock.opened THEN
        RETURN true;
    ELSIF clock.era = n_era THEN
        UPDATE limit_member AS m SET declared = true WHERE m.id = n_id;
    ELSIF n_silent IS NOT NULL THEN
        clock.heard := greatest(clock.heard, clock.wall - n_silent);
    END IF;
    clock.opened := NOT clock.guarded AND clock.heard IS NOT NULL
        AND NOT EXISTS (SELECT FROM limit_member AS m WHERE NOT m.declared AND m.seen > at_ms - 5000)
        -- Of any age: the server's clock may have been set, so that an age proves nothing.
        AND NOT EXISTS (
            SELECT FROM instance AS i
            WHERE NOT EXISTS (SELECT FROM limit_member AS m WHERE m.id = i.id AND m.declared)
        );
    UPDATE limit_clock AS c SET heard = clock.heard, opened = clock.opened,
        lends_from = CASE WHEN clock.opened THEN least(c.lends_from, at_ms) ELSE c.lends_from END;
    RETURN clock.opened;
END
$$;

-- Begins the first era of a store that has had one life only: nothing was ever lent, so no loan has to end before this.
-- That transaction is on disk before anything is lent, so that a crash does not forget it.
CREATE FUNCTION begin_limits(t_life bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM limit_clock) THEN
        RETURN;
    END IF;
    INSERT INTO limit_use VALUES (true) ON CONFLICT DO NOTHING;
    IF FOUND AND (SELECT count(*) FROM life) <= 1 THEN
        INSERT INTO limit_clock (era, life, wall, ticked, swept, lends_from)
        VALUES (floor(random() * 9e15)::bigint + 1, t_life, wall_ms(), 5000, 0, 0)
        ON CONFLICT DO NOTHING;
    END IF;
END
$$;

-- Notes a call of an instance. Returns when its last one came. A call that was overtaken by a later one is an error: its
-- figures are those of the past, and its answer is not awaited.
CREATE FUNCTION note_member(n_id bigint, n_serial bigint, at bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    known limit_member%ROWTYPE;
BEGIN
    SELECT * INTO known FROM limit_member AS m WHERE m.id = n_id;
    IF known.serial >= n_serial THEN
        RAISE EXCEPTION 'a later call of the instance came first' USING ERRCODE = '55000';
    END IF;
    INSERT INTO limit_member AS m (id, serial, seen) VALUES (n_id, n_serial, at)
    ON CONFLICT (id) DO UPDATE SET serial = excluded.serial, seen = excluded.seen;
    RETURN coalesce(known.seen, -10000);
END
$$;

-- Notes the push-backs of an instance: how long each holds, or NULL for none. The time that is left says the same each time, but for
-- the time of the call, so that hardly a call changes a row.
CREATE FUNCTION note_push_backs(
    t_wall bigint, n_id bigint, tenants text[], lims text[], rates double precision[], bursts double precision[],
    n_whole_rate double precision, holds bigint[]
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    at_ms bigint;
BEGIN
    IF array_remove(holds, NULL) = '{}' AND NOT EXISTS (SELECT FROM push_back) THEN
        RETURN;
    END IF;
    at_ms := coalesce(t_wall, now_ms());
    DELETE FROM push_back AS p WHERE p.until <= at_ms - 100000;
    DELETE FROM push_back AS p USING unnest(tenants, lims, holds) AS q(tenant, lim, hold)
    WHERE p.instance = n_id AND p.tenant = q.tenant AND p.lim = q.lim AND q.hold IS NULL;
    INSERT INTO push_back AS p
    SELECT n_id, q.tenant, q.lim, q.rate, q.burst, n_whole_rate, at_ms + q.hold
    FROM unnest(tenants, lims, rates, bursts, holds) AS q(tenant, lim, rate, burst, hold) WHERE q.hold IS NOT NULL
    ON CONFLICT (instance, tenant, lim) DO UPDATE
    SET rate = excluded.rate, burst = excluded.burst, whole_rate = excluded.whole_rate, until = excluded.until
    WHERE abs(p.until - excluded.until) > 1000 OR p.rate <> excluded.rate OR p.burst <> excluded.burst
        OR p.whole_rate <> excluded.whole_rate;
END
$$;

-- Takes tokens of buckets and seats for an instance. Each question states the most that the instance holds by now, so a
-- lost answer costs tokens and never makes any.
--
-- A stock gets the tokens it asks for, at most a tenth of the burst or 50 ms of the rate. A small bucket (less than
-- four tokens an instance) lends only for requests that wait.
CREATE FUNCTION take_at(
    t_life bigint, t_wall bigint, n_id bigint, n_serial bigint,
    tenants text[], lims text[], rates double precision[], bursts double precision[], holds bigint[],
    wants integer[], waitings integer[], helds integer[], backs integer[],
    seat_tenants text[], seat_alls integer[], seat_wants integer[], seat_helds integer[],
    OUT o_era bigint, OUT o_instances integer,
    OUT kepts integer[], OUT lents integer[], OUT waits bigint[], OUT smalls boolean[],
    OUT seat_kepts integer[], OUT seat_lents integer[], OUT seat_smalls boolean[]
)
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    at_ms bigint;
    last_seen bigint;
    -- Whether seats are lent, and tokens.
    is_open boolean;
    is_lent boolean;
    lends_from bigint;
BEGIN
    SELECT k.o_era, k.o_now, k.o_open, k.o_now >= k.o_lends_from, k.o_lends_from
    INTO STRICT o_era, at_ms, is_open, is_lent, lends_from
    FROM tick_limits(t_life, t_wall) AS k;
    last_seen := note_member(n_id, n_serial, at_ms);
    SELECT count(*) INTO STRICT o_instances FROM limit_member AS m WHERE m.seen > at_ms - 2000;

    WITH question AS (
        SELECT * FROM unnest(tenants, lims, rates, bursts, holds, wants, waitings, helds, backs) WITH ORDINALITY
            AS q(tenant, lim, rate, burst, hold, want, waiting, held, back, n)
    ), loan AS (
        SELECT q.n, coalesce(sum(s.held), 0) AS before,
            coalesce(sum(s.held) FILTER (WHERE s.instance <> n_id AND m.seen > at_ms - 2000), 0) AS others,
            coalesce(sum(s.held) FILTER (WHERE s.instance = n_id AND last_seen > at_ms - 2000), 0) AS mine,
            min(s.rate + q.rate * g.growth) FILTER (WHERE s.instance <> n_id AND g.growth < 1) AS rate,
            min(s.burst + q.burst * g.growth) FILTER (WHERE s.instance <> n_id AND g.growth < 1) AS burst
        FROM question AS q
        LEFT JOIN stock AS s ON s.tenant = q.tenant AND s.lim = q.lim
        LEFT JOIN limit_member AS m ON m.id = s.instance
        CROSS JOIN LATERAL (
            SELECT CASE WHEN m.seen > at_ms - 2000 AND (s.held > 0 OR s.at > at_ms - 30000) THEN 0
                ELSE greatest(0, at_ms - s.stays_until) / 100000.0::double precision END AS growth
        ) AS g
        GROUP BY q.n
    ), agreed AS (
        SELECT q.tenant, q.lim, q.n, q.want, q.waiting, q.rate AS own_rate, q.burst AS own_burst, q.hold,
            least(q.rate, l.rate) AS rate, least(q.burst, l.burst) AS burst, l.before, l.others,
            least(q.held, l.mine) AS kept, least(q.back, l.mine - least(q.held, l.mine)) AS back
        FROM question AS q JOIN loan AS l ON l.n = q.n
    ), filled AS (
        -- With the tokens that were out meanwhile and the figures of that time, loans that became void included.
        SELECT a.*, CASE
                WHEN b.tenant IS NULL THEN least(a.burst, a.rate * greatest(0, at_ms - lends_from) / 1000)
                ELSE greatest(b.tokens, least(b.burst - a.before,
                    b.tokens + b.rate * greatest(0, at_ms - greatest(b.at, lends_from)) / 1000))
            END AS tokens
        FROM agreed AS a LEFT JOIN bucket AS b ON b.tenant = a.tenant AND b.lim = a.lim
    ), capped AS (
        SELECT f.tenant, f.lim, f.n, f.own_rate, f.own_burst, f.hold, f.rate, f.burst, f.kept,
            greatest(0, least(f.tokens + f.back, f.burst - f.others - f.kept)) AS tokens,
            f.burst < 4 * o_instances AS small,
            CASE
                WHEN f.burst < 4 * o_instances THEN f.waiting
                ELSE least(greatest(f.want, f.waiting), greatest(1, floor(f.burst / 10), floor(f.rate / 20)))
            END AS wanted
        FROM filled AS f
    ), lent AS (
        SELECT c.*, CASE WHEN is_lent THEN least(c.wanted, floor(c.tokens + 1e-9)) ELSE 0 END AS lent
        FROM capped AS c
    ), put_bucket AS (
        INSERT INTO bucket AS b (tenant, lim, tokens, at, rate, burst)
        SELECT l.tenant, l.lim, l.tokens - l.lent, at_ms, l.rate, l.burst FROM lent AS l
        ON CONFLICT (tenant, lim) DO UPDATE SET tokens = excluded.tokens, at = excluded.at, rate = excluded.rate,
            burst = excluded.burst
    ), put_stock AS (
        INSERT INTO stock AS s (tenant, lim, instance, held, rate, burst, at, stays_until)
        SELECT l.tenant, l.lim, n_id, l.kept + l.lent, l.own_rate, l.own_burst, at_ms,
            CASE WHEN l.hold > 0 THEN at_ms + l.hold ELSE -100000 END FROM lent AS l
        ON CONFLICT (tenant, lim, instance) DO UPDATE SET held = excluded.held, rate = excluded.rate,
            burst = excluded.burst, at = excluded.at, stays_until = excluded.stays_until
    ), void_stock AS (
        DELETE FROM stock AS s USING question AS q
        WHERE s.tenant = q.tenant AND s.lim = q.lim AND s.instance <> n_id AND s.stays_until <= at_ms - 100000
            AND NOT EXISTS (SELECT FROM limit_member AS m WHERE m.id = s.instance AND m.seen > at_ms - 2000)
    ), void_loan AS (
        UPDATE stock AS s SET held = 0 FROM question AS q
        WHERE s.tenant = q.tenant AND s.lim = q.lim AND s.instance <> n_id AND s.stays_until > at_ms - 100000 AND s.held > 0
            AND NOT EXISTS (SELECT FROM limit_member AS m WHERE m.id = s.instance AND m.seen > at_ms - 2000)
    )
    SELECT coalesce(array_agg(l.kept::integer ORDER BY l.n), '{}'), coalesce(array_agg(l.lent::integer ORDER BY l.n), '{}'),
        coalesce(array_agg(l.small ORDER BY l.n), '{}'),
        -- If there is no token left: until there is one, and until the bucket is half full, but no longer than 25 ms an
        -- instance for that, and 50 ms with one: so all instances together ask some 40 times a second.
        -- Before the store lends: for 50 ms.
        coalesce(array_agg(CASE
            WHEN l.lent >= l.wanted AND l.tokens - l.lent >= 1 THEN 0
            ELSE ceil(greatest(CASE WHEN is_lent THEN 0 ELSE 50 END, (1 - l.tokens + l.lent) * 1000 / l.rate,
                least(greatest(50, 25 * o_instances), (l.burst / 2 - l.tokens + l.lent) * 1000 / l.rate)))
        END::bigint ORDER BY l.n), '{}')
    INTO kepts, lents, smalls, waits FROM lent AS l;

    PERFORM note_push_backs(t_wall, n_id, tenants, lims, rates, bursts, 0,
        ARRAY(SELECT nullif(h.hold, 0) FROM unnest(holds) WITH ORDINALITY AS h(hold, n) ORDER BY h.n));

    WITH question AS (
        SELECT * FROM unnest(seat_tenants, seat_alls, seat_wants, seat_helds) WITH ORDINALITY
            AS q(tenant, seats, want, held, n)
    ), loan AS (
        SELECT q.n, coalesce(sum(s.held) FILTER (WHERE s.instance <> n_id AND m.seen > at_ms - 5000), 0) AS others,
            coalesce(sum(s.held) FILTER (WHERE s.instance = n_id AND last_seen > at_ms - 5000), 0) AS mine,
            min(s.seats) FILTER (WHERE s.instance <> n_id AND m.seen > at_ms - 5000) AS seats
        FROM question AS q
        LEFT JOIN seat AS s ON s.tenant = q.tenant
        LEFT JOIN limit_member AS m ON m.id = s.instance
        GROUP BY q.n
    ), agreed AS (
        -- In the first 5 s of an era instances state their holdings since the last one.
        SELECT q.tenant, q.n, q.want, q.seats AS own_seats, least(q.seats, l.seats) AS seats, l.others,
            CASE WHEN at_ms < 5000 THEN q.held ELSE least(q.held, l.mine) END AS kept
        FROM question AS q JOIN loan AS l ON l.n = q.n
    ), lent AS (
        SELECT a.tenant, a.n, a.own_seats, a.seats, a.kept,
            CASE WHEN is_open THEN greatest(0, least(a.want, a.seats - a.others - a.kept)) ELSE 0 END AS lent
        FROM agreed AS a
    ), put_seat AS (
        INSERT INTO seat AS s (tenant, instance, held, seats)
        SELECT l.tenant, n_id, l.kept + l.lent, l.own_seats FROM lent AS l
        ON CONFLICT (tenant, instance) DO UPDATE SET held = excluded.held, seats = excluded.seats
    ), void_seat AS (
        DELETE FROM seat AS s USING question AS q
        WHERE s.tenant = q.tenant AND s.instance <> n_id
            AND NOT EXISTS (SELECT FROM limit_member AS m WHERE m.id = s.instance AND m.seen > at_ms - 5000)
    )
    SELECT coalesce(array_agg(l.kept::integer ORDER BY l.n), '{}'), coalesce(array_agg(l.lent::integer ORDER BY l.n), '{}'),
        coalesce(array_agg(l.seats < 4 * o_instances ORDER BY l.n), '{}')
    INTO seat_kepts, seat_lents, seat_smalls FROM lent AS l;
END
$$;

CREATE FUNCTION take_v1(
    lossless boolean, n_id bigint, n_serial bigint,
    tenants text[], lims text[], rates double precision[], bursts double precision[], holds bigint[],
    wants integer[], waitings integer[], helds integer[], backs integer[],
    seat_tenants text[], seat_alls integer[], seat_wants integer[], seat_helds integer[],
    -- NULL: this start of the server is not confirmed yet, and nothing was done.
    OUT o_era bigint, OUT o_instances integer,
    OUT kepts integer[], OUT lents integer[], OUT waits bigint[], OUT smalls boolean[],
    OUT seat_kepts integer[], OUT seat_lents integer[], OUT seat_smalls boolean[]
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    known bigint := lock_limits(lossless);
BEGIN
    IF known IS NOT NULL THEN
        PERFORM begin_limits(known);
        SELECT a.* INTO STRICT o_era, o_instances, kepts, lents, waits, smalls, seat_kepts, seat_lents, seat_smalls
        FROM take_at(known, NULL, n_id, n_serial, tenants, lims, rates, bursts, holds, wants, waitings, helds, backs,
            seat_tenants, seat_alls, seat_wants, seat_helds) AS a;
    END IF;
END
$$;

-- Lends an instance its part of the institution's rate for 2 s, by the demand of its tenants: weighted max-min over all
-- tenants that any instance reports. The rate without demand is lent in equal parts.
--
-- The lent rates are never more than the whole rate, and the lent bursts never more than the whole burst. An instance may
-- use its old lease for 1 s after it asked (`old_until`), and no longer; `n_applied` is the number of the last exchange
-- with an answer in use.
CREATE FUNCTION exchange_at(
    t_life bigint, t_wall bigint, n_id bigint, n_serial bigint, n_applied bigint, n_era bigint, n_silent bigint,
    n_rate double precision, n_burst double precision, n_in_force double precision, n_hold bigint,
    n_tenants text[], n_weights double precision[], n_asked double precision[],
    OUT o_era bigint, OUT o_open boolean, OUT o_instances integer,
    OUT o_rate double precision, OUT o_burst double precision, OUT o_target double precision,
    OUT o_whole_rate double precision, OUT o_whole_burst double precision, OUT o_weight double precision,
    OUT o_elsewhere integer, OUT o_fractions double precision[]
)
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    at_ms bigint;
    lends_from bigint;
    known lease%ROWTYPE;
    level double precision;
    allotted double precision;
    others_rate double precision;
    others_burst double precision;
    configured double precision;
BEGIN
    SELECT k.o_era, k.o_now, k.o_lends_from INTO STRICT o_era, at_ms, lends_from FROM tick_limits(t_life, t_wall) AS k;
    PERFORM note_member(n_id, n_serial, at_ms);
    o_open := open_limits(at_ms, n_id, n_era, n_silent);
    PERFORM sweep_limits(at_ms);

    SELECT * INTO known FROM lease AS l WHERE l.instance = n_id;
    IF known.until > at_ms AND known.serial = n_applied THEN
        known.old_rate := known.rate;
        known.old_burst := known.burst;
        known.old_until := least(known.until, at_ms + 1000);
    END IF;
    INSERT INTO lease AS l VALUES (n_id, n_serial, 0, 0, at_ms + 2000, coalesce(known.old_rate, 0),
        coalesce(known.old_burst, 0), coalesce(known.old_until, 0), n_rate, n_burst, n_in_force, n_tenants, n_weights,
        n_asked, CASE WHEN n_in_force IS NOT NULL THEN at_ms + n_hold ELSE -100000 END)
    ON CONFLICT (instance) DO UPDATE SET serial = excluded.serial, rate = 0, burst = 0, until = excluded.until,
        old_rate = excluded.old_rate, old_burst = excluded.old_burst, old_until = excluded.old_until,
        whole_rate = excluded.whole_rate, whole_burst = excluded.whole_burst, in_force = excluded.in_force,
        tenants = excluded.tenants, weights = excluded.weights, asked = excluded.asked,
        in_force_until = excluded.in_force_until;

    PERFORM note_push_backs(t_wall, n_id, ARRAY[''], ARRAY[''], ARRAY[n_in_force], ARRAY[0::double precision], n_rate,
        ARRAY[CASE WHEN n_in_force IS NOT NULL THEN n_hold END]);

    -- The smallest figures that living instances report. A push-back binds for the time that GatePay told, even if its instance
    -- ends, and ends slowly.
    SELECT count(*), min(l.whole_rate), min(l.whole_burst),
        coalesce(sum(greatest(l.rate, CASE WHEN l.old_until > at_ms THEN l.old_rate ELSE 0 END))
            FILTER (WHERE l.instance <> n_id), 0),
        coalesce(sum(greatest(l.burst, CASE WHEN l.old_until > at_ms THEN l.old_burst ELSE 0 END))
            FILTER (WHERE l.instance <> n_id), 0)
    INTO STRICT o_instances, configured, o_whole_burst, others_rate, others_burst
    FROM lease AS l WHERE l.until > at_ms;
    SELECT least(configured, min(l.in_force + CASE WHEN l.until > at_ms THEN 0
        ELSE l.whole_rate * (greatest(0, at_ms - l.in_force_until) / 100000.0::double precision) END))
    INTO STRICT o_whole_rate FROM lease AS l WHERE l.until > at_ms OR l.in_force_until > at_ms - 100000;
    -- After a push-back still a token for each instance, if the configured burst has as many.
    o_whole_burst := greatest(o_whole_burst * o_whole_rate / configured, least(o_whole_burst, o_instances + 1));

    WITH report AS (
        SELECT d.tenant, min(d.weight) AS weight, sum(d.asked) AS asked, count(*) AS reports
        FROM lease AS l CROSS JOIN LATERAL unnest(l.tenants, l.weights, l.asked) AS d(tenant, weight, asked)
        WHERE l.until > at_ms
        GROUP BY d.tenant
    ), line AS (
        SELECT r.*, r.asked / r.weight AS ratio,
            coalesce(sum(r.asked) OVER below, 0) AS asked_below, coalesce(sum(r.weight) OVER below, 0) AS weight_below
        FROM report AS r
        WINDOW below AS (ORDER BY r.asked / r.weight, r.tenant COLLATE "C"
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
    ), whole AS (
        SELECT coalesce(sum(r.weight), 0) AS weight FROM report AS r
    ), water AS (
        -- The rate for a unit of weight of each tenant that asks for more; infinite if all demands are met.
        SELECT coalesce((
            SELECT (o_whole_rate - i.asked_below) / (w.weight - i.weight_below) FROM line AS i
            WHERE (o_whole_rate - i.asked_below) / (w.weight - i.weight_below) <= i.ratio
            ORDER BY i.ratio, i.tenant COLLATE "C" LIMIT 1
        ), 'Infinity') AS level, w.weight FROM whole AS w
    ), mine AS (
        SELECT m.n, CASE WHEN r.asked > 0 THEN m.asked / r.asked ELSE 1.0 / r.reports END AS fraction,
            least(r.asked, w.level * r.weight) AS allotted
        FROM unnest(n_tenants, n_asked) WITH ORDINALITY AS m(tenant, asked, n)
        JOIN report AS r ON r.tenant = m.tenant CROSS JOIN water AS w
    )
    SELECT w.weight, w.level, (SELECT coalesce(sum(least(r.asked, w.level * r.weight)), 0) FROM report AS r),
        (SELECT coalesce(sum(m.fraction * m.allotted), 0) FROM mine AS m),
        (SELECT coalesce(array_agg(m.fraction ORDER BY m.n), '{}') FROM mine AS m)
    INTO STRICT o_weight, level, allotted, o_target, o_fractions FROM water AS w;
    o_target := o_target + greatest(0, o_whole_rate - allotted) / o_instances;

    o_rate := 0;
    o_burst := 0;
    -- Before, leases of the last era may be in use.
    IF o_open OR at_ms >= lends_from THEN
        o_rate := greatest(0, least(o_target, o_whole_rate - others_rate));
        -- A token for each instance if there are as many: with less than one, an instance could never admit.
        o_burst := CASE
            WHEN o_whole_burst > o_instances THEN 1 + (o_whole_burst - o_instances) * o_rate / o_whole_rate
            ELSE o_whole_burst * o_rate / o_whole_rate
        END;
        o_burst := greatest(0, least(o_burst, o_whole_burst - others_burst));
    END IF;
    UPDATE lease AS l SET rate = o_rate, burst = o_burst WHERE l.instance = n_id;
    -- The institution's seats that others hold: with them an instance judges whether the last ones are left.
    SELECT coalesce(sum(s.held), 0) INTO STRICT o_elsewhere
    FROM seat AS s JOIN limit_member AS m ON m.id = s.instance
    WHERE s.tenant = '' AND s.instance <> n_id AND m.seen > at_ms - 5000;
END
$$;

CREATE FUNCTION exchange_v1(
    lossless boolean, n_id bigint, n_serial bigint, n_applied bigint, n_era bigint, n_silent bigint,
    n_rate double precision, n_burst double precision, n_in_force double precision, n_hold bigint,
    n_tenants text[], n_weights double precision[], n_asked double precision[],
    -- NULL: this start of the server is not confirmed yet, and nothing was done.
    OUT o_era bigint, OUT o_open boolean, OUT o_instances integer,
    OUT o_rate double precision, OUT o_burst double precision, OUT o_target double precision,
    OUT o_whole_rate double precision, OUT o_whole_burst double precision, OUT o_weight double precision,
    OUT o_elsewhere integer, OUT o_fractions double precision[]
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    known bigint := lock_limits(lossless);
BEGIN
    IF known IS NOT NULL THEN
        PERFORM begin_limits(known);
        SELECT a.* INTO STRICT o_era, o_open, o_instances, o_rate, o_burst, o_target, o_whole_rate, o_whole_burst,
            o_weight, o_elsewhere, o_fractions
        FROM exchange_at(known, NULL, n_id, n_serial, n_applied, n_era, n_silent, n_rate, n_burst, n_in_force, n_hold, n_tenants,
            n_weights, n_asked) AS a;
    END IF;
END
$$;

-- Deletes, every 10 s, the rows that say nothing more: buckets that are full again with nothing lent, and instances that
-- are gone. It goes through 500 buckets in an exchange, since all instances wait for its lock: a sweep of more buckets takes
-- several exchanges.
CREATE FUNCTION sweep_limits(at_ms bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    -- The tenants of this part.
    tenant_from text;
    tenant_to text;
    is_end boolean;
BEGIN
    SELECT c.swept_to INTO tenant_from FROM limit_clock AS c WHERE c.swept <= at_ms - 10000;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT count(*) < 500, max(p.tenant) INTO is_end, tenant_to FROM (
        SELECT b.tenant FROM bucket AS b WHERE b.tenant >= tenant_from ORDER BY b.tenant, b.lim LIMIT 500
    ) AS p;
    IF is_end THEN
        tenant_to := coalesce(greatest(tenant_to, (SELECT max(s.tenant) FROM seat AS s), (SELECT max(s.tenant) FROM stock AS s)), '');
        UPDATE limit_clock SET swept = at_ms, swept_to = '';
    ELSE
        UPDATE limit_clock SET swept_to = tenant_to;
    END IF;
    DELETE FROM limit_member AS m WHERE m.seen <= at_ms - 10000;
    DELETE FROM lease AS l WHERE l.until <= at_ms - 10000 AND l.in_force_until <= at_ms - 100000;
    DELETE FROM seat AS s WHERE s.tenant >= tenant_from AND s.tenant <= tenant_to
        AND (s.held = 0 OR NOT EXISTS (SELECT FROM limit_member AS m WHERE m.id = s.instance));
    -- Loans of silent instances become void once their buckets are filled for the time until now.
    UPDATE bucket AS b
    SET tokens = greatest(b.tokens, least(b.burst - o.held, b.tokens
            + b.rate * greatest(0, at_ms - greatest(b.at, (SELECT c.lends_from FROM limit_clock AS c))) / 1000)),
        at = at_ms
    FROM (
        SELECT s.tenant, s.lim, sum(s.held) AS held
        FROM stock AS s LEFT JOIN limit_member AS m ON m.id = s.instance AND m.seen > at_ms - 2000
        WHERE s.tenant >= tenant_from AND s.tenant <= tenant_to
        GROUP BY s.tenant, s.lim HAVING bool_or(m.id IS NULL AND s.held > 0)
    ) AS o
    WHERE b.tenant = o.tenant AND b.lim = o.lim;
    UPDATE stock AS s SET held = 0 WHERE s.tenant >= tenant_from AND s.tenant <= tenant_to AND s.held > 0
        AND NOT EXISTS (SELECT FROM limit_member AS m WHERE m.id = s.instance AND m.seen > at_ms - 2000);
    DELETE FROM stock AS s WHERE s.tenant >= tenant_from AND s.tenant <= tenant_to AND s.stays_until <= at_ms - 100000
        AND (s.held = 0 AND s.at <= at_ms - 30000
            OR NOT EXISTS (SELECT FROM limit_member AS m WHERE m.id = s.instance AND m.seen > at_ms - 2000));
    DELETE FROM bucket AS b WHERE b.tenant >= tenant_from AND b.tenant <= tenant_to AND at_ms - b.at > b.burst * 1000 / b.rate
        AND NOT EXISTS (SELECT FROM stock AS s WHERE s.tenant = b.tenant AND s.lim = b.lim
            AND (s.held > 0 OR s.stays_until > at_ms - 100000));
    DELETE FROM stock AS s WHERE s.tenant >= tenant_from AND s.tenant <= tenant_to
        AND NOT EXISTS (SELECT FROM bucket AS b WHERE b.tenant = s.tenant AND b.lim = s.lim);
END
$$;

-- Frees all that an instance holds. Its push-back stays for others.
CREATE FUNCTION leave_limits_at(t_life bigint, t_wall bigint, n_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    at_ms bigint;
BEGIN
    SELECT k.o_now INTO STRICT at_ms FROM tick_limits(t_life, t_wall) AS k;
    DELETE FROM seat AS s WHERE s.instance = n_id;
    UPDATE lease AS l SET rate = 0, burst = 0, old_rate = 0, old_burst = 0, until = at_ms, tenants = '{}', weights = '{}',
        asked = '{}' WHERE l.instance = n_id;
    -- The stocks become void at the next question about their buckets.
    UPDATE limit_member AS m SET seen = at_ms - 10000 WHERE m.id = n_id;
END
$$;

CREATE FUNCTION leave_limits_v1(lossless boolean, n_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    known bigint := lock_limits(lossless);
BEGIN
    IF known IS NOT NULL THEN
        PERFORM leave_limits_at(known, NULL, n_id);
    END IF;
END
$$;

-- Rewrites the tables of limits in which dead rows have piled up. A transaction that stays open keeps dead rows from being
-- removed, and every call would read all of them. It waits for no lock: beside another call, or a dump, it does nothing
-- and is called again a second later.
CREATE FUNCTION rewrite_limits_v1() RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    grown regclass[];
    grown_table regclass;
    kept text;
BEGIN
    SELECT array_agg(t) INTO grown
    FROM unnest('{limit_clock, limit_member, lease, bucket, stock, seat}'::regclass[]) AS t
    WHERE pg_stat_get_dead_tuples(t) > 5000 + pg_stat_get_live_tuples(t);
    IF grown IS NULL THEN
        RETURN false;
    END IF;
    BEGIN
        LOCK TABLE limit_clock, limit_member, lease, bucket, stock, seat IN ACCESS EXCLUSIVE MODE NOWAIT;
    EXCEPTION WHEN lock_not_available THEN
        RETURN false;
    END;
    PERFORM set_config('synchronous_commit', 'off', true);
    FOREACH grown_table IN ARRAY grown LOOP
        EXECUTE format('SELECT array_agg(t)::text FROM %s AS t', grown_table) INTO kept;
        EXECUTE format('TRUNCATE %s', grown_table);
        EXECUTE format('INSERT INTO %1$s SELECT r.* FROM unnest($1::%1$s[]) AS r', grown_table) USING kept;
    END LOOP;
    RETURN true;
END
$$;
