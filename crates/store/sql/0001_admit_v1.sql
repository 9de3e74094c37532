-- Decides a batch of requests in one transaction. The verdicts count once the commit is acknowledged.
--
-- Verdicts: 0 admitted, 1 replayed (detail: admitted at), 2 nonce replayed (admitted at), 3 forgotten, 4 guarded (ms to
-- wait), 6 halted (scope), 7 premature (ms ahead), 8 cap exceeded (when room comes free; the breach stands in scope), 9 without a
-- body, 10 to be approved (the approval and the breach stand in scope), 11 a refund of an order of unknown currency under a cap;
-- 5 is SQLite's.
--
-- A recorded stamp is `replayed`, also if something else would refuse it. Guard and horizon come before halts, and a
-- halted write's stamp is recorded as well: so `halted` proves that no copy was admitted or will be.
--
-- Order of locks, the same in every transaction: the shared lock, life, slots by number, nonces by print, stamps by
-- (slot, print), sub-accounts that spend by their number, usage rows by stamp, the ledger by key. The locks of all functions, in
-- their order: `docs/explanation/internals-state.md`.
CREATE FUNCTION admit_v1(
    c_system_id bigint, c_timeline bigint, c_wal bigint, c_at bigint, c_print bytea, c_stamp bigint,
    c_id bigint, c_seen bigint, future_ms bigint, guard_ms bigint, lossless boolean,
    prints bytea[], nonces bytea[], stamps bigint[], parties text[], accounts text[], kinds smallint[],
    modules text[], operations text[], bodies boolean[],
    intent_rows integer[], intent_kinds text[], intent_keys text[], intent_currencies text[],
    -- Names and keys by row, parts by the number of their row; all empty if no row spends.
    spend_names text[], spend_keys text[], spend_rows integer[], spend_currencies text[], spend_amounts text[],
    -- By part, the order whose currency it has, which then stands nowhere else; empty if each part states its own.
    spend_orders text[],
    -- By row; all empty if no row is a write or a money call.
    usage_keys text[], usage_once boolean[], usage_parts text[],
    -- By row; all empty if no call has the subject of an approval.
    approval_digests bytea[], approval_amounts text[], approval_targets text[],
    OUT verdicts smallint[], OUT details bigint[], OUT scopes text[], OUT shadows text[],
    OUT o_at bigint, OUT o_system_id bigint, OUT o_timeline bigint, OUT o_wal bigint, OUT o_guarded bigint,
    OUT o_renewed boolean
)
-- Every admission waits for it, so that its statements keep their plans: for arrays whose length is known the server would
-- make new ones each time. For the same reason what it calls is not in SQL, whose functions are planned at each call unless
-- they are inlined. And each statement costs more to begin and to end than to run, so that what can be an assignment is one.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    server record;
    ring bigint;
    fresh bytea[];
    -- Whether there is any halt.
    halting boolean;
    -- Whether writes without a body are refused.
    bodyless boolean := false;
    -- The store's time: what is booked counts in it.
    counted_at bigint;
BEGIN
    IF cardinality(prints) > 1 AND (SELECT count(DISTINCT p) FROM unnest(prints) AS p) <> cardinality(prints) THEN
        RAISE EXCEPTION 'a stamp stands twice in one batch';
    END IF;
    PERFORM admitting();
    server := recognize(c_system_id, c_timeline, c_wal, c_at, c_print, c_stamp, c_id, c_seen, guard_ms, lossless);
    o_system_id := server.o_system_id;
    o_timeline := server.o_timeline;
    o_wal := server.o_wal;
    o_guarded := server.o_guarded;
    o_renewed := server.o_renewed;
    SELECT k.slice_ms, EXISTS (SELECT FROM halt) INTO STRICT ring, halting FROM cluster AS k;
    o_at := wall_ms();
    IF cardinality(usage_parts) > 0 OR cardinality(spend_rows) > 0 OR cardinality(intent_rows) > 0
        OR cardinality(array_remove(nonces, NULL)) > 0 THEN
        counted_at := now_ms();
    END IF;
    IF false = ANY (bodies) THEN
        SELECT o_at < k.bodyless_until OR EXISTS (SELECT FROM instance AS n WHERE n.bodyless)
        INTO STRICT bodyless FROM cluster AS k;
    END IF;

    -- Judge; once more after the slots of these stamps are opened, if they are not open already.
    LOOP
        SELECT array_agg(j.verdict), array_agg(j.detail), array_agg(NULL::text) INTO verdicts, details, scopes
        FROM (
            SELECT CASE WHEN s.slice > r.stamp / ring THEN 3
                    WHEN r.stamp <= o_guarded THEN 4
                    WHEN r.stamp > o_at + future_ms THEN 7
                    WHEN s.slice < r.stamp / ring OR NOT s.filling THEN -1
                    WHEN bodyless AND NOT r.body AND r.kind > 0 THEN 9
                    ELSE 0 END::smallint AS verdict,
                CASE WHEN s.slice > r.stamp / ring THEN 0
                    WHEN r.stamp <= o_guarded THEN o_guarded - r.stamp + 1
                    WHEN r.stamp > o_at + future_ms THEN r.stamp - o_at - future_ms
                    ELSE 0 END AS detail
            FROM unnest(stamps, kinds, bodies) WITH ORDINALITY AS r(stamp, kind, body, n)
            JOIN slot AS s ON s.slot = ((r.stamp / ring) % 8)::smallint
            ORDER BY r.n
        ) AS j;
        EXIT WHEN NOT (-1 = ANY (verdicts));
        PERFORM open_slots(stamps, ring, o_guarded, o_at + future_ms);
    END LOOP;

    IF halting THEN
        SELECT array_agg(CASE WHEN h.scope IS NULL THEN r.verdict ELSE 6 END::smallint ORDER BY r.n),
            array_agg(h.scope ORDER BY r.n)
        INTO verdicts, scopes
        FROM unnest(parties, kinds, modules, verdicts) WITH ORDINALITY AS r(party, kind, module, verdict, n)
        LEFT JOIN LATERAL (
            SELECT min(t.scope COLLATE "C") AS scope FROM halt AS t
            WHERE r.verdict IN (0, 9) AND (
                t.scope IN ('all', 'suspended:' || r.party)
                OR r.kind = 2 AND t.scope = 'money'
                OR r.kind > 0 AND t.scope IN ('module:' || r.module, 'party:' || r.party))
        ) AS h ON true;
    END IF;

    -- Nonces of their own. A row whose stamp stands already is `replayed` below and uses up no nonce.
    IF cardinality(array_remove(nonces, NULL)) > 0 AND 0 = ANY (verdicts) THEN
        WITH used AS (
            INSERT INTO nonce AS n (print, admitted, until)
            SELECT r.nonce, o_at, greatest(r.stamp, counted_at) + 8 * ring
            FROM unnest(prints, nonces, verdicts, stamps) AS r(print, nonce, verdict, stamp)
            WHERE r.nonce IS NOT NULL AND r.verdict = 0 AND NOT EXISTS (
                SELECT FROM stamp AS t WHERE t.slot = ((r.stamp / ring) % 8)::smallint AND t.print = r.print
            )
            ORDER BY r.nonce
            ON CONFLICT (print) DO UPDATE SET admitted = excluded.admitted, until = excluded.until
            WHERE n.until < counted_at
            RETURNING n.print
        )
        SELECT coalesce(array_agg(u.print), '{}') INTO fresh FROM used AS u;
        SELECT array_agg(CASE WHEN r.verdict = 0 AND r.nonce IS NOT NULL AND r.nonce <> ALL (fresh) THEN 2::smallint
                ELSE r.verdict END ORDER BY r.n),
            array_agg(CASE WHEN r.verdict = 0 AND r.nonce IS NOT NULL AND r.nonce <> ALL (fresh) THEN e.admitted
                ELSE r.detail END ORDER BY r.n)
        INTO verdicts, details
        FROM unnest(nonces, verdicts, details) WITH ORDINALITY AS r(nonce, verdict, detail, n)
        LEFT JOIN nonce AS e ON e.print = r.nonce;
    END IF;

    -- Stamps: of any number of racing copies one is inserted.
    WITH used AS (
        INSERT INTO stamp AS t (slot, print, admitted)
        SELECT (r.stamp / ring) % 8, r.print, o_at
        FROM unnest(prints, stamps, kinds, verdicts) AS r(print, stamp, kind, verdict)
        WHERE r.verdict = 0 OR r.verdict = 6 AND r.kind > 0 ORDER BY (r.stamp / ring) % 8, r.print
        ON CONFLICT DO NOTHING
        RETURNING t.print
    )
    SELECT coalesce(array_agg(u.print), '{}') INTO fresh FROM used AS u;
    -- Stamps that were not inserted are looked up, for any verdict.
    IF cardinality(fresh) < cardinality(prints) THEN
        SELECT array_agg(CASE WHEN r.print = ANY (fresh) THEN r.verdict WHEN t.admitted IS NOT NULL THEN 1::smallint
                ELSE nullif(r.verdict, 0::smallint) END ORDER BY r.n),
            array_agg(coalesce(CASE WHEN r.print = ANY (fresh) THEN 0 ELSE t.admitted END, r.detail) ORDER BY r.n)
        INTO verdicts, details
        FROM unnest(prints, stamps, verdicts, details) WITH ORDINALITY AS r(print, stamp, verdict, detail, n)
        LEFT JOIN stamp AS t ON r.print <> ALL (fresh) AND t.slot = ((r.stamp / ring) % 8)::smallint AND t.print = r.print;
    END IF;

    -- The currency of a refund is read here and not before, so that what a call spends and the rules it keeps are of one time.
    IF cardinality(spend_orders) > 0 THEN
        SELECT array_agg(coalesce(p.currency, (SELECT upper(o.currency COLLATE "C") FROM owner AS o
                WHERE o.kind = 'prepayId' AND o.key = p.sought AND o.tenant = parties[p.n] AND o.account = accounts[p.n]
                    AND o.currency ~ '^[A-Za-z0-9_.-]{1,32}$')) ORDER BY p.part)
        INTO STRICT spend_currencies
        FROM unnest(spend_rows, spend_currencies, spend_orders) WITH ORDINALITY AS p(n, currency, sought, part);
        FOR part IN 1 .. cardinality(spend_orders) LOOP
            IF spend_orders[part] IS NOT NULL AND usage_parts[spend_rows[part]] IS NOT NULL THEN
                usage_parts[spend_rows[part]] := coalesce(spend_currencies[part] || '=' || spend_amounts[part], '?');
            END IF;
        END LOOP;
    END IF;

    -- Caps: after the stamps, so that a copy is `replayed` and reserves nothing.
    IF cardinality(spend_rows) > 0 THEN
        SELECT r.verdicts, r.details, r.scopes, r.shadows INTO STRICT verdicts, details, scopes, shadows
        FROM reserve_spends(counted_at, coalesce(c_id, 0), prints, parties, accounts, spend_names, spend_keys,
            spend_rows, spend_currencies, spend_amounts, approval_digests, approval_amounts, approval_targets,
            verdicts, details, scopes) AS r;
        -- When room comes free, as the caller's clock will show it.
        IF 8 = ANY (verdicts) THEN
            SELECT array_agg(CASE WHEN r.verdict = 8 AND r.detail > 0 THEN r.detail + o_at - counted_at ELSE r.detail END ORDER BY r.n)
            INTO details FROM unnest(verdicts, details) WITH ORDINALITY AS r(verdict, detail, n);
        END IF;
    END IF;

    IF cardinality(usage_parts) > 0 THEN
        PERFORM note_usage(counted_at, prints, parties, accounts, operations, verdicts, usage_keys, usage_once, usage_parts);
    END IF;

    IF cardinality(intent_rows) > 0 THEN
        INSERT INTO owner (kind, key, tenant, account, at, currency, operation, source)
        SELECT DISTINCT ON (i.kind COLLATE "C", i.key COLLATE "C", parties[i.n], accounts[i.n])
            i.kind, i.key, parties[i.n], accounts[i.n], counted_at, i.currency, operations[i.n], 'call'
        FROM unnest(intent_rows, intent_kinds, intent_keys, intent_currencies) AS i(n, kind, key, currency)
        WHERE verdicts[i.n] = 0
        ORDER BY i.kind COLLATE "C", i.key COLLATE "C", parties[i.n], accounts[i.n], i.n
        -- A tenant id that has a former sub-account again uses the key as another tenant: the last use counts.
        ON CONFLICT ON CONSTRAINT owner_pkey DO UPDATE SET at = excluded.at WHERE owner.at < excluded.at;
    END IF;
END
$$;
