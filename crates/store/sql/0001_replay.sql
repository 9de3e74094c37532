-- Identity, instances, single use of stamps, halts, the ledger.
--
-- Times are milliseconds since 1970: those of lives, stamps and signs of life by this server's clock (`wall_ms`), all others by
-- the store's time (`now_ms`). Tables belong to the role that migrates; the role that serves reads them and executes the
-- functions, nothing more.

-- One life of the store: no acknowledged commit is known to be lost within it.
CREATE TABLE life (
    system_id bigint NOT NULL,
    timeline bigint NOT NULL,
    began bigint NOT NULL,
    -- Stamps up to here are refused: an earlier life may have admitted them and lost it.
    guarded_until bigint NOT NULL,
    -- The latest start of the server (microseconds since 1970) that is known to have lost nothing.
    confirmed_start bigint NOT NULL,
    PRIMARY KEY (system_id, timeline)
);

CREATE TABLE cluster (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    fingerprint_key bytea NOT NULL CHECK (length(fingerprint_key) = 16),
    -- How long a slot of the ring is, in milliseconds of stamps.
    slice_ms bigint NOT NULL DEFAULT 60000 CHECK (slice_ms >= 1000),
    -- Higher after each change of `halt`, in every life: at least the time of the change.
    halt_epoch bigint NOT NULL DEFAULT 0,
    -- The longest guard of any instance that joined, in milliseconds.
    guard_ms bigint NOT NULL DEFAULT 0,
    -- Writes without a body are refused until then: an instance that left served reads while the store was away.
    bodyless_until bigint NOT NULL DEFAULT 0
);
-- 122 bits of it are random.
INSERT INTO cluster (fingerprint_key) VALUES (uuid_send(gen_random_uuid()));

CREATE TABLE instance (
    id bigint PRIMARY KEY,
    began bigint NOT NULL,
    seen bigint NOT NULL,
    host text NOT NULL,
    version text NOT NULL,
    config_hash text NOT NULL,
    journal_head text,
    halt_epoch bigint NOT NULL DEFAULT 0,
    -- Whether it serves reads while the store is away.
    bodyless boolean NOT NULL DEFAULT false,
    -- Its last sign of life in the store's time, by which its claims and its row end.
    steady bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 100);

-- Instances that left, for a day: their rows were not lost.
CREATE TABLE departure (
    id bigint PRIMARY KEY,
    at bigint NOT NULL
);

-- Which slice of time the partition of a slot holds. A slice that is not `filling` is still to be emptied.
CREATE TABLE slot (
    slot smallint PRIMARY KEY CHECK (slot BETWEEN 0 AND 7),
    slice bigint NOT NULL,
    filling boolean NOT NULL
) WITH (fillfactor = 50);
INSERT INTO slot SELECT n, 0, true FROM generate_series(0, 7) AS n;

CREATE TABLE stamp (
    slot smallint NOT NULL,
    print bytea NOT NULL,
    admitted bigint NOT NULL,
    PRIMARY KEY (slot, print)
) PARTITION BY LIST (slot);
CREATE TABLE stamp_0 PARTITION OF stamp FOR VALUES IN (0);
CREATE TABLE stamp_1 PARTITION OF stamp FOR VALUES IN (1);
CREATE TABLE stamp_2 PARTITION OF stamp FOR VALUES IN (2);
CREATE TABLE stamp_3 PARTITION OF stamp FOR VALUES IN (3);
CREATE TABLE stamp_4 PARTITION OF stamp FOR VALUES IN (4);
CREATE TABLE stamp_5 PARTITION OF stamp FOR VALUES IN (5);
CREATE TABLE stamp_6 PARTITION OF stamp FOR VALUES IN (6);
CREATE TABLE stamp_7 PARTITION OF stamp FOR VALUES IN (7);

-- Nonces of parties with `replay = "nonce"`.
CREATE TABLE nonce (
    print bytea PRIMARY KEY,
    admitted bigint NOT NULL,
    until bigint NOT NULL
);
CREATE INDEX nonce_until ON nonce (until);

CREATE TABLE halt (
    scope text PRIMARY KEY,
    since bigint NOT NULL,
    set_by text NOT NULL,
    -- The epoch of the last order to halt it.
    epoch bigint NOT NULL
);

-- The epoch of the last order to end a halt, by its scope: an earlier halt has ended, and was not lost.
CREATE TABLE halt_end (
    scope text PRIMARY KEY,
    epoch bigint NOT NULL
);

-- The order of one operator to end a halt, where two have to order it.
CREATE TABLE halt_proposal (
    scope text PRIMARY KEY,
    -- The epoch of the halt: one that is set once more needs two orders again.
    epoch bigint NOT NULL,
    proposed_by text NOT NULL,
    at bigint NOT NULL
);

-- The ledger: the tenant that each number belongs to.
CREATE TABLE owner (
    kind text NOT NULL,
    key text NOT NULL,
    tenant text NOT NULL,
    account text NOT NULL,
    at bigint NOT NULL,
    currency text,
    operation text NOT NULL,
    source text NOT NULL,
    -- The outcome of the object that the key names, proved by a notification: 1 found, 2 failed, 3 done. It only grows.
    outcome smallint,
    outcome_status text,
    outcome_event uuid,
    outcome_at bigint,
    PRIMARY KEY (kind, key, tenant, account)
);
-- For the end of what was learned by asking. No column of it changes with the use of a key.
CREATE INDEX owner_asked ON owner (operation) WHERE source = 'asked';
-- For a search for a refund by its order or by its number: the key of a refund is both, with a space between them.
CREATE INDEX owner_refund ON owner (key COLLATE "C") WHERE kind = 'prepayId+refundRequestId';
CREATE INDEX owner_refund_number ON owner (substr(key, strpos(key, ' ') + 1), key COLLATE "C")
    WHERE kind = 'prepayId+refundRequestId';

-- The server that answers. The timeline of the control file may lag behind a promotion; that of the log does not.
CREATE FUNCTION identity(OUT system_id bigint, OUT timeline bigint, OUT wal bigint, OUT started bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    flushed pg_lsn := pg_current_wal_flush_lsn();
BEGIN
    system_id := (pg_control_system()).system_identifier;
    timeline := ('x' || substr(pg_walfile_name(flushed), 1, 8))::bit(32)::bigint;
    wal := (flushed - '0/0'::pg_lsn)::bigint;
    started := (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint;
END
$$;

-- Shared by all admissions; taken alone to empty a partition, to halt, or to distrust. Its holder sees the effects of
-- all admissions before it, and all admissions after it see the holder's effects.
CREATE FUNCTION admitting() RETURNS void
LANGUAGE sql VOLATILE AS $$ SELECT pg_advisory_xact_lock_shared(1734437989, 1) $$;
CREATE FUNCTION admitting_nothing() RETURNS void
LANGUAGE plpgsql VOLATILE AS $$ BEGIN PERFORM pg_advisory_xact_lock(1734437989, 1); END $$;

-- Whether a contact shows that acknowledged commits are missing.
CREATE FUNCTION contact_is_missed(
    c_system_id bigint, c_timeline bigint, c_wal bigint, c_print bytea, c_stamp bigint, c_id bigint, c_seen bigint,
    i_system_id bigint, i_timeline bigint, i_wal bigint, slice_ms bigint
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    here slot%ROWTYPE;
    wanted bigint := c_stamp / slice_ms;
BEGIN
    IF c_system_id <> i_system_id OR c_timeline <> i_timeline OR i_wal < c_wal THEN
        RETURN true;
    ELSIF NOT EXISTS (SELECT FROM instance AS n WHERE n.id = c_id AND n.seen >= c_seen)
        AND NOT EXISTS (SELECT FROM departure AS d WHERE d.id = c_id) AND c_seen > wall_ms() - 80000000 THEN
        -- An idle instance as well has its sign of life of each second there.
        RETURN true;
    ELSIF c_print IS NULL THEN
        RETURN false;
    END IF;
    SELECT * INTO STRICT here FROM slot AS s WHERE s.slot = (wanted % 8)::smallint;
    RETURN here.slice < wanted OR here.slice = wanted
        AND NOT EXISTS (SELECT FROM stamp AS t WHERE t.slot = here.slot AND t.print = c_print);
END
$$;

-- How long a guard is: no instance admits stamps that lie further ahead.
CREATE FUNCTION longest_guard(asked_ms bigint) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = gatepay, pg_temp AS $$
BEGIN
    RETURN (SELECT greatest(k.guard_ms, asked_ms) FROM cluster AS k);
END
$$;

-- Compares the server with an instance's last contact, and sets a guard if acknowledged commits may be lost. A contact
-- from before the guard tells nothing new: the guard covers all that it can have seen.
CREATE FUNCTION recognize(
    c_system_id bigint, c_timeline bigint, c_wal bigint, c_at bigint, c_print bytea, c_stamp bigint,
    c_id bigint, c_seen bigint, guard_ms bigint, lossless boolean,
    OUT o_system_id bigint, OUT o_timeline bigint, OUT o_wal bigint, OUT o_guarded bigint, OUT o_renewed boolean
)
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    server record;
    known life%ROWTYPE;
    at_ms bigint := wall_ms();
    newer boolean;
    last_seen bigint;
    guard bigint;
    slice bigint;
BEGIN
    IF lossless THEN
        SELECT 0::bigint AS system_id, 0::bigint AS timeline, 0::bigint AS wal, 0::bigint AS started INTO server;
    ELSE
        server := identity();
    END IF;
    SELECT * INTO known FROM life AS l WHERE l.system_id = server.system_id AND l.timeline = server.timeline;
    o_renewed := NOT FOUND;
    -- After the life: a guard that is set meanwhile makes the contact old, and then has to be seen here.
    SELECT greatest(k.guard_ms, recognize.guard_ms), k.slice_ms, (SELECT max(l.guarded_until) FROM life AS l)
    INTO STRICT guard, slice, o_guarded FROM cluster AS k;
    IF NOT o_renewed AND NOT lossless THEN
        newer := c_at IS NOT NULL AND c_at > known.guarded_until - guard;
        o_renewed := newer AND contact_is_missed(c_system_id, c_timeline, c_wal, c_print, c_stamp, c_id, c_seen,
            server.system_id, server.timeline, server.wal, slice);
        IF NOT o_renewed AND known.confirmed_start <> server.started THEN
            -- Only an instance that was there to the end knows that nothing is missing: two signs of life before it. In a
            -- copy that was put back the end is that of the copy, and lies longer before the start.
            SELECT coalesce(max(n.seen), 0) INTO STRICT last_seen FROM instance AS n;
            o_renewed := c_at IS NULL OR c_at < last_seen - 2000 OR server.started / 1000 > last_seen + 10000;
            IF NOT o_renewed THEN
                UPDATE life AS l SET confirmed_start = server.started
                WHERE l.system_id = server.system_id AND l.timeline = server.timeline;
            END IF;
        END IF;
    END IF;
    IF o_renewed THEN
        INSERT INTO life AS l VALUES (server.system_id, server.timeline, at_ms, at_ms + guard, server.started)
        ON CONFLICT (system_id, timeline) DO UPDATE
        SET guarded_until = greatest(l.guarded_until, excluded.guarded_until),
            confirmed_start = excluded.confirmed_start;
        SELECT max(l.guarded_until) INTO STRICT o_guarded FROM life AS l;
    END IF;
    o_system_id := server.system_id;
    o_timeline := server.timeline;
    o_wal := server.wal;
END
$$;

-- Opens the slices of stamps that can be admitted, if `turn_ring_v1` has not done so ahead of time. The rest of the
-- older slice stays until the slot's next turn: it can refuse nothing, since fingerprints are of whole stamps.
CREATE FUNCTION open_slots(stamps bigint[], slice_ms bigint, above bigint, latest bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    due record;
BEGIN
    FOR due IN
        SELECT s.slot, max(w.slice) AS slice
        FROM (SELECT DISTINCT ms / slice_ms AS slice FROM unnest(stamps) AS ms WHERE ms > above AND ms <= latest) AS w
        JOIN slot AS s ON s.slot = w.slice % 8
        WHERE s.slice < w.slice OR s.slice = w.slice AND NOT s.filling
        GROUP BY s.slot ORDER BY s.slot
    LOOP
        UPDATE slot AS s SET slice = due.slice, filling = true
        WHERE s.slot = due.slot AND (s.slice < due.slice OR s.slice = due.slice AND NOT s.filling);
    END LOOP;
END
$$;
