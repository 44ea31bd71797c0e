-- Whoever is invited has no password until they choose one.
ALTER TABLE users
    ALTER COLUMN hashed_password DROP NOT NULL,
        ADD COLUMN email_verified_at TIMESTAMPTZ,
    -- The address that its owner wants, until a link that went there is opened.
    ADD COLUMN pending_email TEXT CHECK (char_length(pending_email) <= 255),
    -- When the password was last chosen; hashing it again with more work is not that.
    ADD COLUMN password_set_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- The account is erased then, unless its owner signs in before.
    ADD COLUMN deletion_due_at TIMESTAMPTZ;

-- What `down.sql` has put there.
UPDATE users SET hashed_password = NULL
    WHERE hashed_password = '$2b$12$abcdefghijklmnopqrstuu1234567890ABCDEFGHIJKLMNOPQRSTS';
-- Whoever runs the server has vouched for these; and they have to get in where addresses must be confirmed.
UPDATE users SET email_verified_at = now() WHERE role = 'admin';

CREATE INDEX users_deletion_due_at_idx ON users (deletion_due_at) WHERE deletion_due_at IS NOT NULL;
CREATE INDEX users_created_at_idx ON users (created_at, id);
CREATE INDEX users_admins_idx ON users (id) WHERE role = 'admin';

-- Finds any part of an address or a name. The extension is a trusted one: the owner of a database may add it.
CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE INDEX users_search_idx ON users
    USING gin ((lower(email) || ' ' || lower(coalesce(full_name, ''))) gin_trgm_ops);

-- What a link in a mail or the second step of a login is worth. Each is good for one use.
CREATE TABLE one_time_tokens (
    -- SHA-256; the token itself is in the mail or with the client alone.
    hash       BYTEA PRIMARY KEY CHECK (octet_length(hash) = 32),
    user_id    BIGINT NOT NULL REFERENCES users ON DELETE CASCADE,
    purpose    TEXT NOT NULL
        CHECK (purpose IN ('verify_email', 'reset_password', 'change_email', 'accept_invite', 'second_factor')),
    -- The address that the token was sent to, and proves.
    email      TEXT CHECK (char_length(email) <= 255),
    tries      INTEGER NOT NULL DEFAULT 0,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at TIMESTAMPTZ NOT NULL
);

CREATE INDEX one_time_tokens_user_id_idx ON one_time_tokens (user_id, purpose);
CREATE INDEX one_time_tokens_expires_at_idx ON one_time_tokens (expires_at);

-- The second factor of a user (RFC 6238).
CREATE TABLE two_factor (
    user_id      BIGINT PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    -- Encrypted with TWO_FACTOR_KEY.
    secret       BYTEA NOT NULL,
    -- Null until a first code has shown that the authenticator has the secret.
    confirmed_at TIMESTAMPTZ,
    -- The time step of the last code that was taken: that one and those before it are used up.
    last_step    BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE recovery_codes (
    user_id BIGINT NOT NULL REFERENCES users ON DELETE CASCADE,
    -- SHA-256 of 120 random bits (OWASP ASVS 5, 6.5.2: 112 at least).
    hash    BYTEA NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (user_id, hash)
);

-- Mails to be sent, written together with what they tell of. They go from here to the job queue, which may be away
-- at the moment.
CREATE TABLE outbox (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    letter     JSONB NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
