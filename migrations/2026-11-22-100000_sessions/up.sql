-- Where somebody is signed in. It ends when it is revoked or its time is over.
CREATE TABLE sessions (
    id            UUID PRIMARY KEY,
    user_id       BIGINT NOT NULL REFERENCES users ON DELETE CASCADE,
    -- What the browser or program calls itself, cut to a sane length.
    user_agent    TEXT CHECK (char_length(user_agent) <= 255),
    address       TEXT CHECK (char_length(address) <= 45),
    -- Whether a second factor was shown.
    second_factor BOOLEAN NOT NULL DEFAULT false,
    created_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_seen_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at    TIMESTAMPTZ NOT NULL,
    revoked_at    TIMESTAMPTZ
);

CREATE INDEX sessions_user_id_idx ON sessions (user_id, address);
CREATE INDEX sessions_expires_at_idx ON sessions (expires_at);

-- The refresh tokens of a session, each good for one use. Those that were used stay, to know a thief by (RFC 9700
-- section 4.14.2).
CREATE TABLE refresh_tokens (
    -- SHA-256; the token itself is with the client alone.
    hash       BYTEA PRIMARY KEY CHECK (octet_length(hash) = 32),
    session_id UUID NOT NULL REFERENCES sessions ON DELETE CASCADE,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    spent_at   TIMESTAMPTZ
);

CREATE INDEX refresh_tokens_session_id_idx ON refresh_tokens (session_id);
CREATE INDEX refresh_tokens_created_at_idx ON refresh_tokens (created_at);
