-- A login of a user on one device. It is valid until it is revoked or expires.
CREATE TABLE sessions (
    id            UUID PRIMARY KEY,
    user_id       BIGINT NOT NULL REFERENCES users ON DELETE CASCADE,
    -- The `User-Agent` header, truncated.
    user_agent    TEXT CHECK (char_length(user_agent) <= 255),
    -- The IP address of the client at the login.
    address       TEXT CHECK (char_length(address) <= 45),
    -- Whether the user has entered a code of the second factor that is enabled now, at the login or when enabling it.
    second_factor BOOLEAN NOT NULL DEFAULT false,
    created_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_seen_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at    TIMESTAMPTZ NOT NULL,
    revoked_at    TIMESTAMPTZ
);

CREATE INDEX sessions_user_id_idx ON sessions (user_id, address);
CREATE INDEX sessions_expires_at_idx ON sessions (expires_at);

-- The refresh tokens of a session. A use replaces a token by a new token. Used tokens are kept for a time, to detect a replay
-- (RFC 9700 section 4.14.2).
CREATE TABLE refresh_tokens (
    -- SHA-256 of the token. Only the client has the token itself.
    hash       BYTEA PRIMARY KEY CHECK (octet_length(hash) = 32),
    session_id UUID NOT NULL REFERENCES sessions ON DELETE CASCADE,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- When the token was used. Null for an unused token.
    spent_at   TIMESTAMPTZ
);

CREATE INDEX refresh_tokens_session_id_idx ON refresh_tokens (session_id);
CREATE INDEX refresh_tokens_created_at_idx ON refresh_tokens (created_at);
