-- Approvals: a call above a rule of measure 5 waits for operators. A party has a bounded number of calls that wait, none
-- outlives a loss of commits, and how many operators have to approve is the store's own knowledge.

-- A call above a rule of measure 5. States: 0 waiting, 1 approved, 2 rejected, 3 used.
CREATE TABLE approval (
    id bytea PRIMARY KEY,
    party text NOT NULL,
    account text NOT NULL,
    counted_as text NOT NULL,
    -- Empty if the call has none.
    key text NOT NULL,
    body_sha256 bytea NOT NULL,
    amounts text NOT NULL,
    targets text NOT NULL,
    state smallint NOT NULL,
    asked bigint NOT NULL,
    until bigint NOT NULL
);
CREATE INDEX approval_of ON approval (party, account, counted_as, key, body_sha256);
CREATE INDEX approval_until ON approval (until);
CREATE INDEX approval_waiting ON approval (party, until) WHERE state = 0;
CREATE INDEX approval_asked ON approval (asked, id);

CREATE TABLE approval_signature (
    approval bytea NOT NULL REFERENCES approval ON DELETE CASCADE,
    operator text NOT NULL,
    place smallint NOT NULL,
    PRIMARY KEY (approval, operator)
);

-- The number of operators for an order that one alone may not give. A smaller number is a raise, and holds late.
CREATE TABLE approver_rule (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    number integer NOT NULL,
    fewer integer,
    fewer_from bigint,
    -- How late a smaller number holds, in milliseconds. A shorter delay is a raise too.
    delay bigint NOT NULL,
    shorter bigint,
    shorter_from bigint
);

-- Locks the approvals that are open at a time, in the order of all functions that change more than one. An admission waits
-- for none of them.
CREATE FUNCTION lock_approvals(at bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
BEGIN
    PERFORM FROM approval AS a WHERE a.state IN (0, 1) AND a.until > at ORDER BY a.id FOR UPDATE;
END
$$;

-- With lost commits the store may have lost that a call has passed, and its approval would stand as before. So every life that
-- begins, and every guard, ends all approvals that wait or were given.
CREATE FUNCTION void_approvals() RETURNS trigger
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
BEGIN
    PERFORM lock_approvals(now_ms());
    UPDATE approval AS a SET until = now_ms() WHERE a.state IN (0, 1) AND a.until > now_ms();
    RETURN NULL;
END
$$;
CREATE TRIGGER life_voids_approvals AFTER INSERT OR UPDATE OF guarded_until ON life
FOR EACH STATEMENT EXECUTE FUNCTION void_approvals();

CREATE FUNCTION approvers_needed(at bigint) RETURNS integer
LANGUAGE plpgsql STABLE SET search_path = gatepay, pg_temp AS $$
BEGIN
    RETURN coalesce((SELECT CASE WHEN r.fewer_from <= at THEN r.fewer ELSE r.number END FROM approver_rule AS r), 1);
END
$$;

CREATE FUNCTION approvers_v1() RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
BEGIN
    RETURN approvers_needed(now_ms());
END
$$;

-- The rule once configurations ask for `d_number` operators: more are needed at once, fewer after the delay.
CREATE FUNCTION next_approvers(now bigint, d_number integer, raise_ms bigint) RETURNS approver_rule
LANGUAGE plpgsql STABLE SET search_path = gatepay, pg_temp AS $$
DECLARE
    known integer := approvers_needed(now);
    rule approver_rule;
BEGIN
    SELECT * INTO rule FROM approver_rule;
    IF known <= 1 THEN
        rule.delay := NULL;
    ELSIF rule.shorter_from <= now THEN
        rule.delay := rule.shorter;
        rule.shorter := NULL;
        rule.shorter_from := NULL;
    END IF;
    IF rule.delay IS NULL OR raise_ms >= rule.delay THEN
        rule.delay := raise_ms;
        rule.shorter := NULL;
        rule.shorter_from := NULL;
    ELSE
        rule.shorter_from := CASE WHEN rule.shorter <= raise_ms THEN rule.shorter_from ELSE now + rule.delay END;
        rule.shorter := raise_ms;
    END IF;
    IF d_number >= known THEN
        rule.number := d_number;
        rule.fewer := NULL;
        rule.fewer_from := NULL;
    ELSE
        rule.number := known;
        rule.fewer_from := CASE WHEN rule.fewer <= d_number AND rule.fewer_from > now THEN rule.fewer_from
            ELSE now + rule.delay END;
        rule.fewer := d_number;
    END IF;
    rule.one := true;
    RETURN rule;
END
$$;

CREATE FUNCTION approvers_change(now bigint, d_number integer, raise_ms bigint) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = gatepay, pg_temp AS $$
DECLARE
    rule approver_rule;
BEGIN
    SELECT * INTO rule FROM approver_rule;
    RETURN rule IS DISTINCT FROM next_approvers(now, d_number, raise_ms);
END
$$;

-- Takes over how many operators the configurations of all instances ask for. Called while nothing is admitted.
CREATE FUNCTION take_approvers(now bigint, d_number integer, raise_ms bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = gatepay, pg_temp AS $$
DECLARE
    known integer := approvers_needed(now);
    rule approver_rule := next_approvers(now, d_number, raise_ms);
BEGIN
    INSERT INTO approver_rule SELECT rule.* ON CONFLICT (one) DO UPDATE
    SET number = excluded.number, fewer = excluded.fewer, fewer_from = excluded.fewer_from, delay = excluded.delay,
        shorter = excluded.shorter, shorter_from = excluded.shorter_from;
    -- What fewer operators have approved waits for the others.
    IF approvers_needed(now) > known THEN
        PERFORM lock_approvals(-1);
        UPDATE approval AS a SET state = 0
        WHERE a.state = 1 AND (SELECT count(*) FROM approval_signature AS s WHERE s.approval = a.id) < d_number;
    END IF;
END
$$;

-- Takes the approval of a call away, since the call passes. Without one, returns which it needs: its id and its state; state
-- 4 and no id if as many calls of the party wait as may.
CREATE FUNCTION use_approval(
    at bigint, print bytea, s_party text, s_account text, s_counted_as text, s_key text,
    digest bytea, told_amounts text, told_targets text
) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    known record;
BEGIN
    IF digest IS NULL THEN
        RETURN '- 0';
    END IF;
    SELECT a.id, a.state INTO known FROM approval AS a
    WHERE a.party = s_party AND a.account = s_account AND a.counted_as = s_counted_as AND a.key = s_key
        AND a.body_sha256 = digest AND a.state <> 3 AND a.until > at
    FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        -- Another session signs or ends it now. An admission does not wait: the other session may wait next for a lock that the
        -- admission holds.
        SELECT a.id, a.state INTO known FROM approval AS a
        WHERE a.party = s_party AND a.account = s_account AND a.counted_as = s_counted_as AND a.key = s_key
            AND a.body_sha256 = digest AND a.state <> 3 AND a.until > at;
        IF FOUND THEN
            RETURN encode(known.id, 'hex') || ' ' || known.state;
        END IF;
        -- The party's calls are judged one after another, so that the number is exact.
        IF (SELECT count(*) FROM approval AS a WHERE a.party = s_party AND a.state = 0 AND a.until > at) >= 100 THEN
            RETURN '- 4';
        END IF;
        -- Two stamps may begin alike, and somebody may have sought them: an id never names another call than before.
        INSERT INTO approval VALUES (substr(print, 1, 8), s_party, s_account, s_counted_as, s_key, digest,
            told_amounts, told_targets, 0, at, at + 86400000)
        ON CONFLICT (id) DO NOTHING;
        IF NOT FOUND THEN
            RETURN '- 0';
        END IF;
        RETURN encode(substr(print, 1, 8), 'hex') || ' 0';
    END IF;
    IF known.state = 1 THEN
        UPDATE approval AS a SET state = 3 WHERE a.id = known.id;
        RETURN NULL;
    END IF;
    RETURN encode(known.id, 'hex') || ' ' || known.state;
END
$$;

-- An operator's approval of a call, which the operator was shown with this digest of its body: the id alone is made of 64 bits,
-- and names a call to people. It takes as many different operators as the store has in force, or as the caller says if
-- that is more. Results: 0 taken, 1 not found, 2 closed, 3 own call.
CREATE FUNCTION approve_v1(c_id bytea, c_digest bytea, c_by text, needed integer) RETURNS smallint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    known record;
    now bigint;
    signed bigint;
BEGIN
    PERFORM admitting();
    SELECT a.party, a.state, a.until INTO known FROM approval AS a
    WHERE a.id = c_id AND a.body_sha256 = c_digest FOR UPDATE;
    now := now_ms();
    CASE
        WHEN NOT FOUND THEN RETURN 1;
        WHEN known.until <= now OR known.state IN (2, 3) THEN RETURN 2;
        WHEN known.party = c_by THEN RETURN 3;
        WHEN known.state = 1 THEN RETURN 0;
        ELSE NULL;
    END CASE;
    SELECT count(*) INTO signed FROM approval_signature AS s WHERE s.approval = c_id;
    INSERT INTO approval_signature VALUES (c_id, c_by, signed) ON CONFLICT (approval, operator) DO NOTHING;
    SELECT count(*) INTO signed FROM approval_signature AS s WHERE s.approval = c_id;
    IF signed >= greatest(needed, approvers_needed(now)) THEN
        UPDATE approval AS a SET state = 1, until = now + 86400000 WHERE a.id = c_id;
    END IF;
    RETURN 0;
END
$$;

-- An operator's rejection of a call. Results as above.
CREATE FUNCTION reject_v1(c_id bytea, c_digest bytea) RETURNS smallint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = gatepay, pg_temp AS $$
DECLARE
    known record;
BEGIN
    PERFORM admitting();
    SELECT a.state, a.until INTO known FROM approval AS a WHERE a.id = c_id AND a.body_sha256 = c_digest FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 1;
    ELSIF known.until <= now_ms() OR known.state = 3 THEN
        RETURN 2;
    END IF;
    UPDATE approval AS a SET state = 2 WHERE a.id = c_id;
    RETURN 0;
END
$$;
