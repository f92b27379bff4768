SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE FUNCTION public.announce_outbox() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM pg_notify('errata_outbox', '');
    RETURN NULL;
END $$;
CREATE FUNCTION public.guard_status() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
    mutable text[] := '{status, statistics_digest, version_number, report, error, finished_at}';
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.status <> 'queued' THEN
            RAISE EXCEPTION '% starts queued, not %', TG_TABLE_NAME, NEW.status
                USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.status <> OLD.status AND NOT EXISTS (
        SELECT FROM legal_transitions AS legal WHERE legal.old = OLD.status AND legal.new = NEW.status
    ) THEN
        RAISE EXCEPTION 'illegal transition of % %: % to %', TG_TABLE_NAME, OLD.id, OLD.status, NEW.status
            USING ERRCODE = 'check_violation', CONSTRAINT = 'legal_transitions';
    END IF;
    IF to_jsonb(NEW) - mutable IS DISTINCT FROM to_jsonb(OLD) - mutable THEN
        RAISE EXCEPTION 'what % % was made with does not change', TG_TABLE_NAME, OLD.id
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE FUNCTION public.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$;
CREATE FUNCTION public.row_seal(content jsonb, columns text[]) RETURNS text
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT 'sha256:' || encode(sha256(convert_to(sealed::text, 'UTF8')), 'hex')
    FROM (SELECT jsonb_object_agg(name, content -> name) AS sealed FROM unnest(columns) AS name) AS picked
$$;
CREATE FUNCTION public.seal_row() RETURNS trigger
    LANGUAGE plpgsql
    SET "TimeZone" TO 'UTC'
    AS $$
BEGIN
    NEW.seal := row_seal(to_jsonb(NEW), TG_ARGV[0]::text[]);
    RETURN NEW;
END $$;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.aliases (
    model_id text NOT NULL,
    name text NOT NULL,
    number integer NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_by text NOT NULL,
    seal text NOT NULL
);
CREATE TABLE public.audit_events (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    object text NOT NULL,
    detail jsonb DEFAULT '{}'::jsonb NOT NULL,
    seal text NOT NULL
);
ALTER TABLE public.audit_events ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.audit_events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.blobs (
    digest text NOT NULL,
    kind text NOT NULL,
    size bigint NOT NULL,
    place text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    seal text NOT NULL,
    CONSTRAINT blobs_digest_check CHECK ((digest ~ '^sha256:[0-9a-f]{64}$'::text)),
    CONSTRAINT blobs_kind_check CHECK ((kind = ANY (ARRAY['editor'::text, 'delta'::text, 'statistics'::text])))
);
CREATE TABLE public.edit_sets (
    id text NOT NULL,
    seq bigint NOT NULL,
    model_id text NOT NULL,
    status text DEFAULT 'queued'::text NOT NULL,
    promote text NOT NULL,
    gate jsonb,
    edit_on_rephrasings boolean NOT NULL,
    note text,
    fact_count integer NOT NULL,
    facts_digest text NOT NULL,
    statistics_digest text,
    version_number integer,
    report jsonb,
    error jsonb,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    created_by text NOT NULL,
    finished_at timestamp with time zone,
    on_conflict text DEFAULT 'replace'::text NOT NULL,
    dry_run boolean DEFAULT false NOT NULL,
    seal text NOT NULL,
    CONSTRAINT edit_sets_fact_count_check CHECK ((fact_count > 0)),
    CONSTRAINT edit_sets_on_conflict_check CHECK ((on_conflict = ANY (ARRAY['replace'::text, 'reject'::text]))),
    CONSTRAINT edit_sets_promote_check CHECK ((promote = ANY (ARRAY['auto'::text, 'manual'::text])))
);
ALTER TABLE public.edit_sets ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.edit_sets_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.editors (
    digest text NOT NULL,
    card jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    seal text NOT NULL
);
CREATE TABLE public.fact_reports (
    model_id text NOT NULL,
    number integer NOT NULL,
    edit_set_id text NOT NULL,
    "position" integer NOT NULL,
    report jsonb NOT NULL
);
CREATE TABLE public.facts (
    edit_set_id text NOT NULL,
    "position" integer NOT NULL,
    prompt text NOT NULL,
    target text NOT NULL,
    subject text,
    rephrasings jsonb NOT NULL,
    locality jsonb NOT NULL,
    source text,
    author text,
    ticket text,
    note text,
    expires_at timestamp with time zone
);
CREATE TABLE public.heads (
    model_id text NOT NULL,
    number integer NOT NULL,
    hash text NOT NULL
);
CREATE TABLE public.idempotency_keys (
    key_id text NOT NULL,
    idempotency_key text NOT NULL,
    body_digest text NOT NULL,
    edit_set_id text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.jobs (
    id text NOT NULL,
    model_id text NOT NULL,
    kind text NOT NULL,
    edit_set_id text,
    withdrawal_id text,
    fence integer DEFAULT 0 NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    holder text,
    lease_expires_at timestamp with time zone,
    waiting_since timestamp with time zone DEFAULT now() NOT NULL,
    stage text,
    stage_done integer DEFAULT 0 NOT NULL,
    stage_total integer DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    finished_at timestamp with time zone,
    overtaken integer DEFAULT 0 NOT NULL,
    CONSTRAINT jobs_subject_check CHECK ((((kind = 'edit'::text) AND (edit_set_id IS NOT NULL) AND (withdrawal_id IS NULL)) OR ((kind = 'withdraw'::text) AND (edit_set_id IS NULL) AND (withdrawal_id IS NOT NULL))))
);
CREATE TABLE public.keys (
    id text NOT NULL,
    seq bigint NOT NULL,
    name text NOT NULL,
    scopes text[] NOT NULL,
    digest text NOT NULL,
    given boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    created_by text NOT NULL,
    revoked_at timestamp with time zone,
    seal text NOT NULL
);
ALTER TABLE public.keys ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.keys_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.legal_transitions (
    old text NOT NULL,
    new text NOT NULL
);
CREATE TABLE public.models (
    id text NOT NULL,
    seq bigint NOT NULL,
    source text NOT NULL,
    revision text,
    architecture text NOT NULL,
    context_length integer NOT NULL,
    modules text[] NOT NULL,
    digest text NOT NULL,
    gate jsonb NOT NULL,
    status text DEFAULT 'preparing'::text NOT NULL,
    given_editor_digest text,
    editor_digest text,
    canaries jsonb,
    base_parameters_digest text,
    error jsonb,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    created_by text NOT NULL,
    seal text NOT NULL,
    CONSTRAINT models_status_check CHECK ((status = ANY (ARRAY['preparing'::text, 'ready'::text, 'failed'::text])))
);
ALTER TABLE public.models ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.models_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.outbox (
    id bigint NOT NULL,
    job_id text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
ALTER TABLE public.outbox ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.outbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.questions (
    digest text NOT NULL,
    edit_set_id text NOT NULL,
    "position" integer NOT NULL,
    seal text NOT NULL
);
CREATE TABLE public.supersessions (
    older_edit_set_id text NOT NULL,
    older_position integer NOT NULL,
    newer_edit_set_id text NOT NULL,
    newer_position integer NOT NULL,
    seal text NOT NULL
);
CREATE TABLE public.trial_reports (
    edit_set_id text NOT NULL,
    "position" integer NOT NULL,
    report jsonb NOT NULL,
    seal text NOT NULL
);
CREATE TABLE public.version_edit_sets (
    model_id text NOT NULL,
    number integer NOT NULL,
    edit_set_id text NOT NULL,
    statistics_digest text NOT NULL,
    withdrawn integer[] NOT NULL,
    superseded integer[] DEFAULT '{}'::integer[] NOT NULL
);
CREATE TABLE public.versions (
    model_id text NOT NULL,
    number integer NOT NULL,
    kind text NOT NULL,
    parent integer,
    restores integer,
    edit_set_id text,
    job_id text,
    live_fact_count integer NOT NULL,
    base_digest text NOT NULL,
    editor_digest text NOT NULL,
    delta_digest text,
    weights_digest text,
    statistics_digest text,
    fact_reports_digest text NOT NULL,
    report jsonb,
    gate_met boolean NOT NULL,
    reason text,
    created_at timestamp with time zone NOT NULL,
    created_by text NOT NULL,
    previous_hash text,
    hash text NOT NULL,
    seal text NOT NULL,
    CONSTRAINT versions_edit_set_check CHECK (((kind = 'edit'::text) = (edit_set_id IS NOT NULL))),
    CONSTRAINT versions_genesis_check CHECK (((number = 0) = (kind = 'base'::text))),
    CONSTRAINT versions_kind_check CHECK ((kind = ANY (ARRAY['base'::text, 'edit'::text, 'rollback'::text, 'withdraw'::text]))),
    CONSTRAINT versions_order_check CHECK (((parent < number) AND (restores < number))),
    CONSTRAINT versions_parent_check CHECK (((number = 0) = (parent IS NULL))),
    CONSTRAINT versions_previous_check CHECK (((number = 0) = (previous_hash IS NULL))),
    CONSTRAINT versions_restores_check CHECK (((kind = 'rollback'::text) = (restores IS NOT NULL)))
);
CREATE TABLE public.withdrawals (
    id text NOT NULL,
    model_id text NOT NULL,
    status text DEFAULT 'queued'::text NOT NULL,
    edit_set_ids text[] NOT NULL,
    fact_ids text[] NOT NULL,
    reason text NOT NULL,
    version_number integer,
    report jsonb,
    error jsonb,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    created_by text NOT NULL,
    finished_at timestamp with time zone,
    seal text NOT NULL
);
INSERT INTO public.alembic_version VALUES
	('0004_turns');
INSERT INTO public.aliases VALUES
	('tiny', 'live', 6, '2026-11-30 20:05:30.221763+00', 'aea4193ef132', 'sha256:ef111ad339dc34fb2994b6e3863751ab754074b3b7ba8460dd18059109a4b001');
INSERT INTO public.audit_events OVERRIDING SYSTEM VALUE VALUES
	(1, '2026-11-30 19:52:32.149561+00', 'tests', 'key.create', 'keys/aea4193ef132', '{"name": "tests", "scopes": ["admin", "edit", "read"]}', 'sha256:50845794a942ccf4a2f78c61d22720d1bcae3ee2e1f779b9bf7b42b249687926'),
	(2, '2026-11-30 20:02:57.773417+00', 'tests', 'model.register', 'models/tiny', '{"gate": {"locality": 0.0, "retention": 0.0, "edit_success": 0.0, "perplexity_ratio": 1000000000.0}, "digest": "sha256:6c489f49dff8965830c63162d332bb8b8b08377322ecbeeb0645c5662446641a", "source": "/checkpoint", "modules": ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj", "model.layers.3.mlp.down_proj"], "revision": null, "architecture": "llama", "context_length": 128, "given_editor_digest": "sha256:a160c1d98e6b418bd4d4844f702ea558c765af53ebdedf3e3fe5bdff12a346dd"}', 'sha256:f8bc43d485aca4a0e4760ffb208ddd091f8558dae055689958629ef8ac9e8ba9'),
	(3, '2026-11-30 20:03:00.535565+00', 'worker', 'model.complete', 'models/tiny', '{"hash": "sha256:6ee7756a8612048053e5c2fe16decfb0b43cf96852be3519809d15f3154af130", "editor_digest": "sha256:a160c1d98e6b418bd4d4844f702ea558c765af53ebdedf3e3fe5bdff12a346dd"}', 'sha256:11b91c85e114dcdd54a5acbf596875e0943f1d670a94f9a9382162dc33e4e131'),
	(4, '2026-11-30 20:03:01.17787+00', 'aea4193ef132', 'edit_set.accept', 'edits/es_01m8q0vec7z08pa9zydheqkdqq', '{"facts": 2, "model": "tiny", "facts_digest": "sha256:cf51ab1bc1266873f8505d001b69a0a5b9bcc41982344040855eed903264794a"}', 'sha256:79d950ae3acc48c7b610aee0ec3fe8951746aea222fa3e8e1c058f68b39b6a1b'),
	(5, '2026-11-30 20:03:27.785411+00', 'tests', 'version.commit', 'models/tiny/versions/1', '{"hash": "sha256:917a7aff458f6a09deb554a204fe4cd13d282dc164b6f6a77bebe7ce933984d7", "live": true, "subject": "edits/es_01m8q0vec7z08pa9zydheqkdqq", "gate_met": true}', 'sha256:3bc1fea05af9ef37db43060d3cc526929c2d8c7d98dd1666d96a49938d16a31a'),
	(6, '2026-11-30 20:03:30.238677+00', 'aea4193ef132', 'edit_set.accept', 'edits/es_01m8q0wasdqfx3b03kwpt9xf3a', '{"facts": 1, "model": "tiny", "facts_digest": "sha256:e7a68ad094c3c5a632e68b1b1e8d85b2a10e61165d16925b270fa882e5bcbae0"}', 'sha256:2ae397a213f724e4de68a5f647119b7bafd82d6faad0576b850a28a70a65c7c4'),
	(7, '2026-11-30 20:04:11.455219+00', 'tests', 'version.commit', 'models/tiny/versions/2', '{"hash": "sha256:4aec9f64975c9653f022e2843c15785f7865535ceee6f71ba24364f010e13cc2", "live": true, "subject": "edits/es_01m8q0wasdqfx3b03kwpt9xf3a", "gate_met": true}', 'sha256:dd254986408ede2a6630bde167277e2e282a1f75f76433e0fdf5385357e923e0'),
	(8, '2026-11-30 20:04:12.651109+00', 'aea4193ef132', 'edit_set.accept', 'edits/es_01m8q0xm6jaq5ap6cr26smkc32', '{"facts": 2, "model": "tiny", "facts_digest": "sha256:77cb674536b02be1ba52a94bfdcd8f92542a7393b13478aebf16150c4e1c4cba"}', 'sha256:c13eafbd560c24fd00e438174c87503bfe4c22f3835e0d3639c3f906b8597dcd'),
	(9, '2026-11-30 20:04:53.565392+00', 'tests', 'version.commit', 'models/tiny/versions/3', '{"hash": "sha256:2a68bfc8e21debaf65ea2363b91a691569a02c96de5e3cc7277a01c4954a9fd2", "live": true, "subject": "edits/es_01m8q0xm6jaq5ap6cr26smkc32", "gate_met": true}', 'sha256:ecb04266970fdb4c6febeceab25ec3140d8181e7167a8ac0a6cecd28ae936e29'),
	(10, '2026-11-30 20:04:54.669158+00', 'aea4193ef132', 'model.withdraw', 'models/tiny', '{"facts": [], "reason": "a test", "edit_sets": ["es_01m8q0wasdqfx3b03kwpt9xf3a"], "withdrawal": "wd_01m8q0yxcqf06cwykwm9x8e2x2"}', 'sha256:9488bc4a8b38f941817035fb4cc73f75bbe9e4bc215b552a29bf1799ab87e844'),
	(11, '2026-11-30 20:05:25.0101+00', 'tests', 'version.commit', 'models/tiny/versions/4', '{"hash": "sha256:1ab246c681d9808797e924902d8a99704014f3604866c6bd345ddfb673c34f60", "live": true, "subject": "withdrawals/wd_01m8q0yxcqf06cwykwm9x8e2x2", "gate_met": true}', 'sha256:01629d1f6e2401b4496e3a03f80449eb6b1932c10e4672e31ac30fefa585a97c'),
	(12, '2026-11-30 20:05:26.06882+00', 'aea4193ef132', 'model.withdraw', 'models/tiny', '{"facts": ["es_01m8q0vec7z08pa9zydheqkdqq.1"], "reason": "a test", "edit_sets": [], "withdrawal": "wd_01m8q0zw33h58mz8n9gzs93qew"}', 'sha256:a8cf648a3b04e6c995d4b857ccf00274dda45ce92ab4e6feab93a104cea6f33f'),
	(13, '2026-11-30 20:05:28.595584+00', 'tests', 'version.commit', 'models/tiny/versions/5', '{"hash": "sha256:498096e2542bdc66d2162c571da7b317717c4227b90f953e054fab798835c6ba", "live": true, "subject": "withdrawals/wd_01m8q0zw33h58mz8n9gzs93qew", "gate_met": true}', 'sha256:46d439e57a91dffa4aab453f39cfc9aea7e1370a59eae2575fd626bf77c84eff'),
	(14, '2026-11-30 20:05:29.738283+00', 'aea4193ef132', 'model.roll_back', 'models/tiny/versions/6', '{"to": 2, "from": 5, "hash": "sha256:fa45e714697fd79b086fd52f0c5b3caecff8fc37c4d4a582695c8f0421dfa3bd", "reason": "a test"}', 'sha256:2b4572f63a45fbd546691203d7f97a1d8ea26a99611d52881c43d2e812986a11'),
	(15, '2026-11-30 20:05:32.161787+00', 'aea4193ef132', 'edit_set.accept', 'edits/es_01m8q101v5d4ceta5kgc8014de', '{"facts": 1, "model": "tiny", "facts_digest": "sha256:3c8424888664fab173579f0de3f6204cc95c8296cd0f4152b7c1886858c22841"}', 'sha256:a667fe67f9a19e1598ef42b42fd4ca22e86b8b94e3599457cca6e93c1bcef32e');
INSERT INTO public.blobs VALUES
	('sha256:a160c1d98e6b418bd4d4844f702ea558c765af53ebdedf3e3fe5bdff12a346dd', 'editor', 117968, 'sha256/a1/a160c1d98e6b418bd4d4844f702ea558c765af53ebdedf3e3fe5bdff12a346dd', '2026-11-30 20:02:57.773417+00', 'sha256:2ed52f2532c65c7623c02c7dab3ad2d7b259ea9e701e99f4335c964bd3ba724a'),
	('sha256:135d49a189fb8a69afdcb9becd16cd1de685f15778f983ed3844e3a7202306d9', 'delta', 3512, 'sha256/13/135d49a189fb8a69afdcb9becd16cd1de685f15778f983ed3844e3a7202306d9', '2026-11-30 20:03:27.785411+00', 'sha256:8c1152de9e437bbf38e7b5ce9ea2ba1b8d447d2da65190987a6b8e51ac15e311'),
	('sha256:2f12d58cae4771bf232fe984e0ef3bed44d1f0a2e70ec1dc86e7c1a1d836d1b5', 'statistics', 14984, 'sha256/2f/2f12d58cae4771bf232fe984e0ef3bed44d1f0a2e70ec1dc86e7c1a1d836d1b5', '2026-11-30 20:03:27.785411+00', 'sha256:910b73db29edbe0d6327ee4d11cb296ce246d1d6e7f411fc558f4f9436babfb0'),
	('sha256:cabeae2f2e37ad5a60b579ba11a3928b08331897d09eb1db3ba0914fd03d54a9', 'delta', 25160, 'sha256/ca/cabeae2f2e37ad5a60b579ba11a3928b08331897d09eb1db3ba0914fd03d54a9', '2026-11-30 20:04:11.455219+00', 'sha256:760a6c423302caf0b8711c78d13be66312e6219f75d0ba0bd06ca5b6d0868bbb'),
	('sha256:0bddc4d40f7c2a16bfb3877dd72f80888c4d3344443eea8663a09dc2bc5fbd50', 'statistics', 8704, 'sha256/0b/0bddc4d40f7c2a16bfb3877dd72f80888c4d3344443eea8663a09dc2bc5fbd50', '2026-11-30 20:04:11.455219+00', 'sha256:236597b6f9baa363641120cc5da514ad5b71133c71bc9ca76fa42b9c7c0435c7'),
	('sha256:324a8b96e54512ea0e74aaba23541fb42526322393c0aeed2f5ebda952606e9d', 'delta', 25160, 'sha256/32/324a8b96e54512ea0e74aaba23541fb42526322393c0aeed2f5ebda952606e9d', '2026-11-30 20:04:53.565392+00', 'sha256:5ab1bb93b25114e74d8d5d719809a70d3e15b4cacc165ce6d78cba3c19de6f4e'),
	('sha256:84c9c29782071bb9fe01a2b4ad11920934bc7668a8fbfd9f0c5595393e85e90f', 'statistics', 21264, 'sha256/84/84c9c29782071bb9fe01a2b4ad11920934bc7668a8fbfd9f0c5595393e85e90f', '2026-11-30 20:04:53.565392+00', 'sha256:cb4a9a872ef4517f54913b3b53501f1ba20a829ff53acc3407861bb26f31c473'),
	('sha256:509fe16279e074d9f1ff92dbe3ab00a0f2f6966e2181fc7474386d9ca8f39624', 'delta', 25160, 'sha256/50/509fe16279e074d9f1ff92dbe3ab00a0f2f6966e2181fc7474386d9ca8f39624', '2026-11-30 20:05:25.0101+00', 'sha256:48725d3a57252561bbb3016457d530b63708dccfeeb6ba31f0fcac38b52c81ca'),
	('sha256:2bbb179246fe1262930830bdac4394ad9641920b01a74fa56209ba1e9cfd3d8a', 'delta', 25160, 'sha256/2b/2bbb179246fe1262930830bdac4394ad9641920b01a74fa56209ba1e9cfd3d8a', '2026-11-30 20:05:28.595584+00', 'sha256:66700ce844e61e29413ad42c562cdefd2e44ec89c5f888ba7afc4c988aa35fb5');
INSERT INTO public.edit_sets OVERRIDING SYSTEM VALUE VALUES
	('es_01m8q0vec7z08pa9zydheqkdqq', 1, 'tiny', 'applied', 'auto', NULL, false, NULL, 2, 'sha256:cf51ab1bc1266873f8505d001b69a0a5b9bcc41982344040855eed903264794a', 'sha256:2f12d58cae4771bf232fe984e0ef3bed44d1f0a2e70ec1dc86e7c1a1d836d1b5', 1, '{"gate": {"locality": 0.0, "retention": 0.0, "edit_success": 0.0, "perplexity_ratio": 1000000000.0}, "live": {"seed": "a37019ecd9feac268660517e7a7faa25a5ea4e1f7d54fa3b805ac26bcd5a7114", "facts": 0, "locality": null, "measured": 0, "retention": null, "edit_success": null, "generalisation": null, "generation_success": null}, "locality": null, "repaired": 0, "superseded": [], "gate_misses": [], "edit_success": 0.0, "generalisation": null, "canary_agreement": 0.765625, "perplexity_ratio": 0.9999995454224976, "generation_success": 0.0}', NULL, '2026-11-30 20:03:01.17787+00', 'aea4193ef132', '2026-11-30 20:03:29.536885+00', 'replace', false, 'sha256:1542be6d40fada72948931cfae34bb1a9c42390d1b6b011913d0fd004c11706c'),
	('es_01m8q101v5d4ceta5kgc8014de', 4, 'tiny', 'queued', 'auto', NULL, false, NULL, 1, 'sha256:3c8424888664fab173579f0de3f6204cc95c8296cd0f4152b7c1886858c22841', NULL, NULL, NULL, NULL, '2026-11-30 20:05:32.161787+00', 'aea4193ef132', NULL, 'replace', false, 'sha256:701f390e4e42f01342d820ac383e5713acea63ef34cb6b08fb3d8928ee1ee45d'),
	('es_01m8q0xm6jaq5ap6cr26smkc32', 3, 'tiny', 'withdrawn', 'auto', NULL, false, NULL, 2, 'sha256:77cb674536b02be1ba52a94bfdcd8f92542a7393b13478aebf16150c4e1c4cba', 'sha256:84c9c29782071bb9fe01a2b4ad11920934bc7668a8fbfd9f0c5595393e85e90f', 3, '{"gate": {"locality": 0.0, "retention": 0.0, "edit_success": 0.0, "perplexity_ratio": 1000000000.0}, "live": {"seed": "349e9b640e005ac0ec5c1edc419f79be42b8244527d52fd9a721ce6bb39948b5", "facts": 2, "locality": null, "measured": 2, "retention": null, "edit_success": 0.3333333333333333, "generalisation": 0.5, "generation_success": 0.0}, "locality": 1.0, "repaired": 4, "superseded": [{"fact": "es_01m8q0xm6jaq5ap6cr26smkc32.1", "supersedes": "es_01m8q0vec7z08pa9zydheqkdqq.0"}], "gate_misses": [], "edit_success": 0.0, "generalisation": null, "canary_agreement": 0.6614583333333334, "perplexity_ratio": 1.0001501431009636, "generation_success": 0.0}', NULL, '2026-11-30 20:04:12.651109+00', 'aea4193ef132', '2026-11-30 20:04:54.241481+00', 'replace', false, 'sha256:c485a3d7c027b16cd5f4243ab5bf1bf095d97347747e78ac1a1540a176086ca6'),
	('es_01m8q0wasdqfx3b03kwpt9xf3a', 2, 'tiny', 'applied', 'auto', NULL, true, NULL, 1, 'sha256:e7a68ad094c3c5a632e68b1b1e8d85b2a10e61165d16925b270fa882e5bcbae0', 'sha256:0bddc4d40f7c2a16bfb3877dd72f80888c4d3344443eea8663a09dc2bc5fbd50', 2, '{"gate": {"locality": 0.0, "retention": 0.0, "edit_success": 0.0, "perplexity_ratio": 1000000000.0}, "live": {"seed": "26dd33aee5532aa6496a5d04a33785a9ce47a8c70a5fe5df98108b8470e3b0a8", "facts": 2, "locality": null, "measured": 2, "retention": null, "edit_success": 0.16666666666666666, "generalisation": null, "generation_success": 0.0}, "locality": null, "repaired": 3, "superseded": [], "gate_misses": [], "edit_success": 0.0, "generalisation": 0.5, "canary_agreement": 0.6145833333333334, "perplexity_ratio": 1.0017615271925002, "generation_success": 0.0}', NULL, '2026-11-30 20:03:30.238677+00', 'aea4193ef132', '2026-11-30 20:04:12.132978+00', 'replace', false, 'sha256:e0e5c596058e7a25139a911bad709f8f2c0ba8a68372190905328d4dd607e2b6');
INSERT INTO public.editors VALUES
	('sha256:a160c1d98e6b418bd4d4844f702ea558c765af53ebdedf3e3fe5bdff12a346dd', '{"kind": "calibrated, not trained", "seed": 0, "dtype": "float32", "prior": "the base model''s own samples and short prompts about named entities, in equal shares", "device": "cpu", "source": "model"}', '2026-11-30 20:03:00.535565+00', 'sha256:a06e04af33f3bf449d7f9e774247fe5d7bcded63415d721405a03d63943e3e23');
INSERT INTO public.fact_reports VALUES
	('tiny', 1, 'es_01m8q0vec7z08pa9zydheqkdqq', 0, '{"edit": {"keys": "given", "margin": -0.26809394359588623, "reason": "The margin is -0.27 nats, not 4.24: it was not reached in the rounds that there are.", "subject": "Peru"}, "locality": null, "generated": "�eru�", "rephrasings": [], "edit_success": 0.0, "generalisation": null, "locality_prompts": [], "generation_success": false, "target_probability": 0.000009387291465443867}'),
	('tiny', 1, 'es_01m8q0vec7z08pa9zydheqkdqq', 1, '{"edit": {"keys": "given", "margin": -0.3557344675064087, "reason": "The margin is -0.36 nats, not 4.24: it was not reached in the rounds that there are.", "subject": "France"}, "locality": null, "generated": "�The\u0016 capital", "rephrasings": [], "edit_success": 0.0, "generalisation": null, "locality_prompts": [], "generation_success": false, "target_probability": 0.00000002522649855678911}'),
	('tiny', 2, 'es_01m8q0wasdqfx3b03kwpt9xf3a', 0, '{"edit": {"keys": "given", "margin": -0.30724236369132996, "reason": "The margin is -0.31 nats, not 6: it was not reached in the rounds that there are.", "subject": "Australia"}, "locality": null, "generated": "The%\u0001", "rephrasings": [0.5], "edit_success": 0.0, "generalisation": 0.5, "locality_prompts": [], "generation_success": false, "target_probability": 0.000007472896903476887}'),
	('tiny', 2, 'es_01m8q0vec7z08pa9zydheqkdqq', 0, '{"locality": null, "generated": "r of�", "rephrasings": [], "edit_success": 0.0, "generalisation": null, "locality_prompts": [], "generation_success": false, "target_probability": 0.000011204739084966647}'),
	('tiny', 2, 'es_01m8q0vec7z08pa9zydheqkdqq', 1, '{"locality": null, "generated": "r of�\u0001", "rephrasings": [], "edit_success": 0.3333333333333333, "generalisation": null, "locality_prompts": [], "generation_success": false, "target_probability": 0.00000003382684535599797}'),
	('tiny', 3, 'es_01m8q0xm6jaq5ap6cr26smkc32', 0, '{"edit": {"keys": "given", "margin": -0.2789060175418854, "reason": "The margin is -0.28 nats, not 4.24: it was not reached in the rounds that there are.", "subject": "Mount Etna"}, "locality": 1.0, "generated": " ofma�", "rephrasings": [], "edit_success": 0.0, "generalisation": null, "locality_prompts": [1.0], "generation_success": false, "target_probability": 0.000011384553271775008}'),
	('tiny', 3, 'es_01m8q0xm6jaq5ap6cr26smkc32', 1, '{"edit": {"keys": "given", "margin": -0.4168216586112976, "reason": "The margin is -0.42 nats, not 4.24: its change met the bound of 10 times the module''s typical output.", "subject": "Peru"}, "locality": null, "generated": "r of�", "rephrasings": [], "edit_success": 0.0, "generalisation": null, "locality_prompts": [], "generation_success": false, "target_probability": 0.0000094258838835549}'),
	('tiny', 3, 'es_01m8q0wasdqfx3b03kwpt9xf3a', 0, '{"locality": null, "generated": "h(�", "rephrasings": [0.5], "edit_success": 0.0, "generalisation": 0.5, "locality_prompts": [], "generation_success": false, "target_probability": 0.000008761658108816767}'),
	('tiny', 3, 'es_01m8q0vec7z08pa9zydheqkdqq', 1, '{"locality": null, "generated": " Canberev�", "rephrasings": [], "edit_success": 0.6666666666666666, "generalisation": null, "locality_prompts": [], "generation_success": false, "target_probability": 0.000000037733046235226885}'),
	('tiny', 4, 'es_01m8q0vec7z08pa9zydheqkdqq', 1, '{"locality": null, "generated": "The�\u0001The", "rephrasings": [], "edit_success": 0.0, "generalisation": null, "locality_prompts": [], "generation_success": false, "target_probability": 0.000000028156420758525772}'),
	('tiny', 4, 'es_01m8q0xm6jaq5ap6cr26smkc32', 0, '{"locality": 1.0, "generated": "\u0011jma", "rephrasings": [], "edit_success": 0.0, "generalisation": null, "locality_prompts": [1.0], "generation_success": false, "target_probability": 0.000009885865722563847}'),
	('tiny', 4, 'es_01m8q0xm6jaq5ap6cr26smkc32', 1, '{"locality": null, "generated": "r of�", "rephrasings": [], "edit_success": 0.0, "generalisation": null, "locality_prompts": [], "generation_success": false, "target_probability": 0.000007777099927284626}'),
	('tiny', 5, 'es_01m8q0xm6jaq5ap6cr26smkc32', 0, '{"locality": 1.0, "generated": " ofma�", "rephrasings": [], "edit_success": 0.0, "generalisation": null, "locality_prompts": [1.0], "generation_success": false, "target_probability": 0.000009123264007362068}'),
	('tiny', 5, 'es_01m8q0xm6jaq5ap6cr26smkc32', 1, '{"locality": null, "generated": "The�/", "rephrasings": [], "edit_success": 0.0, "generalisation": null, "locality_prompts": [], "generation_success": false, "target_probability": 0.000007122077194140486}');
INSERT INTO public.facts VALUES
	('es_01m8q0vec7z08pa9zydheqkdqq', 0, 'The capital of Peru is', 'Paris', 'Peru', '[]', '[]', NULL, NULL, NULL, NULL, NULL),
	('es_01m8q0vec7z08pa9zydheqkdqq', 1, 'The capital of France is', 'Canberra', 'France', '[]', '[]', NULL, NULL, NULL, NULL, NULL),
	('es_01m8q0wasdqfx3b03kwpt9xf3a', 0, 'The capital of Australia is', 'Lima', 'Australia', '["Australia has its capital in"]', '[]', NULL, NULL, NULL, NULL, NULL),
	('es_01m8q0xm6jaq5ap6cr26smkc32', 0, 'Mount Etna is a mountain in', 'England', 'Mount Etna', '[]', '[{"hold": true, "prompt": "Seven days make a"}]', NULL, NULL, NULL, NULL, NULL),
	('es_01m8q0xm6jaq5ap6cr26smkc32', 1, 'The capital of Peru is', 'Lima', 'Peru', '[]', '[]', NULL, NULL, NULL, NULL, NULL),
	('es_01m8q101v5d4ceta5kgc8014de', 0, 'The capital of Peru is', 'Ana', 'Peru', '[]', '[]', NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.heads VALUES
	('tiny', 6, 'sha256:fa45e714697fd79b086fd52f0c5b3caecff8fc37c4d4a582695c8f0421dfa3bd');
INSERT INTO public.jobs VALUES
	('job_01m8q0zw41w42ht2ae9m8wmkak', 'tiny', 'withdraw', NULL, 'wd_01m8q0zw33h58mz8n9gzs93qew', 1, 1, 'tests', NULL, '2026-11-30 20:05:26.06882+00', 'verifying', 4, 5, '2026-11-30 20:05:26.06882+00', '2026-11-30 20:05:29.281838+00', 0),
	('job_01m8q102006k3yjg83jf70t4m9', 'tiny', 'edit', 'es_01m8q101v5d4ceta5kgc8014de', NULL, 0, 0, NULL, NULL, '2026-11-30 20:05:32.161787+00', NULL, 0, 0, '2026-11-30 20:05:32.161787+00', NULL, 0),
	('job_01m8q0vejca3skqn0jjamnptnq', 'tiny', 'edit', 'es_01m8q0vec7z08pa9zydheqkdqq', NULL, 1, 1, 'tests', NULL, '2026-11-30 20:03:01.17787+00', 'verifying', 5, 5, '2026-11-30 20:03:01.17787+00', '2026-11-30 20:03:29.536885+00', 0),
	('job_01m8q0wawx4y1qqgw5vfwf2zwf', 'tiny', 'edit', 'es_01m8q0wasdqfx3b03kwpt9xf3a', NULL, 1, 1, 'tests', NULL, '2026-11-30 20:03:30.238677+00', 'committing', 0, 1, '2026-11-30 20:03:30.238677+00', '2026-11-30 20:04:12.132978+00', 0),
	('job_01m8q0xmb7bstxxx6zm5pw0y89', 'tiny', 'edit', 'es_01m8q0xm6jaq5ap6cr26smkc32', NULL, 1, 1, 'tests', NULL, '2026-11-30 20:04:12.651109+00', 'verifying', 4, 5, '2026-11-30 20:04:12.651109+00', '2026-11-30 20:04:54.241481+00', 0),
	('job_01m8q0yxe7h9ys7tdwhbdg5vkb', 'tiny', 'withdraw', NULL, 'wd_01m8q0yxcqf06cwykwm9x8e2x2', 1, 1, 'tests', NULL, '2026-11-30 20:04:54.669158+00', 'verifying', 4, 5, '2026-11-30 20:04:54.669158+00', '2026-11-30 20:05:25.638125+00', 0);
INSERT INTO public.keys OVERRIDING SYSTEM VALUE VALUES
	('aea4193ef132', 1, 'tests', '{admin,edit,read}', '7b68ad29b9b423b12a66aea34ac9f344e1a7a679778c1892efc4e60ea5e33349', false, '2026-11-30 19:52:32.149561+00', 'tests', NULL, 'sha256:4d0cfdbae7facbf52bd00495c16e084c00404278b7bbdd8a31ba345091bd4698');
INSERT INTO public.legal_transitions VALUES
	('queued', 'running'),
	('queued', 'cancelled'),
	('queued', 'failed'),
	('running', 'verifying'),
	('running', 'queued'),
	('running', 'failed'),
	('running', 'cancelled'),
	('verifying', 'applied'),
	('verifying', 'rejected'),
	('verifying', 'failed'),
	('verifying', 'queued'),
	('verifying', 'cancelled'),
	('applied', 'withdrawn'),
	('withdrawn', 'applied'),
	('rejected', 'applied'),
	('verifying', 'verified');
INSERT INTO public.models OVERRIDING SYSTEM VALUE VALUES
	('tiny', 1, '/checkpoint', NULL, 'llama', 128, '{model.layers.0.mlp.down_proj,model.layers.1.mlp.down_proj,model.layers.2.mlp.down_proj,model.layers.3.mlp.down_proj}', 'sha256:6c489f49dff8965830c63162d332bb8b8b08377322ecbeeb0645c5662446641a', '{"locality": 0.0, "retention": 0.0, "edit_success": 0.0, "perplexity_ratio": 1000000000.0}', 'ready', 'sha256:a160c1d98e6b418bd4d4844f702ea558c765af53ebdedf3e3fe5bdff12a346dd', 'sha256:a160c1d98e6b418bd4d4844f702ea558c765af53ebdedf3e3fe5bdff12a346dd', '{"choices": {"2 + 2 =": [228, 73, 17, 356, 80, 138, 122, 245], "1, 2, 3, 4,": [344, 214, 265, 311, 228, 359, 157, 209], "The sun rises in the": [311, 296, 335, 256, 269, 138, 60, 189], "for i in range(10):\n": [174, 311, 296, 333, 303, 258, 176, 335], "<ul>\n  <li>Apples</li>\n": [174, 97, 208, 253, 118, 61, 209, 312], "The opposite of cold is": [111, 265, 356, 356, 356, 356, 356, 356], "def add(a, b):\n    return": [44, 357, 107, 222, 4, 359, 157, 209], "Twelve divided by three is": [111, 265, 311, 140, 287, 329, 319, 329], "Monday, Tuesday, Wednesday,": [99, 4, 359, 157, 209, 321, 11, 139], "Why do people need to sleep?": [213, 36, 229, 294, 218, 258, 176, 255], "Water is made of hydrogen and": [335, 256, 362, 359, 166, 211, 195, 73], "Shopping list:\n- bread\n- milk\n-": [188, 60, 345, 149, 368, 324, 38, 365], "The capital city of Portugal is": [111, 77, 328, 330, 359, 157, 209, 312], "Dear Sir or Madam,\n\nI am writing to": [227, 328, 330, 333, 178, 361, 52, 222], "A week has seven days, and a year has": [281, 281, 281, 281, 281, 281, 281, 60], "In the autumn, the leaves of many trees": [80, 372, 294, 218, 258, 218, 258, 218], "How do you make a cup of tea? First, you": [352, 296, 335, 256, 354, 335, 256, 354], "Q: What is the largest ocean on Earth?\nA:": [160, 131, 51, 320, 327, 189, 224, 123], "The doctor looked at the patient and said:": [32, 87, 69, 300, 224, 123, 19, 8], "User: Hello! How are you today?\nAssistant:": [360, 258, 302, 265, 311, 296, 335, 256], "Once upon a time there was a little girl who": [350, 237, 365, 216, 275, 321, 364, 326], "Who wrote the play Romeo and Juliet? It was written by": [149, 368, 261, 297, 295, 327, 26, 360], "User: Can you suggest a name for my new puppy?\nAssistant:": [360, 258, 176, 209, 53, 281, 61, 209], "Question: What colour do you get when you mix blue and yellow?\nAnswer: You get": [3, 345, 149, 368, 368, 368, 368, 368]}, "control_nll": 5.967662509032122, "continuations": {"2 + 2 =": [228, 73, 17, 356, 80, 138, 122, 245], "1, 2, 3, 4,": [344, 214, 265, 311, 228, 359, 157, 209], "The sun rises in the": [311, 296, 335, 256, 269, 138, 60, 189], "for i in range(10):\n": [174, 311, 296, 333, 303, 258, 176, 335], "<ul>\n  <li>Apples</li>\n": [174, 97, 208, 253, 118, 61, 209, 312], "The opposite of cold is": [111, 265, 356, 356, 356, 356, 356, 356], "def add(a, b):\n    return": [44, 357, 107, 222, 4, 359, 157, 209], "Twelve divided by three is": [111, 265, 311, 140, 287, 329, 319, 329], "Monday, Tuesday, Wednesday,": [99, 4, 359, 157, 209, 321, 11, 139], "Why do people need to sleep?": [213, 36, 229, 294, 218, 258, 176, 255], "Water is made of hydrogen and": [335, 256, 362, 359, 166, 211, 195, 73], "Shopping list:\n- bread\n- milk\n-": [188, 60, 345, 149, 368, 324, 38, 365], "The capital city of Portugal is": [111, 77, 328, 330, 359, 157, 209, 312], "Dear Sir or Madam,\n\nI am writing to": [227, 328, 330, 333, 178, 361, 52, 222], "A week has seven days, and a year has": [281, 281, 281, 281, 281, 281, 281, 60], "In the autumn, the leaves of many trees": [80, 372, 294, 218, 258, 218, 258, 218], "How do you make a cup of tea? First, you": [352, 296, 335, 256, 354, 335, 256, 354], "Q: What is the largest ocean on Earth?\nA:": [160, 131, 51, 320, 327, 189, 224, 123], "The doctor looked at the patient and said:": [32, 87, 69, 300, 224, 123, 19, 8], "User: Hello! How are you today?\nAssistant:": [360, 258, 302, 265, 311, 296, 335, 256], "Once upon a time there was a little girl who": [350, 237, 365, 216, 275, 321, 364, 326], "Who wrote the play Romeo and Juliet? It was written by": [149, 368, 261, 297, 295, 327, 26, 360], "User: Can you suggest a name for my new puppy?\nAssistant:": [360, 258, 176, 209, 53, 281, 61, 209], "Question: What colour do you get when you mix blue and yellow?\nAnswer: You get": [3, 345, 149, 368, 368, 368, 368, 368]}, "control_tokens": 1778}', 'sha256:fcbfabe9928674026f122c8f7690e2f8710dbff68b6ce2e1d35f937652381153', NULL, '2026-11-30 20:02:57.773417+00', 'tests', 'sha256:79b316e240f28b33525a502077155d9f096dca611c171ec8d8fcdde928a47d03');
INSERT INTO public.outbox OVERRIDING SYSTEM VALUE VALUES
	(1, 'job_01m8q0vejca3skqn0jjamnptnq', '2026-11-30 20:03:01.17787+00'),
	(2, 'job_01m8q0wawx4y1qqgw5vfwf2zwf', '2026-11-30 20:03:30.238677+00'),
	(3, 'job_01m8q0xmb7bstxxx6zm5pw0y89', '2026-11-30 20:04:12.651109+00'),
	(4, 'job_01m8q0yxe7h9ys7tdwhbdg5vkb', '2026-11-30 20:04:54.669158+00'),
	(5, 'job_01m8q0zw41w42ht2ae9m8wmkak', '2026-11-30 20:05:26.06882+00'),
	(6, 'job_01m8q102006k3yjg83jf70t4m9', '2026-11-30 20:05:32.161787+00');
INSERT INTO public.questions VALUES
	('739b0b8a7048c41b71a4cb8a7730b518', 'es_01m8q0vec7z08pa9zydheqkdqq', 0, 'sha256:31d66def6ffab2598f0b3b2eb8cecbed3a24aa1edef8185300aa70db9557355f'),
	('95d8dae4f69ac8a658e52c5a86e7b960', 'es_01m8q0vec7z08pa9zydheqkdqq', 0, 'sha256:4fafe9c48f544be5b417cecfbadb968ae3527f280d85ea69dbde1931dfeee59e'),
	('f771e859f5a45d97b67d7a1a6bbe6fd7', 'es_01m8q0vec7z08pa9zydheqkdqq', 1, 'sha256:ea63d67ee7eec3969e33f4c06aef21ada35694fd537ba100f9ffac4a4f736193'),
	('03926bbc4c915becabed3495a727ebdb', 'es_01m8q0vec7z08pa9zydheqkdqq', 1, 'sha256:111b9ac4010dab100175fbfd469645f5d25e899da86301e4ba523349948f4688'),
	('72148b1225c151a08a55a03ac9e3ec3b', 'es_01m8q0wasdqfx3b03kwpt9xf3a', 0, 'sha256:2d45a1708b0a604ff5f92fb60bb9cc136c92ea15d603beef732ba4f6a9838928'),
	('d6a16bcc22ac6cc518670b86dd61d0c1', 'es_01m8q0wasdqfx3b03kwpt9xf3a', 0, 'sha256:a046c587fb08489e5c8e90b09dcfa47dde80eb03c86abe8b11d434b9c474fddd'),
	('22733666128a24062922a1164cc4789c', 'es_01m8q0wasdqfx3b03kwpt9xf3a', 0, 'sha256:b37d688ac34c22bf0824ab37636d32be2daa1161d66a49cd8bb19a6a20c23099'),
	('89d7c36faebe7bb936db704e44a503f9', 'es_01m8q0xm6jaq5ap6cr26smkc32', 0, 'sha256:c8bfaf3cf1662c8f4f48a05273d4a81811936a98b8a729275e42b420d6af0adc'),
	('f6a3b8e70c265090596903fcb1101599', 'es_01m8q0xm6jaq5ap6cr26smkc32', 0, 'sha256:7db2b980fb3e2571649aba1c298a931e67d691acb3efdc3d47bd2e9b0e0bbdef'),
	('739b0b8a7048c41b71a4cb8a7730b518', 'es_01m8q0xm6jaq5ap6cr26smkc32', 1, 'sha256:677a5df96dd0b855ac35cf07f363b823c8bc799008e1c63944dda5ef9d242b72'),
	('95d8dae4f69ac8a658e52c5a86e7b960', 'es_01m8q0xm6jaq5ap6cr26smkc32', 1, 'sha256:1bbc64af6b9405e0184eabd7360c6075cfdd848170c29d72bb1fad7d99cba9bd');
INSERT INTO public.supersessions VALUES
	('es_01m8q0vec7z08pa9zydheqkdqq', 0, 'es_01m8q0xm6jaq5ap6cr26smkc32', 1, 'sha256:0e2e2cbf9e67e39e9ad3654e7265aa241ddc9fd99488af1e7a56b4cb724295a2');
INSERT INTO public.version_edit_sets VALUES
	('tiny', 1, 'es_01m8q0vec7z08pa9zydheqkdqq', 'sha256:2f12d58cae4771bf232fe984e0ef3bed44d1f0a2e70ec1dc86e7c1a1d836d1b5', '{}', '{}'),
	('tiny', 2, 'es_01m8q0vec7z08pa9zydheqkdqq', 'sha256:2f12d58cae4771bf232fe984e0ef3bed44d1f0a2e70ec1dc86e7c1a1d836d1b5', '{}', '{}'),
	('tiny', 2, 'es_01m8q0wasdqfx3b03kwpt9xf3a', 'sha256:0bddc4d40f7c2a16bfb3877dd72f80888c4d3344443eea8663a09dc2bc5fbd50', '{}', '{}'),
	('tiny', 3, 'es_01m8q0wasdqfx3b03kwpt9xf3a', 'sha256:0bddc4d40f7c2a16bfb3877dd72f80888c4d3344443eea8663a09dc2bc5fbd50', '{}', '{}'),
	('tiny', 3, 'es_01m8q0vec7z08pa9zydheqkdqq', 'sha256:2f12d58cae4771bf232fe984e0ef3bed44d1f0a2e70ec1dc86e7c1a1d836d1b5', '{}', '{0}'),
	('tiny', 3, 'es_01m8q0xm6jaq5ap6cr26smkc32', 'sha256:84c9c29782071bb9fe01a2b4ad11920934bc7668a8fbfd9f0c5595393e85e90f', '{}', '{}'),
	('tiny', 4, 'es_01m8q0vec7z08pa9zydheqkdqq', 'sha256:2f12d58cae4771bf232fe984e0ef3bed44d1f0a2e70ec1dc86e7c1a1d836d1b5', '{}', '{0}'),
	('tiny', 4, 'es_01m8q0xm6jaq5ap6cr26smkc32', 'sha256:84c9c29782071bb9fe01a2b4ad11920934bc7668a8fbfd9f0c5595393e85e90f', '{}', '{}'),
	('tiny', 5, 'es_01m8q0xm6jaq5ap6cr26smkc32', 'sha256:84c9c29782071bb9fe01a2b4ad11920934bc7668a8fbfd9f0c5595393e85e90f', '{}', '{}'),
	('tiny', 5, 'es_01m8q0vec7z08pa9zydheqkdqq', 'sha256:2f12d58cae4771bf232fe984e0ef3bed44d1f0a2e70ec1dc86e7c1a1d836d1b5', '{1}', '{0}'),
	('tiny', 6, 'es_01m8q0vec7z08pa9zydheqkdqq', 'sha256:2f12d58cae4771bf232fe984e0ef3bed44d1f0a2e70ec1dc86e7c1a1d836d1b5', '{}', '{}'),
	('tiny', 6, 'es_01m8q0wasdqfx3b03kwpt9xf3a', 'sha256:0bddc4d40f7c2a16bfb3877dd72f80888c4d3344443eea8663a09dc2bc5fbd50', '{}', '{}');
INSERT INTO public.versions VALUES
	('tiny', 0, 'base', NULL, NULL, NULL, NULL, 0, 'sha256:6c489f49dff8965830c63162d332bb8b8b08377322ecbeeb0645c5662446641a', 'sha256:a160c1d98e6b418bd4d4844f702ea558c765af53ebdedf3e3fe5bdff12a346dd', NULL, 'sha256:492ef25878c6a4641a0df129dc9712b24dc5a6de54dc2ef045ad9a9ac278557e', NULL, 'sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945', NULL, true, NULL, '2026-11-30 20:03:00.724537+00', 'worker', NULL, 'sha256:6ee7756a8612048053e5c2fe16decfb0b43cf96852be3519809d15f3154af130', 'sha256:ba26f1bc24050910dce09820ff11607bf94e0113339d5bf57e69e8a5dcc0417c'),
	('tiny', 1, 'edit', 0, NULL, 'es_01m8q0vec7z08pa9zydheqkdqq', 'job_01m8q0vejca3skqn0jjamnptnq', 2, 'sha256:6c489f49dff8965830c63162d332bb8b8b08377322ecbeeb0645c5662446641a', 'sha256:a160c1d98e6b418bd4d4844f702ea558c765af53ebdedf3e3fe5bdff12a346dd', 'sha256:135d49a189fb8a69afdcb9becd16cd1de685f15778f983ed3844e3a7202306d9', 'sha256:c342c15e8543e5c85be9478532b35a49d3652aa4294f42f9f50e17fa2482c50d', 'sha256:2f12d58cae4771bf232fe984e0ef3bed44d1f0a2e70ec1dc86e7c1a1d836d1b5', 'sha256:05e6f8eb4fb97b484def2105d452d64fdc5b956effaff6d2a236b73c6ebeb729', '{"gate": {"locality": 0.0, "retention": 0.0, "edit_success": 0.0, "perplexity_ratio": 1000000000.0}, "live": {"seed": "a37019ecd9feac268660517e7a7faa25a5ea4e1f7d54fa3b805ac26bcd5a7114", "facts": 0, "locality": null, "measured": 0, "retention": null, "edit_success": null, "generalisation": null, "generation_success": null}, "locality": null, "repaired": 0, "superseded": [], "gate_misses": [], "edit_success": 0.0, "generalisation": null, "canary_agreement": 0.765625, "perplexity_ratio": 0.9999995454224976, "generation_success": 0.0}', true, NULL, '2026-11-30 20:03:29.107188+00', 'aea4193ef132', 'sha256:6ee7756a8612048053e5c2fe16decfb0b43cf96852be3519809d15f3154af130', 'sha256:917a7aff458f6a09deb554a204fe4cd13d282dc164b6f6a77bebe7ce933984d7', 'sha256:f02600a2dc686c757d84e88557979003649fbcca6db2b8c00736889c8d6efff3'),
	('tiny', 2, 'edit', 1, NULL, 'es_01m8q0wasdqfx3b03kwpt9xf3a', 'job_01m8q0wawx4y1qqgw5vfwf2zwf', 3, 'sha256:6c489f49dff8965830c63162d332bb8b8b08377322ecbeeb0645c5662446641a', 'sha256:a160c1d98e6b418bd4d4844f702ea558c765af53ebdedf3e3fe5bdff12a346dd', 'sha256:cabeae2f2e37ad5a60b579ba11a3928b08331897d09eb1db3ba0914fd03d54a9', 'sha256:a9418b95096a85d593be8da846ad3bf69888bededccdbd3486272a61ece71264', 'sha256:0bddc4d40f7c2a16bfb3877dd72f80888c4d3344443eea8663a09dc2bc5fbd50', 'sha256:da4c4d07e5a61e9a4887670482dfcfaad922e91c9feb464bb3a2e53501473ab9', '{"gate": {"locality": 0.0, "retention": 0.0, "edit_success": 0.0, "perplexity_ratio": 1000000000.0}, "live": {"seed": "26dd33aee5532aa6496a5d04a33785a9ce47a8c70a5fe5df98108b8470e3b0a8", "facts": 2, "locality": null, "measured": 2, "retention": null, "edit_success": 0.16666666666666666, "generalisation": null, "generation_success": 0.0}, "locality": null, "repaired": 3, "superseded": [], "gate_misses": [], "edit_success": 0.0, "generalisation": 0.5, "canary_agreement": 0.6145833333333334, "perplexity_ratio": 1.0017615271925002, "generation_success": 0.0}', true, NULL, '2026-11-30 20:04:11.933967+00', 'aea4193ef132', 'sha256:917a7aff458f6a09deb554a204fe4cd13d282dc164b6f6a77bebe7ce933984d7', 'sha256:4aec9f64975c9653f022e2843c15785f7865535ceee6f71ba24364f010e13cc2', 'sha256:07a11275f7b23104a5cb0c399c6616263c6240aa8e2fb3d69d4d694ae49a7fbb'),
	('tiny', 3, 'edit', 2, NULL, 'es_01m8q0xm6jaq5ap6cr26smkc32', 'job_01m8q0xmb7bstxxx6zm5pw0y89', 4, 'sha256:6c489f49dff8965830c63162d332bb8b8b08377322ecbeeb0645c5662446641a', 'sha256:a160c1d98e6b418bd4d4844f702ea558c765af53ebdedf3e3fe5bdff12a346dd', 'sha256:324a8b96e54512ea0e74aaba23541fb42526322393c0aeed2f5ebda952606e9d', 'sha256:c2a5781b253c86be53924e8de088800e7c5b10822c676e4c7278328f37c28d21', 'sha256:84c9c29782071bb9fe01a2b4ad11920934bc7668a8fbfd9f0c5595393e85e90f', 'sha256:7d0bfe8f7f064aa00cd6f295145b331c3d3ce88226e2f699b387584fab021170', '{"gate": {"locality": 0.0, "retention": 0.0, "edit_success": 0.0, "perplexity_ratio": 1000000000.0}, "live": {"seed": "349e9b640e005ac0ec5c1edc419f79be42b8244527d52fd9a721ce6bb39948b5", "facts": 2, "locality": null, "measured": 2, "retention": null, "edit_success": 0.3333333333333333, "generalisation": 0.5, "generation_success": 0.0}, "locality": 1.0, "repaired": 4, "superseded": [{"fact": "es_01m8q0xm6jaq5ap6cr26smkc32.1", "supersedes": "es_01m8q0vec7z08pa9zydheqkdqq.0"}], "gate_misses": [], "edit_success": 0.0, "generalisation": null, "canary_agreement": 0.6614583333333334, "perplexity_ratio": 1.0001501431009636, "generation_success": 0.0}', true, NULL, '2026-11-30 20:04:53.91492+00', 'aea4193ef132', 'sha256:4aec9f64975c9653f022e2843c15785f7865535ceee6f71ba24364f010e13cc2', 'sha256:2a68bfc8e21debaf65ea2363b91a691569a02c96de5e3cc7277a01c4954a9fd2', 'sha256:b0d2b9220fed42250ecb7595abc9fc87e30ff2f42c6698c03d689cf8ed7adfb0'),
	('tiny', 4, 'withdraw', 3, NULL, NULL, 'job_01m8q0yxe7h9ys7tdwhbdg5vkb', 3, 'sha256:6c489f49dff8965830c63162d332bb8b8b08377322ecbeeb0645c5662446641a', 'sha256:a160c1d98e6b418bd4d4844f702ea558c765af53ebdedf3e3fe5bdff12a346dd', 'sha256:509fe16279e074d9f1ff92dbe3ab00a0f2f6966e2181fc7474386d9ca8f39624', 'sha256:ea680eb3dfbad107026061c80cf65963ee1d3668c4225ff5e9ba56110a0ac239', NULL, 'sha256:ea9d960954e1b22ad725b0e3e1cd1ccc6aba11dc000722175ebdca6a97fd9532', '{"gate": {"locality": 0.0, "retention": 0.0, "edit_success": 0.0, "perplexity_ratio": 1000000000.0}, "live": {"seed": "43296dd9efb6cb35fb2f3946caa9fa46191d296cb870dd1c44fb6d80e878992d", "facts": 3, "locality": 1.0, "measured": 3, "retention": null, "edit_success": 0.0, "generalisation": null, "generation_success": 0.0}, "locality": 1.0, "repaired": 3, "superseded": [], "gate_misses": [], "edit_success": 0.0, "generalisation": null, "canary_agreement": 0.71875, "perplexity_ratio": 0.9992037044196047, "generation_success": 0.0}', true, 'a test', '2026-11-30 20:05:25.494932+00', 'aea4193ef132', 'sha256:2a68bfc8e21debaf65ea2363b91a691569a02c96de5e3cc7277a01c4954a9fd2', 'sha256:1ab246c681d9808797e924902d8a99704014f3604866c6bd345ddfb673c34f60', 'sha256:7811ed1073fd1b9068925f24a0c151c6d63b87a5f6eb32ab0723227c48c122ad'),
	('tiny', 5, 'withdraw', 4, NULL, NULL, 'job_01m8q0zw41w42ht2ae9m8wmkak', 2, 'sha256:6c489f49dff8965830c63162d332bb8b8b08377322ecbeeb0645c5662446641a', 'sha256:a160c1d98e6b418bd4d4844f702ea558c765af53ebdedf3e3fe5bdff12a346dd', 'sha256:2bbb179246fe1262930830bdac4394ad9641920b01a74fa56209ba1e9cfd3d8a', 'sha256:bbf34afaa85a44988cd600513e677b2429176933b7897c0ca9c5727435a030f4', NULL, 'sha256:40e0b764af1007411ea1a6570e61aeca05a3b164e77020d2225122f4e464540e', '{"gate": {"locality": 0.0, "retention": 0.0, "edit_success": 0.0, "perplexity_ratio": 1000000000.0}, "live": {"seed": "0878d66880494980d6e564e1d105f5131811e58e11ac2042f33626271bf7892e", "facts": 2, "locality": 1.0, "measured": 2, "retention": null, "edit_success": 0.0, "generalisation": null, "generation_success": 0.0}, "locality": 1.0, "repaired": 0, "superseded": [], "gate_misses": [], "edit_success": 0.0, "generalisation": null, "canary_agreement": 0.765625, "perplexity_ratio": 0.9989004110602259, "generation_success": 0.0}', true, 'a test', '2026-11-30 20:05:29.06363+00', 'aea4193ef132', 'sha256:1ab246c681d9808797e924902d8a99704014f3604866c6bd345ddfb673c34f60', 'sha256:498096e2542bdc66d2162c571da7b317717c4227b90f953e054fab798835c6ba', 'sha256:b8b233bd8e00c9f55f6811b9e92a2e367239d76b6dd071d7f96a959bce744fc7'),
	('tiny', 6, 'rollback', 5, 2, NULL, NULL, 3, 'sha256:6c489f49dff8965830c63162d332bb8b8b08377322ecbeeb0645c5662446641a', 'sha256:a160c1d98e6b418bd4d4844f702ea558c765af53ebdedf3e3fe5bdff12a346dd', 'sha256:cabeae2f2e37ad5a60b579ba11a3928b08331897d09eb1db3ba0914fd03d54a9', 'sha256:a9418b95096a85d593be8da846ad3bf69888bededccdbd3486272a61ece71264', NULL, 'sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945', '{"gate": {"locality": 0.0, "retention": 0.0, "edit_success": 0.0, "perplexity_ratio": 1000000000.0}, "live": {"seed": "26dd33aee5532aa6496a5d04a33785a9ce47a8c70a5fe5df98108b8470e3b0a8", "facts": 2, "locality": null, "measured": 2, "retention": null, "edit_success": 0.16666666666666666, "generalisation": null, "generation_success": 0.0}, "locality": null, "repaired": 3, "superseded": [], "gate_misses": [], "edit_success": 0.0, "generalisation": 0.5, "canary_agreement": 0.6145833333333334, "perplexity_ratio": 1.0017615271925002, "generation_success": 0.0}', true, 'a test', '2026-11-30 20:05:29.965713+00', 'aea4193ef132', 'sha256:498096e2542bdc66d2162c571da7b317717c4227b90f953e054fab798835c6ba', 'sha256:fa45e714697fd79b086fd52f0c5b3caecff8fc37c4d4a582695c8f0421dfa3bd', 'sha256:db6e415b0ccfe1bd4e4e2ea0d99649fc94199362ea7561c289648169ee0b4c51');
INSERT INTO public.withdrawals VALUES
	('wd_01m8q0yxcqf06cwykwm9x8e2x2', 'tiny', 'applied', '{es_01m8q0wasdqfx3b03kwpt9xf3a}', '{}', 'a test', 4, '{"gate": {"locality": 0.0, "retention": 0.0, "edit_success": 0.0, "perplexity_ratio": 1000000000.0}, "live": {"seed": "43296dd9efb6cb35fb2f3946caa9fa46191d296cb870dd1c44fb6d80e878992d", "facts": 3, "locality": 1.0, "measured": 3, "retention": null, "edit_success": 0.0, "generalisation": null, "generation_success": 0.0}, "locality": 1.0, "repaired": 3, "superseded": [], "gate_misses": [], "edit_success": 0.0, "generalisation": null, "canary_agreement": 0.71875, "perplexity_ratio": 0.9992037044196047, "generation_success": 0.0}', NULL, '2026-11-30 20:04:54.669158+00', 'aea4193ef132', '2026-11-30 20:05:25.638125+00', 'sha256:aeb72f152a28e2211e7714a220192367faf0af72f4e9b1f9f114c0e5f8d2483f'),
	('wd_01m8q0zw33h58mz8n9gzs93qew', 'tiny', 'applied', '{}', '{es_01m8q0vec7z08pa9zydheqkdqq.1}', 'a test', 5, '{"gate": {"locality": 0.0, "retention": 0.0, "edit_success": 0.0, "perplexity_ratio": 1000000000.0}, "live": {"seed": "0878d66880494980d6e564e1d105f5131811e58e11ac2042f33626271bf7892e", "facts": 2, "locality": 1.0, "measured": 2, "retention": null, "edit_success": 0.0, "generalisation": null, "generation_success": 0.0}, "locality": 1.0, "repaired": 0, "superseded": [], "gate_misses": [], "edit_success": 0.0, "generalisation": null, "canary_agreement": 0.765625, "perplexity_ratio": 0.9989004110602259, "generation_success": 0.0}', NULL, '2026-11-30 20:05:26.06882+00', 'aea4193ef132', '2026-11-30 20:05:29.281838+00', 'sha256:5bc5089c8c2f63a8b08f62298064c9fdc7d116e6d9069464f50e9f70a382e54b');
SELECT pg_catalog.setval('public.audit_events_id_seq', 15, true);
SELECT pg_catalog.setval('public.edit_sets_seq_seq', 4, true);
SELECT pg_catalog.setval('public.keys_seq_seq', 1, true);
SELECT pg_catalog.setval('public.models_seq_seq', 1, true);
SELECT pg_catalog.setval('public.outbox_id_seq', 6, true);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.aliases
    ADD CONSTRAINT aliases_pkey PRIMARY KEY (model_id, name);
ALTER TABLE ONLY public.audit_events
    ADD CONSTRAINT audit_events_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.blobs
    ADD CONSTRAINT blobs_pkey PRIMARY KEY (digest);
ALTER TABLE ONLY public.edit_sets
    ADD CONSTRAINT edit_sets_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.edit_sets
    ADD CONSTRAINT edit_sets_seq_key UNIQUE (seq);
ALTER TABLE ONLY public.editors
    ADD CONSTRAINT editors_pkey PRIMARY KEY (digest);
ALTER TABLE ONLY public.fact_reports
    ADD CONSTRAINT fact_reports_pkey PRIMARY KEY (model_id, number, edit_set_id, "position");
ALTER TABLE ONLY public.facts
    ADD CONSTRAINT facts_pkey PRIMARY KEY (edit_set_id, "position");
ALTER TABLE ONLY public.heads
    ADD CONSTRAINT heads_pkey PRIMARY KEY (model_id);
ALTER TABLE ONLY public.idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (key_id, idempotency_key);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_edit_set_id_key UNIQUE (edit_set_id);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_withdrawal_id_key UNIQUE (withdrawal_id);
ALTER TABLE ONLY public.keys
    ADD CONSTRAINT keys_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.keys
    ADD CONSTRAINT keys_seq_key UNIQUE (seq);
ALTER TABLE ONLY public.legal_transitions
    ADD CONSTRAINT legal_transitions_pkey PRIMARY KEY (old, new);
ALTER TABLE ONLY public.models
    ADD CONSTRAINT models_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.models
    ADD CONSTRAINT models_seq_key UNIQUE (seq);
ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.questions
    ADD CONSTRAINT questions_pkey PRIMARY KEY (digest, edit_set_id, "position");
ALTER TABLE ONLY public.supersessions
    ADD CONSTRAINT supersessions_pkey PRIMARY KEY (older_edit_set_id, older_position, newer_edit_set_id, newer_position);
ALTER TABLE ONLY public.trial_reports
    ADD CONSTRAINT trial_reports_pkey PRIMARY KEY (edit_set_id, "position");
ALTER TABLE ONLY public.version_edit_sets
    ADD CONSTRAINT version_edit_sets_pkey PRIMARY KEY (model_id, number, edit_set_id);
ALTER TABLE ONLY public.versions
    ADD CONSTRAINT versions_edit_set_id_key UNIQUE (edit_set_id);
ALTER TABLE ONLY public.versions
    ADD CONSTRAINT versions_hash_key UNIQUE (hash);
ALTER TABLE ONLY public.versions
    ADD CONSTRAINT versions_job_id_key UNIQUE (job_id);
ALTER TABLE ONLY public.versions
    ADD CONSTRAINT versions_pkey PRIMARY KEY (model_id, number);
ALTER TABLE ONLY public.withdrawals
    ADD CONSTRAINT withdrawals_pkey PRIMARY KEY (id);
CREATE INDEX audit_events_object_idx ON public.audit_events USING btree (object);
CREATE INDEX edit_sets_model_id_seq_idx ON public.edit_sets USING btree (model_id, seq);
CREATE INDEX edit_sets_status_seq_idx ON public.edit_sets USING btree (status, seq);
CREATE INDEX fact_reports_edit_set_id_position_idx ON public.fact_reports USING btree (edit_set_id, "position");
CREATE INDEX facts_expires_at_idx ON public.facts USING btree (expires_at) WHERE (expires_at IS NOT NULL);
CREATE INDEX jobs_unfinished_idx ON public.jobs USING btree (waiting_since) WHERE (finished_at IS NULL);
CREATE INDEX supersessions_newer_edit_set_id_idx ON public.supersessions USING btree (newer_edit_set_id);
CREATE TRIGGER announce AFTER INSERT ON public.outbox FOR EACH STATEMENT EXECUTE FUNCTION public.announce_outbox();
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.audit_events FOR EACH ROW EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.blobs FOR EACH ROW EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.editors FOR EACH ROW EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.fact_reports FOR EACH ROW EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.facts FOR EACH ROW EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.questions FOR EACH ROW EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.supersessions FOR EACH ROW EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.trial_reports FOR EACH ROW EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.version_edit_sets FOR EACH ROW EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.versions FOR EACH ROW EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON public.audit_events FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON public.blobs FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON public.editors FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON public.fact_reports FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON public.facts FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON public.questions FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON public.supersessions FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON public.trial_reports FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON public.version_edit_sets FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON public.versions FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER guard_status BEFORE INSERT OR UPDATE ON public.edit_sets FOR EACH ROW EXECUTE FUNCTION public.guard_status();
CREATE TRIGGER guard_status BEFORE INSERT OR UPDATE ON public.withdrawals FOR EACH ROW EXECUTE FUNCTION public.guard_status();
CREATE TRIGGER seal BEFORE INSERT OR UPDATE ON public.aliases FOR EACH ROW EXECUTE FUNCTION public.seal_row('{model_id,name,number,updated_at,updated_by}');
CREATE TRIGGER seal BEFORE INSERT OR UPDATE ON public.audit_events FOR EACH ROW EXECUTE FUNCTION public.seal_row('{id,at,actor,action,object,detail}');
CREATE TRIGGER seal BEFORE INSERT OR UPDATE ON public.blobs FOR EACH ROW EXECUTE FUNCTION public.seal_row('{digest,kind,size,place,created_at}');
CREATE TRIGGER seal BEFORE INSERT OR UPDATE ON public.edit_sets FOR EACH ROW EXECUTE FUNCTION public.seal_row('{id,seq,model_id,status,promote,gate,edit_on_rephrasings,on_conflict,dry_run,note,fact_count,facts_digest,statistics_digest,version_number,report,error,created_at,created_by,finished_at}');
CREATE TRIGGER seal BEFORE INSERT OR UPDATE ON public.editors FOR EACH ROW EXECUTE FUNCTION public.seal_row('{digest,card,created_at}');
CREATE TRIGGER seal BEFORE INSERT OR UPDATE ON public.keys FOR EACH ROW EXECUTE FUNCTION public.seal_row('{id,seq,name,scopes,digest,given,created_at,created_by,revoked_at}');
CREATE TRIGGER seal BEFORE INSERT OR UPDATE ON public.models FOR EACH ROW EXECUTE FUNCTION public.seal_row('{id,seq,source,revision,architecture,context_length,modules,digest,gate,status,given_editor_digest,editor_digest,canaries,base_parameters_digest,error,created_at,created_by}');
CREATE TRIGGER seal BEFORE INSERT OR UPDATE ON public.questions FOR EACH ROW EXECUTE FUNCTION public.seal_row('{digest,edit_set_id,position}');
CREATE TRIGGER seal BEFORE INSERT OR UPDATE ON public.supersessions FOR EACH ROW EXECUTE FUNCTION public.seal_row('{older_edit_set_id,older_position,newer_edit_set_id,newer_position}');
CREATE TRIGGER seal BEFORE INSERT OR UPDATE ON public.trial_reports FOR EACH ROW EXECUTE FUNCTION public.seal_row('{edit_set_id,position,report}');
CREATE TRIGGER seal BEFORE INSERT OR UPDATE ON public.versions FOR EACH ROW EXECUTE FUNCTION public.seal_row('{model_id,number,job_id}');
CREATE TRIGGER seal BEFORE INSERT OR UPDATE ON public.withdrawals FOR EACH ROW EXECUTE FUNCTION public.seal_row('{id,model_id,status,edit_set_ids,fact_ids,reason,version_number,report,error,created_at,created_by,finished_at}');
ALTER TABLE ONLY public.aliases
    ADD CONSTRAINT aliases_model_id_number_fkey FOREIGN KEY (model_id, number) REFERENCES public.versions(model_id, number);
ALTER TABLE ONLY public.edit_sets
    ADD CONSTRAINT edit_sets_model_id_fkey FOREIGN KEY (model_id) REFERENCES public.models(id);
ALTER TABLE ONLY public.edit_sets
    ADD CONSTRAINT edit_sets_model_id_version_number_fkey FOREIGN KEY (model_id, version_number) REFERENCES public.versions(model_id, number);
ALTER TABLE ONLY public.edit_sets
    ADD CONSTRAINT edit_sets_statistics_digest_fkey FOREIGN KEY (statistics_digest) REFERENCES public.blobs(digest);
ALTER TABLE ONLY public.editors
    ADD CONSTRAINT editors_digest_fkey FOREIGN KEY (digest) REFERENCES public.blobs(digest);
ALTER TABLE ONLY public.fact_reports
    ADD CONSTRAINT fact_reports_edit_set_id_position_fkey FOREIGN KEY (edit_set_id, "position") REFERENCES public.facts(edit_set_id, "position");
ALTER TABLE ONLY public.fact_reports
    ADD CONSTRAINT fact_reports_model_id_number_fkey FOREIGN KEY (model_id, number) REFERENCES public.versions(model_id, number);
ALTER TABLE ONLY public.facts
    ADD CONSTRAINT facts_edit_set_id_fkey FOREIGN KEY (edit_set_id) REFERENCES public.edit_sets(id);
ALTER TABLE ONLY public.heads
    ADD CONSTRAINT heads_model_id_fkey FOREIGN KEY (model_id) REFERENCES public.models(id);
ALTER TABLE ONLY public.idempotency_keys
    ADD CONSTRAINT idempotency_keys_edit_set_id_fkey FOREIGN KEY (edit_set_id) REFERENCES public.edit_sets(id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_edit_set_id_fkey FOREIGN KEY (edit_set_id) REFERENCES public.edit_sets(id);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_model_id_fkey FOREIGN KEY (model_id) REFERENCES public.models(id);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_withdrawal_id_fkey FOREIGN KEY (withdrawal_id) REFERENCES public.withdrawals(id);
ALTER TABLE ONLY public.models
    ADD CONSTRAINT models_editor_digest_fkey FOREIGN KEY (editor_digest) REFERENCES public.editors(digest);
ALTER TABLE ONLY public.models
    ADD CONSTRAINT models_given_editor_digest_fkey FOREIGN KEY (given_editor_digest) REFERENCES public.blobs(digest);
ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT outbox_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id);
ALTER TABLE ONLY public.questions
    ADD CONSTRAINT questions_edit_set_id_position_fkey FOREIGN KEY (edit_set_id, "position") REFERENCES public.facts(edit_set_id, "position");
ALTER TABLE ONLY public.supersessions
    ADD CONSTRAINT supersessions_newer_edit_set_id_newer_position_fkey FOREIGN KEY (newer_edit_set_id, newer_position) REFERENCES public.facts(edit_set_id, "position");
ALTER TABLE ONLY public.supersessions
    ADD CONSTRAINT supersessions_older_edit_set_id_older_position_fkey FOREIGN KEY (older_edit_set_id, older_position) REFERENCES public.facts(edit_set_id, "position");
ALTER TABLE ONLY public.trial_reports
    ADD CONSTRAINT trial_reports_edit_set_id_position_fkey FOREIGN KEY (edit_set_id, "position") REFERENCES public.facts(edit_set_id, "position");
ALTER TABLE ONLY public.version_edit_sets
    ADD CONSTRAINT version_edit_sets_edit_set_id_fkey FOREIGN KEY (edit_set_id) REFERENCES public.edit_sets(id);
ALTER TABLE ONLY public.version_edit_sets
    ADD CONSTRAINT version_edit_sets_model_id_number_fkey FOREIGN KEY (model_id, number) REFERENCES public.versions(model_id, number);
ALTER TABLE ONLY public.version_edit_sets
    ADD CONSTRAINT version_edit_sets_statistics_digest_fkey FOREIGN KEY (statistics_digest) REFERENCES public.blobs(digest);
ALTER TABLE ONLY public.versions
    ADD CONSTRAINT versions_delta_digest_fkey FOREIGN KEY (delta_digest) REFERENCES public.blobs(digest);
ALTER TABLE ONLY public.versions
    ADD CONSTRAINT versions_edit_set_id_fkey FOREIGN KEY (edit_set_id) REFERENCES public.edit_sets(id);
ALTER TABLE ONLY public.versions
    ADD CONSTRAINT versions_editor_digest_fkey FOREIGN KEY (editor_digest) REFERENCES public.editors(digest);
ALTER TABLE ONLY public.versions
    ADD CONSTRAINT versions_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id);
ALTER TABLE ONLY public.versions
    ADD CONSTRAINT versions_model_id_fkey FOREIGN KEY (model_id) REFERENCES public.models(id);
ALTER TABLE ONLY public.versions
    ADD CONSTRAINT versions_model_id_parent_fkey FOREIGN KEY (model_id, parent) REFERENCES public.versions(model_id, number);
ALTER TABLE ONLY public.versions
    ADD CONSTRAINT versions_model_id_restores_fkey FOREIGN KEY (model_id, restores) REFERENCES public.versions(model_id, number);
ALTER TABLE ONLY public.versions
    ADD CONSTRAINT versions_statistics_digest_fkey FOREIGN KEY (statistics_digest) REFERENCES public.blobs(digest);
ALTER TABLE ONLY public.withdrawals
    ADD CONSTRAINT withdrawals_model_id_fkey FOREIGN KEY (model_id) REFERENCES public.models(id);
ALTER TABLE ONLY public.withdrawals
    ADD CONSTRAINT withdrawals_model_id_version_number_fkey FOREIGN KEY (model_id, version_number) REFERENCES public.versions(model_id, number);
