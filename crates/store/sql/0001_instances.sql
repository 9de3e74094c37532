-- Instances: joining, signs of life, leaving. The ring of slots, halts, and distrust by hand.

-- The length of slices for a window: seven of eight slots cover it, with half a slice to prepare the eighth.
CREATE FUNCTION fit_ring(past_ms bigint, guard_ms bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    guard bigint := longest_guard(guard_ms);
    wanted bigint := (ceil((past_ms + guard) / 6500.0) * 1000)::bigint;
BEGIN
    IF (SELECT k.slice_ms FROM cluster AS k) >= wanted THEN
        RETURN false;
    END IF;
    PERFORM admitting_nothing();
    UPDATE cluster AS k SET slice_ms = greatest(k.slice_ms, wanted);
    -- The slots hold slices of the old length: a guard covers their content.
    UPDATE life AS l SET guarded_until = greatest(l.guarded_until, wall_ms() + guard);
    UPDATE slot AS s SET slice = 0, filling = true;
    RETURN true;
END
$$;

-- Makes guards as long as an instance needs that joins. A guard that is being waited for is as long from then on.
CREATE FUNCTION lengthen_guards(wanted bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    before bigint := longest_guard(0);
BEGIN
    IF before >= wanted THEN
        RETURN;
    END IF;
    PERFORM admitting_nothing();
    before := longest_guard(0);
    UPDATE cluster AS k SET guard_ms = greatest(k.guard_ms, wanted);
    IF before BETWEEN 1 AND wanted THEN
        UPDATE life AS l SET guarded_until = l.guarded_until + wanted - before WHERE l.guarded_until > wall_ms();
    END IF;
END
$$;

-- Refuses writes without a body for as long as stamps are remembered, if an instance stops that served reads while the
-- store was away: the signatures of those reads fit such writes.
CREATE FUNCTION refuse_bodyless(n_id bigint) RETURNS void
LANGUAGE sql VOLATILE SET search_path = gatepay, pg_temp AS $$
    UPDATE cluster AS k SET bodyless_until = greatest(k.bodyless_until, wall_ms() + 8 * k.slice_ms)
    WHERE EXISTS (SELECT FROM instance AS n WHERE n.id = n_id AND n.bodyless)
$$;

-- Joins, or gives a sign of life: both write the same row.
CREATE FUNCTION join_v1(
    c_system_id bigint, c_timeline bigint, c_wal bigint, c_at bigint, c_print bytea, c_stamp bigint,
    c_id bigint, c_seen bigint, guard_ms bigint, lossless boolean,
    n_id bigint, n_host text, n_version text, n_config_hash text, n_journal_head text, n_halt_epoch bigint,
    past_ms bigint, n_uncovered boolean, n_bodyless boolean,
    -- As for `tick_clock`.
    n_wall bigint, n_steady bigint, n_silent bigint,
    OUT o_at bigint, OUT o_system_id bigint, OUT o_timeline bigint, OUT o_wal bigint, OUT o_guarded bigint,
    OUT o_renewed boolean, OUT o_now bigint, OUT o_apart bigint, OUT o_keeps boolean, OUT o_ticked boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    fitted boolean;
    now bigint;
    deleting bigint;
    -- How far back nonces are looked for that can leave. Beside a transaction that stays open, each search reads all that left
    -- within that time.
    nonces_from bigint;
BEGIN
    PERFORM lengthen_guards(guard_ms);
    fitted := fit_ring(past_ms, guard_ms);
    IF NOT n_bodyless THEN
        PERFORM refuse_bodyless(n_id);
    END IF;
    SELECT r.o_system_id, r.o_timeline, r.o_wal, r.o_guarded, r.o_renewed OR fitted
    INTO STRICT o_system_id, o_timeline, o_wal, o_guarded, o_renewed
    FROM recognize(c_system_id, c_timeline, c_wal, c_at, c_print, c_stamp, c_id, c_seen, guard_ms, lossless) AS r;
    o_at := wall_ms();
    IF n_uncovered THEN
        -- It served without the store: the store has none of its stamps.
        UPDATE life AS l SET guarded_until = greatest(l.guarded_until, o_at + longest_guard(guard_ms));
        SELECT max(l.guarded_until), true INTO STRICT o_guarded, o_renewed FROM life AS l;
    END IF;
    o_ticked := tick_clock(n_wall, n_steady, n_silent);
    now := now_ms();
    deleting := deleting_ms();
    SELECT now, CASE WHEN c.apart_since IS NULL THEN 0 ELSE c.wall - c.steady END, deleting = 0
    INTO STRICT o_now, o_apart, o_keeps FROM store_clock AS c WHERE c.one;
    INSERT INTO instance AS n VALUES
        (n_id, o_at, o_at, n_host, n_version, n_config_hash, n_journal_head, n_halt_epoch, n_bodyless, now)
    ON CONFLICT (id) DO UPDATE SET seen = o_at, steady = excluded.steady, host = excluded.host, version = excluded.version, config_hash = excluded.config_hash,
        journal_head = excluded.journal_head, halt_epoch = excluded.halt_epoch, bodyless = excluded.bodyless;
    -- Instances that ended without leaving stay listed for a day, so that operators can see them, and while the clock is in doubt.
    -- None is waited for: another sign of life may be at the same rows.
    DELETE FROM instance AS n WHERE n.ctid = ANY (ARRAY(
        SELECT o.ctid FROM instance AS o WHERE o.steady < deleting - 86400000 FOR UPDATE SKIP LOCKED
    ));
    DELETE FROM departure AS d WHERE d.ctid = ANY (ARRAY(
        SELECT o.ctid FROM departure AS o WHERE o.at < deleting - 86400000 FOR UPDATE SKIP LOCKED
    ));
    nonces_from := CASE WHEN random() < 0.02 THEN 0 ELSE now - 600000 END;
    -- Those that an admission is about to use again stay: it locks them in another order.
    WITH expired AS (
        SELECT m.print FROM nonce AS m WHERE m.until >= nonces_from AND m.until < now ORDER BY m.until LIMIT 1000
        FOR UPDATE SKIP LOCKED
    )
    DELETE FROM nonce AS n USING expired AS e WHERE n.print = e.print;
END
$$;

CREATE FUNCTION leave_v1(n_id bigint) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
    SELECT refuse_bodyless(n_id);
    INSERT INTO departure VALUES (n_id, now_ms()) ON CONFLICT (id) DO UPDATE SET at = excluded.at;
    DELETE FROM instance AS n WHERE n.id = n_id
$$;

-- Takes the slot of the next slice out of use ahead of time: from this commit on its old slice is refused. Returns the
-- slots that `empty_slot_v1` has to empty.
CREATE FUNCTION turn_ring_v1(future_ms bigint) RETURNS SETOF smallint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    ring bigint;
    next_slice bigint;
BEGIN
    -- The ring is not fitted to a longer window in between.
    PERFORM admitting();
    SELECT k.slice_ms INTO STRICT ring FROM cluster AS k;
    -- A clock that has stepped ahead must not empty a slot that the stamps of now need.
    next_slice := (least(wall_ms(), now_ms()) + future_ms + ring / 2) / ring;
    UPDATE slot AS s SET slice = next_slice, filling = false WHERE s.slot = next_slice % 8 AND s.slice < next_slice;
    RETURN QUERY SELECT s.slot FROM slot AS s WHERE NOT s.filling ORDER BY s.slot;
END
$$;

-- Empties the partition of a slot that is out of use. It waits 50 ms at most for admissions, and not at all for other
-- readers of the partition, such as a dump: it raises 55P03 and is called again later, or the slot is used as it is.
CREATE FUNCTION empty_slot_v1(which smallint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    PERFORM admitting_nothing();
    PERFORM FROM slot AS s WHERE s.slot = which AND NOT s.filling FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    EXECUTE format('LOCK TABLE gatepay.stamp_%s IN ACCESS EXCLUSIVE MODE NOWAIT', which);
    EXECUTE format('TRUNCATE gatepay.stamp_%s', which);
    UPDATE slot AS s SET filling = true WHERE s.slot = which;
    RETURN true;
END
$$;

-- Another epoch of halts. It locks the row, so changes of halts come one after another. Epochs of a life that was lost do
-- not come again: they are lower than the time.
CREATE FUNCTION next_epoch() RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = gatepay, pg_temp AS $$
    UPDATE cluster AS k SET halt_epoch = greatest(k.halt_epoch + 1, now_ms()) RETURNING k.halt_epoch
$$;

CREATE FUNCTION halt_v1(h_scope text, h_by text) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    changed bigint;
BEGIN
    PERFORM admitting_nothing();
    changed := next_epoch();
    INSERT INTO halt VALUES (h_scope, now_ms(), h_by, changed) ON CONFLICT (scope) DO UPDATE SET epoch = excluded.epoch;
    RETURN changed;
END
$$;

-- Ends a halt, unless it was ordered once more since the caller saw it: then it returns NULL. A halt that stands no more
-- has ended, so that the order can be repeated.
CREATE FUNCTION resume_v1(h_scope text, epoch_seen bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    changed bigint := next_epoch();
BEGIN
    DELETE FROM halt AS h WHERE h.scope = h_scope AND h.epoch = epoch_seen;
    IF EXISTS (SELECT FROM halt AS h WHERE h.scope = h_scope) THEN
        RETURN NULL;
    END IF;
    INSERT INTO halt_end VALUES (h_scope, changed) ON CONFLICT (scope) DO UPDATE SET epoch = excluded.epoch;
    RETURN changed;
END
$$;

-- Notes an operator's order to end a halt. Returns the other operator that has ordered the same within a day, or nothing.
CREATE FUNCTION propose_resume_v1(h_scope text, h_epoch bigint, h_by text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    other text;
    now bigint := now_ms();
BEGIN
    PERFORM admitting();
    SELECT p.proposed_by INTO other FROM halt_proposal AS p
    WHERE p.scope = h_scope AND p.epoch = h_epoch AND p.proposed_by <> h_by AND p.at > now - 86400000
    FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO halt_proposal VALUES (h_scope, h_epoch, h_by, now)
        ON CONFLICT (scope) DO UPDATE SET epoch = excluded.epoch, proposed_by = excluded.proposed_by, at = excluded.at
        WHERE halt_proposal.epoch <> excluded.epoch OR halt_proposal.proposed_by = excluded.proposed_by
            OR halt_proposal.at <= now - 86400000;
    END IF;
    RETURN other;
END
$$;

-- Brings back the halts that an instance saw in force and that the store has lost, under a new epoch. One that was ended
-- since the instance saw it stays ended.
CREATE FUNCTION bring_back_v1(h_scopes text[], h_sinces bigint[], h_bys text[], h_epochs bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    changed bigint;
BEGIN
    PERFORM admitting_nothing();
    UPDATE cluster AS k SET halt_epoch = greatest(k.halt_epoch, (SELECT max(e) FROM unnest(h_epochs) AS e));
    changed := next_epoch();
    INSERT INTO halt
    SELECT b.scope, b.since, b.set_by, changed
    FROM unnest(h_scopes, h_sinces, h_bys, h_epochs) AS b(scope, since, set_by, epoch)
    WHERE NOT EXISTS (SELECT FROM halt_end AS e WHERE e.scope = b.scope AND e.epoch > b.epoch)
    ON CONFLICT (scope) DO NOTHING;
END
$$;

-- A guard by hand. Without any instance later guards are as long as the caller's.
CREATE FUNCTION distrust_v1(guard_ms bigint, lossless boolean) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    guard bigint := longest_guard(guard_ms);
    guarded bigint;
BEGIN
    PERFORM admitting_nothing();
    PERFORM FROM cluster FOR UPDATE;
    PERFORM FROM store_clock AS c WHERE c.one FOR UPDATE;
    PERFORM recognize(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, guard_ms, lossless);
    UPDATE life AS l SET guarded_until = greatest(l.guarded_until, wall_ms() + guard);
    SELECT max(l.guarded_until) INTO STRICT guarded FROM life AS l;
    -- After a step of the clock slots may be of a time that is more than a turn of the ring ahead, and refuse all that comes
    -- before it. The guard covers their content.
    UPDATE slot AS s SET slice = 0, filling = true FROM cluster AS k WHERE (s.slice - 8) * k.slice_ms > guarded;
    PERFORM accept_clock();
    IF NOT EXISTS (SELECT FROM instance) THEN
        UPDATE cluster AS k SET guard_ms = distrust_v1.guard_ms;
    END IF;
    RETURN guarded;
END
$$;

-- The server's clock, the store's time, how far a step has put the two apart, and whether nothing is deleted for its age.
CREATE FUNCTION time_v1(OUT o_at bigint, OUT o_now bigint, OUT o_apart bigint, OUT o_keeps boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
BEGIN
    o_at := wall_ms();
    o_now := now_ms();
    o_apart := coalesce((SELECT c.wall - c.steady FROM store_clock AS c WHERE c.one AND c.apart_since IS NOT NULL), 0);
    o_keeps := deleting_ms() = 0;
END
$$;

-- For `store check`: the inputs of the guard, and the role that asks.
CREATE FUNCTION check_v1(
    OUT o_at bigint, OUT o_system_id bigint, OUT o_timeline bigint, OUT o_wal bigint, OUT o_known boolean,
    OUT o_confirmed boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    server record;
BEGIN
    SELECT * INTO STRICT server FROM identity();
    o_at := wall_ms();
    o_system_id := server.system_id;
    o_timeline := server.timeline;
    o_wal := server.wal;
    SELECT l.confirmed_start = server.started INTO o_confirmed
    FROM life AS l WHERE l.system_id = server.system_id AND l.timeline = server.timeline;
    o_known := FOUND;
    o_confirmed := coalesce(o_confirmed, false);
END
$$;

-- Whether the claims of an instance, in `cap_claim` and `destination_claim`, count at a time.
CREATE FUNCTION claims_count(c_instance bigint, at bigint) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM instance AS n WHERE n.id = c_instance AND n.steady > at - 60000);
END
$$;
