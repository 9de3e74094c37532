-- Early raises: operators have changes of caps hold at once that would hold only later.

-- The operators that have approved the changes of a scope. The id is made of the changes.
CREATE TABLE cap_raise_signature (
    changes bytea NOT NULL,
    operator text NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (changes, operator)
);

-- An operator's approval of the changes of a scope that wait, of so many different operators each. An approval is good for a
-- day. Results: 0 taken, 1 these are not the changes that wait.
CREATE FUNCTION raise_caps_v1(
    c_raise bytea, c_scope text, c_by text, needed integer,
    r_shadows boolean[], r_measures smallint[], r_currencies text[], r_calls text[], r_limits text[], r_removed boolean[],
    r_opens boolean[]
) RETURNS smallint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    now bigint;
    signed bigint;
BEGIN
    PERFORM admitting_nothing();
    now := now_ms();
    IF EXISTS (
        WITH shown AS (
            SELECT r.shadow, r.measure, r.currency, r.calls, r.most::numeric AS most, r.removed, r.opens
            FROM unnest(r_shadows, r_measures, r_currencies, r_calls, r_limits, r_removed, r_opens)
                AS r(shadow, measure, currency, calls, most, removed, opens)
        ), waiting AS (
            SELECT c.shadow, c.measure, c.currency, c.calls, CASE WHEN c.raised_from > now THEN c.raised END AS most,
                c.ends IS NOT NULL AS removed, c.opens > now AS opens
            FROM cap_rule AS c
            WHERE c.scope = c_scope AND (c.ends IS NULL OR c.ends > now)
                AND (c.raised_from > now OR c.ends IS NOT NULL OR c.opens > now)
        )
        (SELECT * FROM shown EXCEPT SELECT * FROM waiting) UNION ALL (SELECT * FROM waiting EXCEPT SELECT * FROM shown)
    ) THEN
        RETURN 1;
    END IF;
    DELETE FROM cap_raise_signature AS s WHERE s.at <= now - 86400000;
    INSERT INTO cap_raise_signature VALUES (c_raise, c_by, now) ON CONFLICT (changes, operator) DO NOTHING;
    SELECT count(*) INTO signed FROM cap_raise_signature AS s WHERE s.changes = c_raise;
    IF signed >= needed THEN
        UPDATE cap_rule AS c
        SET amount = coalesce(c.raised, c.amount), raised = NULL, raised_from = NULL, opens = least(c.opens, now),
            ends = CASE WHEN c.ends > now THEN now ELSE c.ends END
        WHERE c.scope = c_scope;
        DELETE FROM cap_raise_signature AS s WHERE s.changes = c_raise;
    END IF;
    RETURN 0;
END
$$;
