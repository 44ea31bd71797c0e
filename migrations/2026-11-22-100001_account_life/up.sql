-- An invited user has no password until they set one.
ALTER TABLE users
    ALTER COLUMN hashed_password DROP NOT NULL,
    ADD COLUMN email_verified_at TIMESTAMPTZ,
    -- A new address that the user has requested but not confirmed yet.
    ADD COLUMN pending_email TEXT CHECK (char_length(pending_email) <= 255),
    -- When the password was last set. Before a first change: when the account was created, or this column was added. Hashing the
    -- same password again, at a higher cost, does not change this time.
    ADD COLUMN password_set_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- When the account becomes due for deletion. Null if no deletion is scheduled.
    ADD COLUMN deletion_due_at TIMESTAMPTZ;

-- Removes the placeholder that `down.sql` sets.
UPDATE users SET hashed_password = NULL
    WHERE hashed_password = '$2b$12$abcdefghijklmnopqrstuu1234567890ABCDEFGHIJKLMNOPQRSTS';
-- The addresses of existing admins count as verified. Otherwise REQUIRE_VERIFIED_EMAIL would lock these admins out.
UPDATE users SET email_verified_at = now() WHERE role = 'admin';

CREATE INDEX users_deletion_due_at_idx ON users (deletion_due_at) WHERE deletion_due_at IS NOT NULL;
CREATE INDEX users_created_at_idx ON users (created_at, id);
CREATE INDEX users_admins_idx ON users (id) WHERE role = 'admin';

-- pg_trgm provides an index for the search of any part of an address or a name. It is a trusted extension: a role with
-- the privilege CREATE on the database can create it. A hosting provider may have installed it in a schema that is not
-- in the search path, so the name of the operator class is qualified.
CREATE EXTENSION IF NOT EXISTS pg_trgm;
DO $$
BEGIN
    EXECUTE format(
        $index$
        CREATE INDEX users_search_idx ON users
            USING gin ((lower(email) || ' ' || lower(coalesce(full_name, ''))) %I.gin_trgm_ops)
        $index$,
        (SELECT nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'pg_trgm')
    );
END
$$;

-- Tokens of links in mails, and of logins that wait for the second factor. Each can be used once.
CREATE TABLE one_time_tokens (
    -- SHA-256 of the token. Only the mail or the client has the token itself.
    hash       BYTEA PRIMARY KEY CHECK (octet_length(hash) = 32),
    user_id    BIGINT NOT NULL REFERENCES users ON DELETE CASCADE,
    purpose    TEXT NOT NULL
        CHECK (purpose IN ('verify_email', 'reset_password', 'change_email', 'accept_invite', 'second_factor')),
    -- The address that the token was sent to. Null for a login, because its client gets the token directly.
    email      TEXT CHECK (char_length(email) <= 255),
    -- Number of codes that were entered with the token of a login.
    tries      INTEGER NOT NULL DEFAULT 0,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at TIMESTAMPTZ NOT NULL
);

CREATE INDEX one_time_tokens_user_id_idx ON one_time_tokens (user_id, purpose);
CREATE INDEX one_time_tokens_expires_at_idx ON one_time_tokens (expires_at);

-- The second factor of a user: the secret of an authenticator (TOTP, RFC 6238).
CREATE TABLE two_factor (
    user_id      BIGINT PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    -- Encrypted with TWO_FACTOR_KEY, or still with TWO_FACTOR_KEY_PREVIOUS until the next code of the authenticator is
    -- accepted.
    secret       BYTEA NOT NULL,
    -- Null until the user has entered a first code of the authenticator, which enables the second factor.
    confirmed_at TIMESTAMPTZ,
    -- The time step of the last accepted code. Codes of this and earlier steps are refused.
    last_step    BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE recovery_codes (
    user_id BIGINT NOT NULL REFERENCES users ON DELETE CASCADE,
    -- SHA-256 of a code with 120 random bits (OWASP ASVS 5, 6.5.2 requires at least 112).
    hash    BYTEA NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (user_id, hash)
);

-- Mails to send. Release 0.1.0 writes a mail in the transaction of the change that it reports, and moves it to the job queue
-- after the commit, because the queue may be unavailable during the transaction.
CREATE TABLE outbox (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    letter     JSONB NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
