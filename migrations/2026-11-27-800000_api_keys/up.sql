-- Keys with which programs act in an organization. A key is found by its hash before an organization is known, so the table has
-- no row-level security policy.
CREATE TABLE api_keys (
    id                  BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org_id              BIGINT NOT NULL REFERENCES organizations ON DELETE CASCADE,
    -- The user who has created the key, and in whose name the key acts. The key has no rights that this user lacks.
    created_by          BIGINT NOT NULL REFERENCES users ON DELETE CASCADE,
    name                TEXT NOT NULL CHECK (char_length(name) BETWEEN 1 AND 100),
    -- The permissions of the key, separated by spaces.
    scopes              TEXT NOT NULL CHECK (scopes <> ''),
    -- SHA-256 of the secret. The secret is the text that a program sends.
    hash                BYTEA NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    -- The beginning and the end of the secret, by which a person recognizes the key.
    hint                TEXT NOT NULL,
    -- The hash of the secret from before the last rotation, and when that secret expires.
    previous_hash       BYTEA UNIQUE CHECK (octet_length(previous_hash) = 32),
    previous_expires_at TIMESTAMPTZ,
    -- How long the key is valid, in days from its creation, its last rotation or the last change of this lifetime. Null if it
    -- does not expire.
    lifetime_days       INTEGER CHECK (lifetime_days > 0),
    expires_at          TIMESTAMPTZ,
    created_at          TIMESTAMPTZ NOT NULL DEFAULT now(),
    rotated_at          TIMESTAMPTZ,
    -- When the key was last used. Updated at most once a minute, by a background task, so the last use may be later.
    last_used_at        TIMESTAMPTZ,
    revoked_at          TIMESTAMPTZ,
    -- When the mails were written which announce that the key expires soon.
    expiry_notified_at  TIMESTAMPTZ,
    -- For the list of the keys of an organization, in the order of their ids.
    UNIQUE (org_id, id),
    CONSTRAINT api_keys_previous_check CHECK ((previous_hash IS NULL) = (previous_expires_at IS NULL)),
    CONSTRAINT api_keys_lifetime_check CHECK ((lifetime_days IS NULL) = (expires_at IS NULL))
);

CREATE INDEX api_keys_created_by_idx ON api_keys (created_by);
CREATE INDEX api_keys_expires_at_idx ON api_keys (expires_at) WHERE revoked_at IS NULL AND expiry_notified_at IS NULL;
-- Finds the keys that were revoked or expired long ago, to delete them.
CREATE INDEX api_keys_ended_at_idx ON api_keys (least(revoked_at, expires_at));
