-- Delivery: claims of endpoints, the heads of lines, attempts, replay, retention.
--
-- Plans are made for the given numbers at each call: a plan that serves every limit reads all lines of a dead tenant's
-- endpoint to find its first four.

-- Claims endpoints for an instance. The function takes no other lock, and waits for no row.
CREATE FUNCTION claim_endpoints_v1(c_instance bigint, most integer, lasts bigint) RETURNS TABLE (
    o_id bigint, o_turn bigint, o_tenant text, o_incarnation bigint, o_account text, o_url text,
    o_failures integer, o_failing_since bigint, o_open_until bigint, o_failed_probes integer
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET enable_seqscan = off AS $$
DECLARE
    at_ms bigint := now_ms();
BEGIN
    RETURN QUERY
        WITH due AS (
            SELECT p.id, p.next_at FROM endpoint AS p
            WHERE p.next_at IS NOT NULL AND p.next_at <= at_ms AND p.claimed_until <= at_ms
            ORDER BY p.next_at, p.id LIMIT most FOR UPDATE SKIP LOCKED
        ), claimed AS (
            UPDATE endpoint AS p SET claimed_by = c_instance, claimed_until = at_ms + lasts, turn = p.turn + 1
            FROM due AS d WHERE p.id = d.id RETURNING p.*, d.next_at AS was_due
        )
        SELECT c.id, c.turn, c.tenant, c.incarnation, i.account, c.url, c.failures, c.failing_since, c.open_until,
            c.failed_probes
        FROM claimed AS c JOIN incarnation AS i USING (tenant, incarnation) ORDER BY c.was_due, c.id;
END
$$;

CREATE FUNCTION renew_claims_v1(ids bigint[], turns bigint[], lasts bigint) RETURNS boolean[]
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET enable_seqscan = off AS $$
DECLARE
    kept boolean[];
BEGIN
    PERFORM notifying();
    WITH renewed AS (
        UPDATE endpoint AS p SET claimed_until = now_ms() + lasts
        FROM unnest(ids, turns) AS c(id, turn)
        WHERE p.id = c.id AND p.turn = c.turn AND p.claimed_by IS NOT NULL RETURNING p.id
    )
    SELECT array_agg(r.id IS NOT NULL ORDER BY c.n) INTO kept
    FROM unnest(ids) WITH ORDINALITY AS c(id, n) LEFT JOIN renewed AS r USING (id);
    RETURN kept;
END
$$;

CREATE FUNCTION release_endpoints_v1(ids bigint[], turns bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET enable_seqscan = off AS $$
BEGIN
    PERFORM notifying();
    UPDATE endpoint AS p SET claimed_by = NULL, claimed_until = 0
    FROM unnest(ids, turns) AS c(id, turn) WHERE p.id = c.id AND p.turn = c.turn;
END
$$;

-- The heads of the due lines of claimed endpoints, each by an index.
CREATE FUNCTION due_events_v1(ids bigint[], turns bigint[], most integer) RETURNS TABLE (
    o_claim bigint, o_line bigint, o_id text, o_kind text, o_object text, o_status text, o_received bigint,
    o_waits_since bigint, o_attempts integer, o_failed integer, o_conflict boolean, o_changed boolean, o_body bytea
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = gatepay, pg_temp SET enable_seqscan = off AS $$
DECLARE
    at_ms bigint := now_ms();
BEGIN
    RETURN QUERY
        SELECT c.n, d.object, e.id::text, e.kind, e.object, e.status, e.received, greatest(e.waits_since, p.on_since),
            e.attempts, e.failed,
            e.has_conflict, e.is_changed, e.body
        FROM unnest(ids, turns) WITH ORDINALITY AS c(id, turn, n)
        JOIN endpoint AS p ON p.id = c.id AND p.turn = c.turn AND p.claimed_until > at_ms AND p.off IS NULL
        CROSS JOIN LATERAL (
            SELECT l.object, l.head, l.next_at FROM line AS l
            WHERE l.endpoint = p.id AND l.next_at <= at_ms ORDER BY l.next_at, l.object LIMIT most
        ) AS d
        JOIN event AS e ON e.id = d.head
        ORDER BY c.n, d.next_at, d.object;
END
$$;

-- Effects: 0 delivered, 1 due again after the delay, 2 dead, 3 the endpoint is gone: the delay is the print of its URL.
-- Verdicts: 0 recorded, 1 the claim is another's, 2 the event waits no more, 3 no such event.
CREATE FUNCTION record_attempts_v1(
    events text[], ids bigint[], turns bigint[], instances bigint[], tooks bigint[], http_statuses integer[],
    outcomes text[], saids bytea[], effects smallint[], delays bigint[],
    b_failures integer[], b_failing_since bigint[], b_open_until bigint[], b_failed_probes integer[]
) RETURNS smallint[]
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET enable_seqscan = off AS $$
DECLARE
    ended record;
    known event%ROWTYPE;
    at_ms bigint;
    is_valid boolean;
    after text;
    verdicts smallint[] := '{}';
BEGIN
    PERFORM notifying();
    at_ms := now_ms();
    FOR ended IN
        SELECT * FROM unnest(events, ids, turns, instances, tooks, http_statuses, outcomes, saids, effects, delays,
            b_failures, b_failing_since, b_open_until, b_failed_probes) WITH ORDINALITY AS t(event, id, turn, instance, took,
            http_status, outcome, said, effect, delay, failures, failing_since, open_until, failed_probes, n) ORDER BY n
    LOOP
        SELECT * INTO known FROM event AS e WHERE e.id = ended.event::uuid;
        IF NOT FOUND THEN
            verdicts := verdicts || 3::smallint;
            CONTINUE;
        END IF;
        is_valid := known.endpoint = ended.id AND EXISTS (
            SELECT FROM endpoint AS p WHERE p.id = ended.id AND p.turn = ended.turn);
        is_valid := coalesce(is_valid, false);
        INSERT INTO attempt VALUES (known.id, known.attempts + 1, at_ms, ended.instance, ended.took, ended.http_status,
            ended.outcome, ended.said);
        after := known.state;
        IF ended.effect = 0 AND known.object_id IS NOT NULL THEN
            after := 'delivered';
        ELSIF ended.effect = 2 AND is_valid AND known.state = 'waiting' THEN
            after := 'dead';
        END IF;
        UPDATE event AS e SET attempts = e.attempts + 1, state = after,
            failed = e.failed + CASE WHEN is_valid AND e.state = 'waiting' AND ended.effect IN (1, 2) THEN 1 ELSE 0 END,
            next_at = CASE WHEN after <> 'waiting' THEN NULL WHEN is_valid AND ended.effect = 1 THEN at_ms + ended.delay
                ELSE e.next_at END
        WHERE e.id = known.id;
        UPDATE endpoint AS p SET
            waiting = p.waiting - CASE WHEN known.state = 'waiting' AND after <> 'waiting' THEN 1 ELSE 0 END,
            dead = p.dead + CASE WHEN after = 'dead' THEN 1 ELSE 0 END - CASE WHEN known.state = 'dead' THEN 1 ELSE 0 END
        WHERE p.id = known.endpoint AND after <> known.state;
        IF is_valid THEN
            UPDATE endpoint AS p SET failures = ended.failures, failing_since = ended.failing_since,
                open_until = ended.open_until, failed_probes = ended.failed_probes,
                off = CASE WHEN ended.effect = 3 THEN coalesce(p.off, 'gone') ELSE p.off END,
                gone = CASE WHEN ended.effect = 3 THEN ended.delay ELSE p.gone END
            WHERE p.id = ended.id;
        END IF;
        IF known.object_id IS NOT NULL THEN
            PERFORM refresh_line(known.object_id);
            PERFORM refresh_endpoint(known.endpoint);
        END IF;
        verdicts := verdicts || (CASE WHEN NOT is_valid THEN 1 WHEN known.state <> 'waiting' THEN 2 ELSE 0 END)::smallint;
    END LOOP;
    RETURN verdicts;
END
$$;

-- Turns an endpoint off for a reason, or on with NULL: that one stays off which belongs to an older incarnation. What waits
-- for an endpoint that is turned on waits from then on: the time before is not the tenant's.
CREATE FUNCTION turn_endpoint_v1(t_tenant text, t_incarnation bigint, t_url text, reason text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    which bigint;
BEGIN
    PERFORM notifying();
    IF reason IS NULL AND newest_incarnation(t_tenant) <> t_incarnation THEN
        RETURN;
    END IF;
    UPDATE endpoint AS p SET off = reason,
        on_since = CASE WHEN reason IS NULL THEN now_ms() ELSE p.on_since END,
        failures = CASE WHEN reason IS NULL THEN 0 ELSE p.failures END,
        failing_since = CASE WHEN reason IS NULL THEN NULL ELSE p.failing_since END,
        open_until = CASE WHEN reason IS NULL THEN NULL ELSE p.open_until END,
        failed_probes = CASE WHEN reason IS NULL THEN 0 ELSE p.failed_probes END
    WHERE p.tenant = t_tenant AND p.incarnation = t_incarnation AND p.url = t_url RETURNING p.id INTO which;
    PERFORM refresh_endpoint(which);
END
$$;

-- Sends dead events again: one, or those of a tenant since a time.
CREATE FUNCTION replay_v1(
    one text, r_tenant text, r_incarnation bigint, since bigint, most integer,
    OUT o_waiting integer, OUT o_superseded integer
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET enable_seqscan = off AS $$
DECLARE
    dead_event record;
    is_late boolean;
    at_ms bigint;
BEGIN
    o_waiting := 0;
    o_superseded := 0;
    PERFORM notifying();
    at_ms := now_ms();
    FOR dead_event IN
        SELECT e.id, e.object_id, e.endpoint, e.rank FROM event AS e
        WHERE e.state = 'dead' AND one IS NOT NULL AND e.id = one::uuid
        UNION ALL
        (SELECT e.id, e.object_id, e.endpoint, e.rank FROM event AS e
        WHERE e.state = 'dead' AND one IS NULL AND e.tenant = r_tenant AND e.incarnation = r_incarnation
            AND e.received >= since ORDER BY e.received, e.id LIMIT most)
    LOOP
        is_late := EXISTS (SELECT FROM object AS o WHERE o.id = dead_event.object_id AND dead_event.rank < o.rank);
        UPDATE event AS e SET state = CASE WHEN is_late THEN 'superseded' ELSE 'waiting' END, failed = 0,
            waits_since = CASE WHEN is_late THEN e.waits_since ELSE at_ms END,
            next_at = CASE WHEN is_late THEN NULL ELSE at_ms END
        WHERE e.id = dead_event.id;
        UPDATE endpoint AS p SET dead = p.dead - 1, waiting = p.waiting + CASE WHEN is_late THEN 0 ELSE 1 END
        WHERE p.id = dead_event.endpoint;
        UPDATE object AS o SET at = at_ms WHERE o.id = dead_event.object_id;
        PERFORM refresh_line(dead_event.object_id);
        o_waiting := o_waiting + CASE WHEN is_late THEN 0 ELSE 1 END;
        o_superseded := o_superseded + CASE WHEN is_late THEN 1 ELSE 0 END;
    END LOOP;
END
$$;

-- Removes what is older than the given ages, a few rows of each table. Of the ledger a few blocks are looked at, one after
-- another over many calls. Events without an owner stay, but for the operators'.
CREATE FUNCTION retain_v1(
    event_age bigint, attempt_age bigint, owner_age bigint, most integer, blocks integer,
    OUT o_events integer, OUT o_attempts integer, OUT o_owners integer, OUT o_objects integer
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    old record;
    at_ms bigint;
    block bigint;
BEGIN
    o_events := 0;
    o_objects := 0;
    PERFORM notifying();
    at_ms := deleting_ms();
    FOR old IN
        SELECT e.id, e.object_id, e.endpoint, e.state FROM event AS e
        WHERE e.id < uuid_floor(at_ms - event_age) AND e.state <> 'quarantined'
            AND coalesce(e.waits_since, 0) < at_ms - event_age
        ORDER BY e.id LIMIT most
    LOOP
        DELETE FROM attempt AS t WHERE t.event = old.id;
        DELETE FROM event AS e WHERE e.id = old.id;
        IF old.state IN ('waiting', 'dead') THEN
            UPDATE endpoint AS p SET waiting = p.waiting - CASE WHEN old.state = 'waiting' THEN 1 ELSE 0 END,
                dead = p.dead - CASE WHEN old.state = 'dead' THEN 1 ELSE 0 END
            WHERE p.id = old.endpoint;
            PERFORM refresh_line(old.object_id);
        END IF;
        o_events := o_events + 1;
    END LOOP;
    -- An object outlives its events: a replay asks it what has superseded them.
    IF o_events < most THEN
        DELETE FROM object AS o WHERE o.id IN (
            SELECT s.id FROM object AS s WHERE s.at < at_ms - event_age ORDER BY s.at LIMIT most);
        GET DIAGNOSTICS o_objects = ROW_COUNT;
    END IF;
    DELETE FROM attempt AS t USING (
        SELECT s.event, s.number FROM attempt AS s WHERE s.at < at_ms - attempt_age ORDER BY s.at LIMIT most
    ) AS d WHERE t.event = d.event AND t.number = d.number;
    GET DIAGNOSTICS o_attempts = ROW_COUNT;
    UPDATE sweep AS s SET owner_block = CASE
        WHEN (s.owner_block + blocks) * 8192 >= pg_relation_size('gatepay.owner') THEN 0 ELSE s.owner_block + blocks END
    RETURNING s.owner_block INTO STRICT block;
    -- Rows that a call uses again just now are skipped, so that neither waits for the other.
    DELETE FROM owner AS o WHERE o.ctid = ANY (ARRAY(
        SELECT s.ctid FROM owner AS s WHERE s.at < at_ms - owner_age
            AND s.ctid >= format('(%s,0)', block)::tid AND s.ctid < format('(%s,0)', block + blocks)::tid
        FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS o_owners = ROW_COUNT;
    DELETE FROM open_call AS c WHERE c.at < at_ms - owner_age;
END
$$;
