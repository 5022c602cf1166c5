"""Limits, the slots that they give out, and cached results.

The grant pass is a function of the database: it locks the scope's row and then reads what stands behind the lock, which
one statement cannot do (its snapshot is older than its locks) and several statements would pay with round trips.

Revision: 0004.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE limit_scopes (
    scope TEXT NOT NULL,
    max INTEGER,
    calls INTEGER,
    per DOUBLE PRECISION,
    burst INTEGER,
    managed BOOLEAN DEFAULT false NOT NULL,
    tokens DOUBLE PRECISION NOT NULL,
    refilled_at TIMESTAMP WITH TIME ZONE NOT NULL,
    grants BIGINT NOT NULL,
    turn BIGINT DEFAULT 0 NOT NULL,
    CONSTRAINT limit_scopes_pkey PRIMARY KEY (scope)
) WITH (fillfactor = 50);

CREATE TABLE slots (
    scope TEXT NOT NULL,
    holder TEXT NOT NULL,
    run_id UUID NOT NULL,
    owner_id UUID NOT NULL,
    priority SMALLINT NOT NULL,
    workflow TEXT NOT NULL,
    turn BIGINT NOT NULL,
    asked_at TIMESTAMP WITH TIME ZONE NOT NULL,
    granted_at TIMESTAMP WITH TIME ZONE,
    grant_no BIGINT,
    CONSTRAINT slots_pkey PRIMARY KEY (scope, holder)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX slots_waiting_idx ON slots (scope, workflow, priority DESC, asked_at) WHERE granted_at IS NULL;
CREATE INDEX slots_granted_idx ON slots (scope, grant_no) WHERE granted_at IS NOT NULL;
CREATE INDEX slots_turn_idx ON slots (scope, workflow, turn);
CREATE INDEX slots_run_idx ON slots (run_id);

CREATE TABLE node_limits (
    workspace TEXT NOT NULL,
    node TEXT NOT NULL,
    concurrency INTEGER,
    calls INTEGER,
    per DOUBLE PRECISION,
    burst INTEGER,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_by TEXT NOT NULL,
    CONSTRAINT node_limits_pkey PRIMARY KEY (workspace, node)
);

CREATE TABLE step_cache (
    workspace TEXT NOT NULL,
    key TEXT NOT NULL,
    node TEXT NOT NULL,
    node_version TEXT NOT NULL,
    workflow TEXT NOT NULL,
    step_id TEXT NOT NULL,
    run_id UUID NOT NULL,
    output JSON,
    output_ref TEXT,
    size INTEGER NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT step_cache_pkey PRIMARY KEY (workspace, key)
);
CREATE INDEX step_cache_expiry_idx ON step_cache (expires_at);

CREATE TABLE step_flights (
    workspace TEXT NOT NULL,
    key TEXT NOT NULL,
    holder TEXT NOT NULL,
    run_id UUID NOT NULL,
    owner_id UUID NOT NULL,
    node TEXT NOT NULL,
    workflow TEXT NOT NULL,
    step_id TEXT NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT step_flights_pkey PRIMARY KEY (workspace, key)
);
"""

_FUNCTIONS = (
    # Whether a slot's run needs it no more. A run that is not there yet may have its first write under way.
    """
CREATE FUNCTION slot_is_over(p_run uuid, p_asked timestamptz) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT 1 FROM runs WHERE id = p_run AND finished_at IS NOT NULL)
        OR (p_asked < clock_timestamp() - interval '30 s' AND NOT EXISTS (SELECT 1 FROM runs WHERE id = p_run))
$$""",
    """
CREATE FUNCTION owner_lives(p_owner uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT 1 FROM owners WHERE id = p_owner AND NOT fenced AND expires_at > clock_timestamp())
$$""",
    # One scope with its row locked: gives free places to the best waiters and returns how many. Best is the highest
    # priority, then the workflow that holds least, then the one whose turn it is, then who asked first. A token may be
    # given out a quarter of a second ahead, with `granted_at` in the future: so a fast rate needs no fast polling.
    """
CREATE FUNCTION limit_grant(p_scope text, p_room integer, p_tokens double precision, p_rate double precision,
                            p_grants bigint, OUT o_granted integer, OUT o_turn bigint) LANGUAGE plpgsql AS $$
BEGIN
    WITH RECURSIVE flows(workflow) AS (
        (SELECT s.workflow FROM slots s WHERE s.scope = p_scope AND s.granted_at IS NULL ORDER BY s.workflow LIMIT 1)
        UNION ALL
        SELECT (SELECT s.workflow FROM slots s WHERE s.scope = p_scope AND s.granted_at IS NULL
                AND s.workflow > f.workflow ORDER BY s.workflow LIMIT 1)
        FROM flows f WHERE f.workflow IS NOT NULL
    ), held AS (
        SELECT s.workflow, count(*) AS n FROM slots s WHERE s.scope = p_scope AND s.granted_at IS NOT NULL GROUP BY 1
    ), first AS (
        SELECT w.holder, w.priority, w.turn, w.asked_at, coalesce(h.n, 0)
               + row_number() OVER (PARTITION BY f.workflow ORDER BY w.priority DESC, w.asked_at, w.holder) AS load
        FROM flows f LEFT JOIN held h USING (workflow), LATERAL (
            SELECT s.holder, s.priority, s.turn, s.asked_at FROM slots s
            WHERE s.scope = p_scope AND s.workflow = f.workflow AND s.granted_at IS NULL AND owner_lives(s.owner_id)
            ORDER BY s.priority DESC, s.asked_at LIMIT p_room
        ) w
        WHERE f.workflow IS NOT NULL
    ), best AS (
        SELECT holder, row_number() OVER (ORDER BY priority DESC, load, turn, asked_at, holder) AS i FROM first
        ORDER BY i LIMIT p_room
    ), granted AS (
        UPDATE slots s SET grant_no = p_grants + b.i, granted_at = clock_timestamp() + CASE
            WHEN p_rate IS NULL THEN interval '0' ELSE make_interval(secs => greatest(0, (b.i - p_tokens) / p_rate)) END
        FROM best b WHERE s.scope = p_scope AND s.holder = b.holder
        RETURNING s.turn
    )
    SELECT count(*), max(g.turn) INTO o_granted, o_turn FROM granted g;
END
$$""",
    # One turn of a process: for each scope what it gives back, what it asks for, and a grant pass. See
    # `infra.postgres.slots` for what goes in and out.
    """
CREATE FUNCTION limits_turn(p_work jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_owners uuid[] := ARRAY(SELECT one::uuid FROM jsonb_array_elements_text(p_work->'owners') one);
    v_answer jsonb := '[]';
    v_sync text := current_setting('synchronous_commit');
    v_one jsonb; v_limit jsonb; v_told jsonb;
    v_scope text; v_asked text[];
    v_row limit_scopes; v_write boolean;
    v_now timestamptz; v_rate double precision;
    v_used integer; v_room integer;
    v_granted integer; v_turn bigint;
BEGIN
    -- What a crash of the server may forget is who waits (they ask again) and a start or two; never who holds a slot.
    PERFORM set_config('synchronous_commit', 'off', true);
    FOR v_one IN SELECT e FROM jsonb_array_elements(p_work->'scopes') e ORDER BY e->>'scope' COLLATE "C" LOOP
        v_scope := v_one->>'scope';
        v_limit := v_one->'limit';
        v_write := false;
        LOOP
            SELECT * INTO v_row FROM limit_scopes WHERE scope = v_scope FOR UPDATE;
            EXIT WHEN FOUND OR v_limit IS NULL;
            INSERT INTO limit_scopes (scope, tokens, refilled_at, grants)
            VALUES (v_scope, 0, clock_timestamp(), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
            ON CONFLICT DO NOTHING;
        END LOOP;
        DELETE FROM slots s USING jsonb_array_elements(v_one->'back') b
        WHERE s.scope = v_scope AND s.holder = b->>0 AND s.owner_id = (b->>1)::uuid;
        IF FOUND THEN
            PERFORM set_config('synchronous_commit', v_sync, true);
        END IF;
        CONTINUE WHEN v_row.scope IS NULL;

        v_now := clock_timestamp();
        IF v_limit IS NOT NULL AND NOT v_row.managed AND (v_row.max, v_row.calls, v_row.per, v_row.burst) IS DISTINCT
           FROM ((v_limit->>'max')::int, (v_limit->>'calls')::int, (v_limit->>'per')::float8, (v_limit->>'burst')::int)
        THEN
            IF v_row.calls IS NULL THEN
                v_row.tokens := coalesce((v_limit->>'burst')::int, 0);
                v_row.refilled_at := v_now;
            END IF;
            v_row.max := (v_limit->>'max')::int;
            v_row.calls := (v_limit->>'calls')::int;
            v_row.per := (v_limit->>'per')::float8;
            v_row.burst := (v_limit->>'burst')::int;
            v_write := true;
        END IF;
        v_rate := v_row.calls / v_row.per;
        IF v_rate IS NOT NULL THEN
            v_row.tokens := least(v_row.burst, v_row.tokens
                + greatest(0, extract(epoch FROM v_now - v_row.refilled_at)) * v_rate);
        END IF;

        v_asked := ARRAY(SELECT a->>0 FROM jsonb_array_elements(v_one->'asks') a);
        IF v_asked <> '{}' THEN
            INSERT INTO slots (scope, holder, run_id, owner_id, priority, workflow, turn, asked_at)
            SELECT v_scope, a->>0, (a->>1)::uuid, (a->>2)::uuid, (a->>3)::smallint, a->>4,
                   greatest(v_row.turn, coalesce((SELECT max(o.turn) + 1 FROM slots o
                                                  WHERE o.scope = v_scope AND o.workflow = a->>4), 0))
                   + row_number() OVER (PARTITION BY a->>4 ORDER BY n) - 1, v_now + n * interval '1 microsecond'
            FROM jsonb_array_elements(v_one->'asks') WITH ORDINALITY AS e(a, n)
            WHERE EXISTS (SELECT 1 FROM owners WHERE id = (a->>2)::uuid AND NOT fenced)
            ON CONFLICT (scope, holder) DO UPDATE SET owner_id = excluded.owner_id, priority = excluded.priority;
        END IF;

        SELECT count(*) INTO v_used FROM slots WHERE scope = v_scope AND granted_at IS NOT NULL;
        IF EXISTS (SELECT 1 FROM slots WHERE scope = v_scope AND granted_at IS NULL) THEN
            IF v_used >= v_row.max THEN
                DELETE FROM slots
                WHERE scope = v_scope AND granted_at IS NOT NULL AND slot_is_over(run_id, asked_at);
                SELECT count(*) INTO v_used FROM slots WHERE scope = v_scope AND granted_at IS NOT NULL;
            END IF;
            v_room := least(1000, v_row.max - v_used, floor(v_row.tokens + 0.25 * v_rate));
            IF v_room > 0 THEN
                SELECT * INTO v_granted, v_turn FROM limit_grant(v_scope, v_room, v_row.tokens, v_rate, v_row.grants);
                IF v_granted > 0 THEN
                    v_row.grants := v_row.grants + v_granted;
                    v_row.turn := greatest(v_row.turn, v_turn);
                    v_row.tokens := CASE WHEN v_rate IS NULL THEN 0 ELSE v_row.tokens - v_granted END;
                    v_row.refilled_at := v_now;
                    v_used := v_used + v_granted;
                    v_write := true;
                    IF v_row.max IS NOT NULL THEN
                        PERFORM set_config('synchronous_commit', v_sync, true);
                    END IF;
                END IF;
            END IF;
        END IF;
        IF v_write THEN
            UPDATE limit_scopes SET max = v_row.max, calls = v_row.calls, per = v_row.per, burst = v_row.burst,
                tokens = v_row.tokens, refilled_at = v_row.refilled_at, grants = v_row.grants, turn = v_row.turn
            WHERE scope = v_scope;
        END IF;

        SELECT coalesce(
            jsonb_agg(jsonb_build_array(s.holder, extract(epoch FROM s.granted_at - clock_timestamp()))), '[]')
        INTO v_told FROM slots s
        WHERE s.scope = v_scope AND s.granted_at IS NOT NULL AND s.owner_id = ANY (v_owners)
          AND (s.grant_no > (v_one->>'seen')::bigint OR s.holder = ANY (v_asked));
        IF v_row.max IS NULL AND v_told <> '[]' THEN
            DELETE FROM slots s USING jsonb_array_elements(v_told) t WHERE s.scope = v_scope AND s.holder = t->>0;
        END IF;
        v_answer := v_answer || jsonb_build_object('scope', v_scope, 'seen', v_row.grants, 'granted', v_told,
            'full', v_row.max IS NOT NULL AND v_used >= v_row.max, 'limit', jsonb_build_object('max', v_row.max,
            'calls', v_row.calls, 'per', v_row.per, 'burst', v_row.burst));
    END LOOP;
    RETURN v_answer;
END
$$""",
    # Everything of a run, but not what another living owner has taken up. Locks scopes in the same order as a turn.
    """
CREATE FUNCTION limits_release_run(p_run uuid, p_owner uuid, p_keep text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM limit_scopes WHERE scope IN (SELECT s.scope FROM slots s WHERE s.run_id = p_run)
    ORDER BY scope COLLATE "C" FOR UPDATE;
    RETURN QUERY DELETE FROM slots s
        WHERE s.run_id = p_run AND NOT s.holder = ANY (p_keep) AND (s.owner_id = p_owner OR NOT owner_lives(s.owner_id))
        RETURNING s.scope;
END
$$""",
    # What is left behind: slots of runs that have ended, and scopes that nobody has used for an hour.
    """
CREATE FUNCTION limits_sweep() RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_scopes text[]; v_swept integer;
BEGIN
    IF NOT pg_try_advisory_xact_lock(7391044) THEN
        RETURN 0;
    END IF;
    v_scopes := ARRAY(SELECT DISTINCT scope FROM slots WHERE slot_is_over(run_id, asked_at));
    PERFORM 1 FROM limit_scopes WHERE scope = ANY (v_scopes) ORDER BY scope COLLATE "C" FOR UPDATE;
    DELETE FROM slots WHERE scope = ANY (v_scopes) AND slot_is_over(run_id, asked_at);
    GET DIAGNOSTICS v_swept = ROW_COUNT;
    v_scopes := ARRAY(
        SELECT l.scope FROM limit_scopes l
        WHERE l.refilled_at < clock_timestamp() - interval '1 h' AND NOT (l.managed AND coalesce(l.max, l.calls) > 0)
          AND (l.calls IS NULL OR extract(epoch FROM clock_timestamp() - l.refilled_at) * l.calls > l.per * l.burst)
          AND NOT EXISTS (SELECT 1 FROM slots s WHERE s.scope = l.scope)
        LIMIT 1000 FOR UPDATE SKIP LOCKED);
    DELETE FROM limit_scopes l
    WHERE l.scope = ANY (v_scopes) AND NOT EXISTS (SELECT 1 FROM slots s WHERE s.scope = l.scope);
    RETURN v_swept;
END
$$""",
)


def upgrade() -> None:
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)
    for function in _FUNCTIONS:
        op.execute(function)


def downgrade() -> None:
    for function in ("limits_sweep", "limits_release_run", "limits_turn", "limit_grant", "owner_lives", "slot_is_over"):
        op.execute(f"DROP FUNCTION {function}")
    for table in ("step_flights", "step_cache", "node_limits", "slots", "limit_scopes"):
        op.execute(f"DROP TABLE {table}")
