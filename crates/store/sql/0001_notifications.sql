-- Tenants' incarnations, notifications, their delivery, and the tokens of callback URLs.
--
-- Functions that change events come one after another, by one lock: an event's place among its tenant's events is then
-- the order of commits, so that a cursor behind it misses none. They work in batches, each one commit.
--
-- The functions that run for each event plan without sequential scans, so that no stale statistics make one look at all
-- events.

-- The sub-accounts that a tenant id has had. The newest is in force.
CREATE TABLE incarnation (
    tenant text NOT NULL,
    incarnation bigint NOT NULL,
    account text NOT NULL,
    began bigint NOT NULL,
    PRIMARY KEY (tenant, incarnation)
);
CREATE INDEX incarnation_account ON incarnation (account);

-- The credential by which a tenant or operator has made its last call, at any instance: deliveries are signed with it. A row
-- changes when the party goes over to another credential.
CREATE TABLE last_credential (
    party text PRIMARY KEY,
    client_id text NOT NULL
) WITH (fillfactor = 80);

-- A URL of one tenant. Endpoints that are due are found by `next_at`, whatever number of events they have.
CREATE TABLE endpoint (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    incarnation bigint NOT NULL,
    -- Empty for the URL in the tenant's file.
    url text NOT NULL,
    -- When its first line is due, and its breaker is no longer open; NULL if it has no line or is off.
    next_at bigint,
    off text,
    -- When it was turned on last: what waits has not been kept from it before.
    on_since bigint NOT NULL DEFAULT 0,
    -- A digest of the URL that answered 410 last.
    gone bigint,
    failures integer NOT NULL DEFAULT 0,
    failing_since bigint,
    open_until bigint,
    failed_probes integer NOT NULL DEFAULT 0,
    claimed_by bigint,
    claimed_until bigint NOT NULL DEFAULT 0,
    -- Counts claims: an attempt names the one that it was made under.
    turn bigint NOT NULL DEFAULT 0,
    -- The events in these states.
    waiting bigint NOT NULL DEFAULT 0,
    dead bigint NOT NULL DEFAULT 0,
    UNIQUE (tenant, incarnation, url)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
CREATE INDEX endpoint_due ON endpoint (next_at, id) WHERE next_at IS NOT NULL;

-- The highest status of an object that has arrived.
CREATE TABLE object (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    incarnation bigint NOT NULL,
    kind text NOT NULL,
    object text NOT NULL,
    -- A status that is final has an odd number.
    rank bigint,
    final_status text,
    has_conflict boolean NOT NULL DEFAULT false,
    at bigint NOT NULL,
    UNIQUE (tenant, incarnation, kind, object)
) WITH (fillfactor = 80);
CREATE INDEX object_at ON object (at);

-- An object with an event that waits.
CREATE TABLE line (
    object bigint PRIMARY KEY,
    endpoint bigint NOT NULL,
    head uuid NOT NULL,
    next_at bigint NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX line_due ON line (endpoint, next_at, object);

CREATE TABLE event (
    id uuid PRIMARY KEY,
    received bigint NOT NULL,
    kind text NOT NULL,
    object text NOT NULL,
    status text NOT NULL,
    rank bigint,
    -- Digests of kind, object and status, and of the body.
    news bytea NOT NULL,
    body_print bytea NOT NULL,
    token text,
    tenant text,
    incarnation bigint,
    placed_by text,
    object_id bigint,
    endpoint bigint,
    -- The place among the events of all tenants, from when the event got its owner.
    place bigint,
    state text NOT NULL,
    quarantine text,
    decisions integer NOT NULL DEFAULT 0,
    decide_at bigint,
    -- Whether GatePay is asked at that time: these come in a queue of their own, so that the others do not wait for answers.
    asks boolean NOT NULL DEFAULT false,
    is_changed boolean NOT NULL,
    has_conflict boolean NOT NULL DEFAULT false,
    waits_since bigint,
    next_at bigint,
    attempts integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    body bytea NOT NULL,
    UNIQUE (news, body_print)
    -- Bodies stand beside the rows, which change a few times.
) WITH (fillfactor = 80, toast_tuple_target = 256, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE event ALTER COLUMN body SET STORAGE EXTERNAL;
-- For `find`.
CREATE INDEX event_object ON event (object);
CREATE INDEX event_place ON event (tenant, incarnation, place) WHERE tenant IS NOT NULL;
CREATE INDEX event_head ON event (object_id, (rank IS NULL), place) WHERE state = 'waiting';
CREATE INDEX event_oldest ON event (endpoint, received) WHERE state = 'waiting';
CREATE INDEX event_dead ON event (tenant, incarnation, received, id) WHERE state = 'dead';
CREATE INDEX event_listed ON event (state, id) WHERE state IN ('quarantined', 'operator', 'dead');
CREATE INDEX event_decide ON event (asks, decide_at) WHERE state = 'quarantined' AND decide_at IS NOT NULL;
CREATE SEQUENCE event_place_number;

-- The keys that lead from the ledger to events in quarantine.
CREATE TABLE hint (
    kind text NOT NULL,
    key text NOT NULL,
    event uuid NOT NULL,
    PRIMARY KEY (kind, key, event)
);
CREATE INDEX hint_event ON hint (event);

CREATE TABLE attempt (
    event uuid NOT NULL,
    number integer NOT NULL,
    at bigint NOT NULL,
    instance bigint NOT NULL,
    took bigint NOT NULL,
    status integer,
    outcome text NOT NULL,
    said bytea NOT NULL,
    PRIMARY KEY (event, number)
);
CREATE INDEX attempt_at ON attempt (at);

-- The tokens in URLs that GatePay got in place of a tenant's. GatePay may call them for as long as it likes.
CREATE TABLE url_token (
    token text PRIMARY KEY,
    tenant text NOT NULL,
    incarnation bigint NOT NULL,
    url text NOT NULL,
    made_for text NOT NULL,
    at bigint NOT NULL,
    UNIQUE (tenant, incarnation, url, made_for)
);

-- Whether GatePay keeps accounts apart, as a probe has found out last with this credential for each look-up.
CREATE TABLE isolation (
    upstream text NOT NULL,
    client_id text NOT NULL,
    operation text NOT NULL,
    verdict text NOT NULL,
    accounts integer NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (upstream, client_id, operation)
);

-- Assignments by one operator that wait for another one. There are a few at most.
CREATE TABLE proposal (
    event uuid PRIMARY KEY,
    tenant text NOT NULL,
    incarnation bigint NOT NULL,
    proposed_by text NOT NULL,
    at bigint NOT NULL
);

-- Calls whose outcome is not known, by each of their keys. A settled call has no row.
CREATE TABLE open_call (
    kind text NOT NULL,
    key text NOT NULL,
    tenant text NOT NULL,
    account text NOT NULL,
    call text NOT NULL,
    operation text NOT NULL,
    closes boolean NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (kind, key, tenant, account, call)
);
CREATE INDEX open_call_call ON open_call (call);

-- Where the retention goes on with the ledger, which has no index by age: calls would pay for it.
CREATE TABLE sweep (one boolean PRIMARY KEY DEFAULT true CHECK (one), owner_block bigint NOT NULL DEFAULT 0);
INSERT INTO sweep DEFAULT VALUES;

-- The clock for the role that serves, which reads the tables beside the functions.
CREATE FUNCTION clock_v1() RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$ SELECT now_ms() $$;

-- Taken after rows of the ledger, never before them: an answer that a call waits for changes the ledger, and holds up all
-- events only if one of them waits for its keys.
CREATE FUNCTION notifying() RETURNS void
LANGUAGE sql VOLATILE AS $$ SELECT pg_advisory_xact_lock(1734437989, 4) $$;

-- Answers of look-ups, and findings of `probe isolation`, are written one after another, by a lock that is taken before rows of the ledger.
CREATE FUNCTION asking() RETURNS void
LANGUAGE sql VOLATILE AS $$ SELECT pg_advisory_xact_lock(1734437989, 6) $$;

-- Locks rows of the ledger, in the order of all functions that change more than one.
CREATE FUNCTION lock_owners(kinds text[], keys text[], tenants text[], accounts text[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp SET enable_seqscan = off AS $$
BEGIN
    PERFORM FROM unnest(kinds, keys, tenants, accounts) AS r(kind, key, tenant, account)
    JOIN owner AS o ON o.kind = r.kind AND o.key = r.key AND o.tenant = r.tenant AND o.account = r.account
    ORDER BY o.kind COLLATE "C", o.key COLLATE "C", o.tenant, o.account FOR UPDATE OF o;
END
$$;

-- Makes the commit wait for standbys as if the transaction had changed something. What it answers may rest on a commit whose
-- own wait was canceled: then a standby may lack it, and a failover would lose it.
CREATE FUNCTION wait_for_standbys() RETURNS void
LANGUAGE sql VOLATILE AS $$ SELECT pg_logical_emit_message(true, 'gatepay', '') $$;

-- The lowest UUID of version 7 at a time.
CREATE FUNCTION uuid_floor(ms bigint) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex(greatest(ms, 0)), 12, '0') || '00000000000000000000')::uuid
$$;

-- A UUID of version 7: 48 bits of time, 74 random ones.
CREATE FUNCTION event_id(ms bigint) RETURNS uuid
LANGUAGE sql VOLATILE AS $$
    SELECT (lpad(to_hex(ms), 12, '0') || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid
$$;

CREATE FUNCTION newest_incarnation(whose text) RETURNS bigint
LANGUAGE sql STABLE SET search_path = gatepay, pg_temp AS $$
    SELECT coalesce(max(i.incarnation), 0) FROM incarnation AS i WHERE i.tenant = whose
$$;

-- When an endpoint is to be claimed next.
CREATE FUNCTION refresh_endpoint(which bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    due bigint;
BEGIN
    SELECT l.next_at INTO due FROM line AS l WHERE l.endpoint = which ORDER BY l.next_at LIMIT 1;
    UPDATE endpoint AS p
    SET next_at = CASE WHEN p.off IS NULL AND due IS NOT NULL THEN greatest(due, p.open_until) END
    WHERE p.id = which AND p.next_at IS DISTINCT FROM
        CASE WHEN p.off IS NULL AND due IS NOT NULL THEN greatest(due, p.open_until) END;
END
$$;

-- The head of a line: the first event with a rank, which all have the same, or else the first without.
CREATE FUNCTION refresh_line(which bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    first record;
    before bigint;
BEGIN
    SELECT l.endpoint INTO before FROM line AS l WHERE l.object = which;
    SELECT e.id, e.endpoint, e.next_at INTO first FROM event AS e
    WHERE e.object_id = which AND e.state = 'waiting' ORDER BY (e.rank IS NULL), e.place LIMIT 1;
    IF FOUND THEN
        INSERT INTO line AS l VALUES (which, first.endpoint, first.id, first.next_at)
        ON CONFLICT (object) DO UPDATE
        SET endpoint = excluded.endpoint, head = excluded.head, next_at = excluded.next_at;
        PERFORM refresh_endpoint(first.endpoint);
    ELSE
        DELETE FROM line AS l WHERE l.object = which;
    END IF;
    IF before IS DISTINCT FROM first.endpoint THEN
        PERFORM refresh_endpoint(before);
    END IF;
END
$$;

-- Takes the status of an event into its object, and supersedes what is lower: `ObjectProgress::arrive` in Rust.
CREATE FUNCTION progress_object(
    e_tenant text, e_incarnation bigint, e_url text, e_kind text, e_object text, e_status text, e_rank bigint, at_ms bigint,
    OUT o_object bigint, OUT o_endpoint bigint, OUT o_state text, OUT o_conflict boolean
)
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    known object%ROWTYPE;
BEGIN
    o_state := 'waiting';
    o_conflict := false;
    SELECT p.id INTO o_endpoint FROM endpoint AS p
    WHERE p.tenant = e_tenant AND p.incarnation = e_incarnation AND p.url = e_url;
    IF NOT FOUND THEN
        INSERT INTO endpoint AS p (tenant, incarnation, url) VALUES (e_tenant, e_incarnation, e_url)
        RETURNING p.id INTO o_endpoint;
    END IF;
    SELECT * INTO known FROM object AS o
    WHERE o.tenant = e_tenant AND o.incarnation = e_incarnation AND o.kind = e_kind AND o.object = e_object;
    IF NOT FOUND THEN
        INSERT INTO object AS o (tenant, incarnation, kind, object, at)
        VALUES (e_tenant, e_incarnation, e_kind, e_object, at_ms) RETURNING * INTO known;
    END IF;
    o_object := known.id;
    IF e_rank < known.rank THEN
        o_state := 'superseded';
    ELSIF e_rank IS NOT NULL THEN
        IF e_rank % 2 = 1 THEN
            known.final_status := coalesce(known.final_status, e_status);
            known.has_conflict := known.has_conflict OR known.final_status <> e_status;
            o_conflict := known.has_conflict;
        END IF;
        IF known.rank IS NULL OR known.rank < e_rank THEN
            WITH lower AS (
                UPDATE event AS e SET state = 'superseded', next_at = NULL
                WHERE e.object_id = known.id AND e.state = 'waiting' AND e.rank < e_rank RETURNING e.endpoint
            ), counted AS (SELECT w.endpoint, count(*) AS events FROM lower AS w GROUP BY w.endpoint)
            UPDATE endpoint AS p SET waiting = p.waiting - c.events FROM counted AS c WHERE p.id = c.endpoint;
        END IF;
        known.rank := e_rank;
    END IF;
    UPDATE object AS o SET rank = known.rank, final_status = known.final_status, has_conflict = known.has_conflict, at = at_ms
    WHERE o.id = known.id;
    IF o_state = 'waiting' THEN
        UPDATE endpoint AS p SET waiting = p.waiting + 1 WHERE p.id = o_endpoint;
    END IF;
END
$$;

CREATE FUNCTION register_tenants_v1(tenants text[], accounts text[]) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET enable_seqscan = off AS $$
DECLARE
    asked record;
    known incarnation%ROWTYPE;
    numbers bigint[] := '{}';
BEGIN
    PERFORM notifying();
    FOR asked IN SELECT * FROM unnest(tenants, accounts) WITH ORDINALITY AS t(tenant, account, n) ORDER BY n LOOP
        SELECT * INTO known FROM incarnation AS i WHERE i.tenant = asked.tenant ORDER BY i.incarnation DESC LIMIT 1;
        IF known.account IS DISTINCT FROM asked.account THEN
            INSERT INTO incarnation AS i
            VALUES (asked.tenant, coalesce(known.incarnation, 0) + 1, asked.account, now_ms()) RETURNING * INTO known;
            UPDATE endpoint AS p SET off = 'removed', next_at = NULL
            WHERE p.tenant = asked.tenant AND p.incarnation < known.incarnation;
        END IF;
        numbers := numbers || known.incarnation;
    END LOOP;
    RETURN numbers;
END
$$;

-- Takes over which credential the parties have used last, NULL for no news, and answers with the last one of each party. What is
-- known already writes nothing. The order of the rows keeps two instances from waiting for each other.
CREATE FUNCTION last_credentials_v1(parties text[], used text[]) RETURNS TABLE (o_client_id text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET enable_seqscan = off AS $$
BEGIN
    INSERT INTO last_credential AS c (party, client_id)
    SELECT n.party, n.client_id FROM unnest(parties, used) AS n(party, client_id)
    WHERE n.client_id IS DISTINCT FROM (SELECT k.client_id FROM last_credential AS k WHERE k.party = n.party)
        AND n.client_id IS NOT NULL
    ORDER BY n.party COLLATE "C"
    ON CONFLICT (party) DO UPDATE SET client_id = excluded.client_id WHERE c.client_id <> excluded.client_id;
    RETURN QUERY SELECT c.client_id FROM unnest(parties) WITH ORDINALITY AS n(party, place)
        LEFT JOIN last_credential AS c ON c.party = n.party ORDER BY n.place;
END
$$;

-- The ids of events in quarantine that name one of the keys; they are due for another decision. By a look-up that shows the
-- objects of other accounts nothing is learned. An answer to a call proves more than one that was asked for.
-- A row without the currency of its order takes it from a later note. Of two different ones neither is certain: '?' stands for
-- that, and stays, so that no refund of the order is counted in a currency that somebody may have chosen for it.
CREATE FUNCTION note_owners_v1(
    kinds text[], keys text[], tenants text[], accounts text[], ats bigint[], operations text[], currencies text[], o_source text
) RETURNS text[]
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET enable_seqscan = off AS $$
DECLARE
    at_ms bigint := now_ms();
    woken text[];
BEGIN
    IF o_source = 'asked' THEN
        PERFORM asking();
    END IF;
    INSERT INTO owner (kind, key, tenant, account, at, currency, operation, source)
    SELECT DISTINCT ON (r.kind COLLATE "C", r.key COLLATE "C", r.tenant, r.account)
        r.kind, r.key, r.tenant, r.account,
        max(coalesce(r.at, at_ms)) OVER (PARTITION BY r.kind, r.key, r.tenant, r.account),
        CASE WHEN min(r.currency) OVER w = max(r.currency) OVER w THEN max(r.currency) OVER w
            WHEN max(r.currency) OVER w IS NOT NULL THEN '?' END, r.operation, o_source
    FROM unnest(kinds, keys, tenants, accounts, ats, operations, currencies)
        WITH ORDINALITY AS r(kind, key, tenant, account, at, operation, currency, n)
    WHERE o_source <> 'asked'
        OR NOT EXISTS (SELECT FROM isolation AS i WHERE i.operation = r.operation AND i.verdict = 'shared')
    WINDOW w AS (PARTITION BY r.kind, r.key, r.tenant, r.account)
    ORDER BY r.kind COLLATE "C", r.key COLLATE "C", r.tenant, r.account, r.n
    -- A tenant id that has a former sub-account again uses the key as another tenant: the last use counts.
    ON CONFLICT ON CONSTRAINT owner_pkey DO UPDATE SET at = greatest(owner.at, excluded.at),
        source = CASE WHEN owner.source = 'asked' THEN excluded.source ELSE owner.source END,
        operation = CASE WHEN owner.source = 'asked' THEN excluded.operation ELSE owner.operation END,
        currency = CASE WHEN owner.currency <> excluded.currency THEN '?'
            ELSE coalesce(owner.currency, excluded.currency) END
    WHERE owner.at < excluded.at OR (owner.source = 'asked' AND excluded.source <> 'asked')
        OR excluded.currency IS NOT NULL AND owner.currency IS DISTINCT FROM excluded.currency AND owner.currency IS DISTINCT FROM '?';
    PERFORM wait_for_standbys();
    IF NOT EXISTS (SELECT FROM unnest(kinds, keys) AS r(kind, key) JOIN hint AS h USING (kind, key)) THEN
        RETURN '{}';
    END IF;
    PERFORM notifying();
    WITH due AS (
        UPDATE event AS e SET decide_at = at_ms, asks = false
        WHERE e.state = 'quarantined'
            AND e.id IN (SELECT h.event FROM unnest(kinds, keys) AS r(kind, key) JOIN hint AS h USING (kind, key))
        RETURNING e.id
    )
    SELECT coalesce(array_agg(d.id::text ORDER BY d.id), '{}') INTO woken FROM due AS d;
    RETURN woken;
END
$$;

-- Records calls without a known outcome. Those whose object has an outcome already are settled: their rows are the answer.
-- A call that closes an order is settled only by the order's end.
CREATE FUNCTION note_open_calls_v1(
    kinds text[], keys text[], tenants text[], accounts text[], calls text[], operations text[], closings boolean[]
) RETURNS TABLE (
    call text, tenant text, account text, operation text, closes boolean, open_since bigint,
    outcome smallint, status text, event text, at bigint
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    at_ms bigint := now_ms();
    settled record;
BEGIN
    PERFORM notifying();
    INSERT INTO open_call (kind, key, tenant, account, call, operation, closes, at)
    SELECT r.kind, r.key, r.tenant, r.account, r.call, r.operation, r.closing, at_ms
    FROM unnest(kinds, keys, tenants, accounts, calls, operations, closings)
        AS r(kind, key, tenant, account, call, operation, closing)
    ON CONFLICT DO NOTHING;
    FOR settled IN
        SELECT DISTINCT ON (c.call COLLATE "C") c.call, c.tenant, c.account, c.operation, c.closes, c.at,
            o.outcome, o.outcome_status, o.outcome_event, o.outcome_at
        FROM open_call AS c
        JOIN owner AS o ON o.kind = c.kind AND o.key = c.key AND o.tenant = c.tenant AND o.account = c.account
        WHERE c.call = ANY (calls) AND o.outcome > CASE WHEN c.closes THEN 1 ELSE 0 END
        ORDER BY c.call COLLATE "C", o.outcome DESC, c.kind COLLATE "C", c.key COLLATE "C"
    LOOP
        DELETE FROM open_call AS c WHERE c.call = settled.call;
        RETURN QUERY SELECT settled.call, settled.tenant, settled.account, settled.operation, settled.closes, settled.at,
            settled.outcome, settled.outcome_status, settled.outcome_event::text, settled.outcome_at;
    END LOOP;
END
$$;

-- Takes proved outcomes into the ledger, one row of the arguments for each key, and settles open calls. A row of the
-- answer is a change of the ledger (`call` is NULL, `before` the outcome before) or a call. The caller has locked the rows of the
-- ledger: one that came since is not waited for.
CREATE FUNCTION take_outcomes_v1(
    kinds text[], keys text[], tenants text[], accounts text[], outcomes smallint[], statuses text[], events text[]
) RETURNS TABLE (
    n bigint, call text, tenant text, account text, operation text, closes boolean, open_since bigint,
    before smallint, outcome smallint, status text, event text, at bigint
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    at_ms bigint;
    came record;
    known record;
    open record;
BEGIN
    PERFORM notifying();
    at_ms := now_ms();
    FOR came IN
        SELECT * FROM unnest(kinds, keys, tenants, accounts, outcomes, statuses, events) WITH ORDINALITY
            AS r(kind, key, tenant, account, outcome, status, event, n) ORDER BY r.n
    LOOP
        SELECT o.operation, o.outcome INTO known FROM owner AS o
        WHERE o.kind = came.kind AND o.key = came.key AND o.tenant = came.tenant AND o.account = came.account
        FOR UPDATE SKIP LOCKED;
        IF FOUND AND coalesce(known.outcome, 0) < came.outcome THEN
            UPDATE owner AS o SET outcome = came.outcome, outcome_status = came.status, outcome_event = came.event::uuid,
                outcome_at = at_ms
            WHERE o.kind = came.kind AND o.key = came.key AND o.tenant = came.tenant AND o.account = came.account;
            RETURN QUERY SELECT came.n, NULL::text, came.tenant, came.account, known.operation, NULL::boolean, NULL::bigint,
                known.outcome, came.outcome, came.status, came.event, at_ms;
        END IF;
        FOR open IN
            SELECT c.* FROM open_call AS c
            WHERE c.kind = came.kind AND c.key = came.key AND c.tenant = came.tenant AND c.account = came.account
                AND (came.outcome > 1 OR NOT c.closes)
            ORDER BY c.call COLLATE "C"
        LOOP
            DELETE FROM open_call AS c WHERE c.call = open.call;
            RETURN QUERY SELECT came.n, open.call, open.tenant, open.account, open.operation, open.closes, open.at,
                NULL::smallint, came.outcome, came.status, came.event, at_ms;
        END LOOP;
    END LOOP;
END
$$;

-- `take_outcomes_v1` by itself.
CREATE FUNCTION settle_objects_v1(
    kinds text[], keys text[], tenants text[], accounts text[], outcomes smallint[], statuses text[], events text[]
) RETURNS TABLE (
    n bigint, call text, tenant text, account text, operation text, closes boolean, open_since bigint,
    before smallint, outcome smallint, status text, event text, at bigint
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
BEGIN
    PERFORM lock_owners(kinds, keys, tenants, accounts);
    RETURN QUERY SELECT * FROM take_outcomes_v1(kinds, keys, tenants, accounts, outcomes, statuses, events);
END
$$;

-- Verdicts: 0 the token, 1 too many URLs, 2 another incarnation.
CREATE FUNCTION callback_token_v1(
    t_tenant text, t_incarnation bigint, t_url text, t_made_for text, proposed text, most integer,
    OUT verdict smallint, OUT o_token text
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
BEGIN
    verdict := 0;
    SELECT t.token INTO o_token FROM url_token AS t
    WHERE t.tenant = t_tenant AND t.incarnation = t_incarnation AND t.url = t_url AND t.made_for = t_made_for;
    IF FOUND AND newest_incarnation(t_tenant) = t_incarnation THEN
        PERFORM wait_for_standbys();
        RETURN;
    END IF;
    PERFORM notifying();
    IF newest_incarnation(t_tenant) <> t_incarnation THEN
        verdict := 2;
        o_token := NULL;
        RETURN;
    ELSIF (
        SELECT count(DISTINCT t.url) FROM url_token AS t
        WHERE t.tenant = t_tenant AND t.incarnation = t_incarnation AND t.url <> t_url
    ) >= most THEN
        verdict := 1;
        RETURN;
    END IF;
    INSERT INTO url_token VALUES (proposed, t_tenant, t_incarnation, t_url, t_made_for, now_ms())
    ON CONFLICT (tenant, incarnation, url, made_for) DO NOTHING;
    SELECT t.token INTO STRICT o_token FROM url_token AS t
    WHERE t.tenant = t_tenant AND t.incarnation = t_incarnation AND t.url = t_url AND t.made_for = t_made_for;
END
$$;

-- Results: 0 new, 1 changed, 2 duplicate. An event whose tenant is another incarnation by now goes into quarantine.
CREATE FUNCTION receive_v1(
    kinds text[], objects text[], statuses text[], ranks bigint[], newses bytea[], prints bytea[], bodies bytea[],
    tokens text[], tenants text[], incarnations bigint[], urls text[], bases text[], quarantines text[],
    hint_rows integer[], hint_kinds text[], hint_keys text[], decide_after bigint,
    OUT results smallint[], OUT ids text[], OUT states text[], OUT conflicts boolean[], OUT reasons text[]
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET enable_seqscan = off AS $$
DECLARE
    came record;
    known record;
    placed record;
    at_ms bigint;
    made uuid;
    changed boolean;
    is_owned boolean;
    reason text;
BEGIN
    results := '{}'; ids := '{}'; states := '{}'; conflicts := '{}'; reasons := '{}';
    PERFORM notifying();
    at_ms := now_ms();
    FOR came IN
        SELECT * FROM unnest(kinds, objects, statuses, ranks, newses, prints, bodies, tokens, tenants, incarnations, urls,
            bases, quarantines) WITH ORDINALITY AS t(kind, object, status, rank, news, print, body, token, tenant,
            incarnation, url, basis, quarantine, n) ORDER BY n
    LOOP
        SELECT e.id, e.state, e.has_conflict, e.quarantine INTO known FROM event AS e
        WHERE e.news = came.news AND e.body_print = came.print;
        IF FOUND THEN
            results := results || 2::smallint;
            ids := ids || known.id::text;
            states := states || known.state;
            conflicts := conflicts || known.has_conflict;
            reasons := array_append(reasons, known.quarantine);
            PERFORM wait_for_standbys();
            CONTINUE;
        END IF;
        changed := EXISTS (SELECT FROM event AS e WHERE e.news = came.news);
        made := event_id(at_ms);
        reason := came.quarantine;
        is_owned := came.tenant IS NOT NULL;
        IF is_owned AND newest_incarnation(came.tenant) <> came.incarnation THEN
            is_owned := false;
            reason := 'removed';
        END IF;
        SELECT NULL::bigint AS o_object, NULL::bigint AS o_endpoint,
            CASE WHEN reason IS NULL THEN 'operator' ELSE 'quarantined' END AS o_state, false AS o_conflict INTO placed;
        IF is_owned THEN
            SELECT * INTO placed FROM progress_object(came.tenant, came.incarnation, came.url, came.kind, came.object,
                came.status, came.rank, at_ms);
        END IF;
        INSERT INTO event (id, received, kind, object, status, rank, news, body_print, token, tenant, incarnation, placed_by,
            object_id, endpoint, place, state, quarantine, decide_at, is_changed, has_conflict, waits_since, next_at, body)
        VALUES (made, at_ms, came.kind, came.object, came.status, came.rank, came.news, came.print, came.token,
            CASE WHEN is_owned THEN came.tenant END, CASE WHEN is_owned THEN came.incarnation END,
            CASE WHEN is_owned THEN came.basis END, placed.o_object, placed.o_endpoint,
            CASE WHEN is_owned THEN nextval('event_place_number') END, placed.o_state, reason,
            CASE WHEN reason IS NOT NULL THEN at_ms + decide_after END, changed, placed.o_conflict,
            CASE WHEN placed.o_state = 'waiting' THEN at_ms END, CASE WHEN placed.o_state = 'waiting' THEN at_ms END,
            came.body);
        IF is_owned THEN
            PERFORM refresh_line(placed.o_object);
        ELSIF reason IS NOT NULL THEN
            INSERT INTO hint SELECT h.kind, h.key, made FROM unnest(hint_rows, hint_kinds, hint_keys) AS h(n, kind, key)
            WHERE h.n = came.n ON CONFLICT DO NOTHING;
        END IF;
        results := results || changed::integer::smallint;
        ids := ids || made::text;
        states := states || placed.o_state;
        conflicts := conflicts || placed.o_conflict;
        reasons := array_append(reasons, reason);
    END LOOP;
END
$$;

-- Events in quarantine that are due for another decision, of one of the two queues. They are not due again for a while. A decision
-- counts once it is made, by `settle_v1`: one whose instance has ended meanwhile costs the event none of the next ones.
CREATE FUNCTION take_quarantined_v1(asking boolean, most integer, lease bigint) RETURNS TABLE (
    o_id text, o_received bigint, o_reason text, o_decisions integer, o_token text, o_body bytea
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET enable_seqscan = off AS $$
DECLARE
    at_ms bigint := now_ms();
BEGIN
    IF NOT EXISTS (
        SELECT FROM event AS e
        WHERE e.state = 'quarantined' AND e.asks = asking AND e.decide_at IS NOT NULL AND e.decide_at <= at_ms
    ) THEN
        RETURN;
    END IF;
    PERFORM notifying();
    RETURN QUERY
        WITH due AS (
            SELECT e.id, e.decide_at FROM event AS e
            WHERE e.state = 'quarantined' AND e.asks = asking AND e.decide_at IS NOT NULL AND e.decide_at <= at_ms
            ORDER BY e.decide_at, e.id LIMIT most
        ), taken AS (
            UPDATE event AS e SET decide_at = at_ms + lease FROM due AS d WHERE e.id = d.id
            RETURNING e.id, e.received, e.quarantine, e.decisions, e.token, e.body, d.decide_at AS was_due
        )
        SELECT t.id::text, t.received, t.quarantine, t.decisions + 1, t.token, t.body FROM taken AS t
        ORDER BY t.was_due, t.id;
END
$$;

-- Whether an event waits, or is dead, for a former incarnation of a tenant with the sub-account that the tenant's newest one has: for
-- that one it is never sent. By another sub-account it is nobody's but the former one's.
CREATE FUNCTION is_of_former(f_state text, f_tenant text, f_incarnation bigint, to_tenant text, to_incarnation bigint)
RETURNS boolean
LANGUAGE sql STABLE SET search_path = gatepay, pg_temp AS $$
    SELECT f_state IN ('waiting', 'dead') AND f_tenant = to_tenant AND f_incarnation < to_incarnation
        AND newest_incarnation(to_tenant) = to_incarnation
        AND EXISTS (SELECT FROM incarnation AS f JOIN incarnation AS n ON n.account = f.account
            WHERE f.tenant = to_tenant AND f.incarnation = f_incarnation
                AND n.tenant = to_tenant AND n.incarnation = to_incarnation)
$$;

-- Gives an event without an owner its place, if it is in one of the states. An operator, whose assignments are also from the state
-- 'operator', gives a tenant besides what waits for a former incarnation with the same sub-account. `delay` is NULL for no further decision.
-- `to_ask` has it decided again at once, by an answer of GatePay's. The keys are those whose outcome the event proves, which
-- `take_outcomes_v1` takes over next.
CREATE FUNCTION settle_v1(
    which text, from_states text[], s_tenant text, s_incarnation bigint, s_url text, s_basis text, reason text, delay bigint,
    to_ask boolean, kinds text[], keys text[], tenants text[], accounts text[],
    OUT o_state text, OUT o_conflict boolean, OUT o_reason text
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET enable_seqscan = off AS $$
DECLARE
    known event%ROWTYPE;
    placed record;
    at_ms bigint;
BEGIN
    PERFORM lock_owners(kinds, keys, tenants, accounts);
    PERFORM notifying();
    at_ms := now_ms();
    SELECT * INTO known FROM event AS e WHERE e.id = which::uuid AND (e.state = ANY (from_states)
        OR 'operator' = ANY (from_states) AND is_of_former(e.state, e.tenant, e.incarnation, s_tenant, s_incarnation));
    IF NOT FOUND THEN
        RETURN;
    END IF;
    o_state := known.state;
    o_conflict := false;
    IF s_tenant IS NOT NULL AND newest_incarnation(s_tenant) = s_incarnation THEN
        SELECT * INTO placed FROM progress_object(s_tenant, s_incarnation, s_url, known.kind, known.object, known.status,
            known.rank, at_ms);
        o_state := placed.o_state;
        o_conflict := placed.o_conflict;
        UPDATE event AS e SET tenant = s_tenant, incarnation = s_incarnation, placed_by = s_basis,
            object_id = placed.o_object, endpoint = placed.o_endpoint, place = nextval('event_place_number'),
            state = placed.o_state, has_conflict = e.has_conflict OR placed.o_conflict, quarantine = NULL, decide_at = NULL,
            failed = 0, waits_since = CASE WHEN placed.o_state = 'waiting' THEN at_ms END,
            next_at = CASE WHEN placed.o_state = 'waiting' THEN at_ms END
        WHERE e.id = known.id;
        IF known.endpoint IS NOT NULL THEN
            UPDATE endpoint AS p SET waiting = p.waiting - CASE WHEN known.state = 'waiting' THEN 1 ELSE 0 END,
                dead = p.dead - CASE WHEN known.state = 'dead' THEN 1 ELSE 0 END
            WHERE p.id = known.endpoint;
            PERFORM refresh_line(known.object_id);
        END IF;
        PERFORM refresh_line(placed.o_object);
        DELETE FROM hint AS h WHERE h.event = known.id;
    ELSIF s_tenant IS NULL AND reason IS NULL THEN
        o_state := 'operator';
        UPDATE event AS e SET state = 'operator', quarantine = NULL, decide_at = NULL WHERE e.id = known.id;
        DELETE FROM hint AS h WHERE h.event = known.id;
    ELSIF 'operator' = ANY (from_states) THEN
        -- An operator's assignment to a tenant that is another incarnation by now changes nothing.
        o_reason := known.quarantine;
    ELSE
        o_reason := CASE WHEN s_tenant IS NULL THEN reason ELSE 'removed' END;
        -- The ledger has learned a key since the event was taken, if it is due: it stays due, for a decision with that key.
        UPDATE event AS e SET quarantine = o_reason, decisions = e.decisions + CASE WHEN to_ask THEN 0 ELSE 1 END,
            decide_at = CASE WHEN e.decide_at <= at_ms THEN e.decide_at ELSE at_ms + delay END,
            asks = to_ask AND coalesce(e.decide_at > at_ms, true)
        WHERE e.id = known.id;
    END IF;
END
$$;

-- Gives the events to a tenant that wait for other tenants with its account, the oldest first.
CREATE FUNCTION hand_over_news_v1(h_tenant text, h_incarnation bigint, h_account text, h_basis text, most integer)
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET enable_seqscan = off AS $$
DECLARE
    known event%ROWTYPE;
    placed record;
    at_ms bigint;
    given integer := 0;
BEGIN
    IF NOT EXISTS (
        SELECT FROM incarnation AS i
        JOIN endpoint AS p ON p.tenant = i.tenant AND p.incarnation = i.incarnation AND p.waiting > 0
        WHERE i.account = h_account AND i.tenant <> h_tenant
    ) THEN
        RETURN 0;
    END IF;
    PERFORM notifying();
    at_ms := now_ms();
    IF newest_incarnation(h_tenant) <> h_incarnation THEN
        RETURN 0;
    END IF;
    FOR known IN
        SELECT e.* FROM incarnation AS i
        JOIN endpoint AS p ON p.tenant = i.tenant AND p.incarnation = i.incarnation
        JOIN event AS e ON e.endpoint = p.id AND e.state = 'waiting'
        WHERE i.account = h_account AND i.tenant <> h_tenant ORDER BY e.place LIMIT most
    LOOP
        UPDATE endpoint AS p SET waiting = p.waiting - 1 WHERE p.id = known.endpoint;
        SELECT * INTO placed FROM progress_object(h_tenant, h_incarnation, '', known.kind, known.object, known.status,
            known.rank, at_ms);
        UPDATE event AS e SET tenant = h_tenant, incarnation = h_incarnation, placed_by = h_basis,
            object_id = placed.o_object, endpoint = placed.o_endpoint, place = nextval('event_place_number'),
            state = placed.o_state, has_conflict = e.has_conflict OR placed.o_conflict, failed = 0,
            waits_since = CASE WHEN placed.o_state = 'waiting' THEN at_ms END,
            next_at = CASE WHEN placed.o_state = 'waiting' THEN at_ms END
        WHERE e.id = known.id;
        PERFORM refresh_line(known.object_id);
        PERFORM refresh_line(placed.o_object);
        given := given + 1;
    END LOOP;
    RETURN given;
END
$$;

-- Notes that an operator would give an event to a tenant. Verdicts: 0 noted, 1 another operator has proposed the same,
-- 2 another operator has proposed another tenant.
CREATE FUNCTION propose_v1(
    which text, p_tenant text, p_incarnation bigint, p_by text, lasts bigint,
    OUT verdict smallint, OUT o_by text, OUT o_tenant text
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    before proposal%ROWTYPE;
BEGIN
    PERFORM notifying();
    DELETE FROM proposal AS p WHERE p.at <= now_ms() - lasts;
    SELECT * INTO before FROM proposal AS p WHERE p.event = which::uuid AND p.proposed_by <> p_by;
    IF FOUND THEN
        o_by := before.proposed_by;
        o_tenant := before.tenant;
        verdict := CASE WHEN before.tenant = p_tenant AND before.incarnation = p_incarnation THEN 1 ELSE 2 END;
        RETURN;
    END IF;
    verdict := 0;
    INSERT INTO proposal VALUES (which::uuid, p_tenant, p_incarnation, p_by, now_ms())
    ON CONFLICT (event) DO UPDATE SET tenant = p_tenant, incarnation = p_incarnation, at = now_ms();
END
$$;

-- The newest findings with this credential, each with the present time. Without a finding one row that has the time alone.
CREATE FUNCTION isolation_v1(i_upstream text, i_client_id text) RETURNS TABLE (
    now bigint, operation text, verdict text, accounts integer, at bigint
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT n.ms, i.operation, i.verdict, i.accounts, i.at
    FROM (SELECT now_ms() AS ms) AS n
    LEFT JOIN isolation AS i ON i.upstream = i_upstream AND i.client_id = i_client_id
    ORDER BY i.operation COLLATE "C";
END
$$;

-- Keeps the findings of a probe, in place of earlier findings about the same look-ups. A finding since the probe began that an
-- object was shown to two accounts stays, since it is newer. Then the ledger forgets what was learned by this look-up.
CREATE FUNCTION note_isolation_v1(
    i_upstream text, i_client_id text, i_operations text[], i_verdicts text[], i_accounts integer[], i_since bigint
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
BEGIN
    PERFORM asking();
    INSERT INTO isolation
    SELECT i_upstream, i_client_id, f.operation, f.verdict, f.accounts, now_ms()
    FROM unnest(i_operations, i_verdicts, i_accounts) AS f(operation, verdict, accounts)
    ORDER BY f.operation COLLATE "C"
    ON CONFLICT ON CONSTRAINT isolation_pkey
    DO UPDATE SET verdict = excluded.verdict, accounts = excluded.accounts, at = excluded.at
    WHERE excluded.verdict = 'shared' OR isolation.verdict <> 'shared' OR isolation.at < i_since;
    -- In the order of all functions that lock rows of the ledger.
    PERFORM FROM owner AS o JOIN unnest(i_operations, i_verdicts) AS f(operation, verdict) ON f.operation = o.operation
    WHERE f.verdict = 'shared' AND o.source = 'asked'
    ORDER BY o.kind COLLATE "C", o.key COLLATE "C", o.tenant, o.account FOR UPDATE OF o;
    DELETE FROM owner AS o USING unnest(i_operations, i_verdicts) AS f(operation, verdict)
    WHERE f.verdict = 'shared' AND o.source = 'asked' AND o.operation = f.operation;
    PERFORM wait_for_standbys();
END
$$;
