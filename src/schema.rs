// The tables as diesel sees them, generated from the migrations by `./scripts/migrate schema`. A test compares them.

diesel::table! {
    api_keys (id) {
        id -> Int8,
        org_id -> Int8,
        created_by -> Int8,
        name -> Text,
        scopes -> Text,
        hash -> Bytea,
        hint -> Text,
        previous_hash -> Nullable<Bytea>,
        previous_expires_at -> Nullable<Timestamptz>,
        lifetime_days -> Nullable<Int4>,
        expires_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
        rotated_at -> Nullable<Timestamptz>,
        last_used_at -> Nullable<Timestamptz>,
        revoked_at -> Nullable<Timestamptz>,
        expiry_notified_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    audit_log (id) {
        id -> Int8,
        created_at -> Timestamptz,
        actor_id -> Nullable<Int8>,
        action -> Text,
        target_type -> Text,
        target_id -> Text,
        before -> Nullable<Jsonb>,
        after -> Nullable<Jsonb>,
        address -> Nullable<Text>,
        request_id -> Nullable<Text>,
        client_request_id -> Nullable<Text>,
        org_id -> Nullable<Int8>,
        api_key_id -> Nullable<Int8>,
    }
}

diesel::table! {
    idempotency_keys (caller, operation, key) {
        caller -> Text,
        operation -> Text,
        key -> Text,
        fingerprint -> Bytea,
        status -> Int2,
        headers -> Jsonb,
        body -> Text,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    invitations (id) {
        id -> Int8,
        org_id -> Int8,
        email -> Text,
        email_key -> Text,
        role -> Text,
        invited_by -> Nullable<Int8>,
        link_id -> Uuid,
        token_hash -> Bytea,
        link_shown -> Bool,
        created_at -> Timestamptz,
        expires_at -> Timestamptz,
        accepted_at -> Nullable<Timestamptz>,
        declined_at -> Nullable<Timestamptz>,
        revoked_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    job_outbox (id) {
        id -> Uuid,
        queue -> Text,
        task -> Text,
        owner -> Nullable<Int8>,
        envelope -> Text,
        options -> Json,
        created_at -> Timestamptz,
        claimed_until -> Nullable<Timestamptz>,
        tried_at -> Nullable<Timestamptz>,
        set_aside_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    memberships (org_id, user_id) {
        org_id -> Int8,
        user_id -> Int8,
        role -> Text,
        suspended_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    one_time_tokens (hash) {
        hash -> Bytea,
        user_id -> Int8,
        purpose -> Text,
        email -> Nullable<Text>,
        tries -> Int4,
        created_at -> Timestamptz,
        expires_at -> Timestamptz,
    }
}

diesel::table! {
    org_jobs (org_id, id) {
        org_id -> Int8,
        id -> Uuid,
        task -> Text,
        created_by -> Nullable<Int8>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    organizations (id) {
        id -> Int8,
        name -> Text,
        slug -> Nullable<Text>,
        personal_of -> Nullable<Int8>,
        suspended_at -> Nullable<Timestamptz>,
        deletion_due_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    outbox (id) {
        id -> Int8,
        letter -> Jsonb,
        created_at -> Timestamptz,
        set_aside_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    products (org_id, id) {
        org_id -> Int8,
        id -> Int8,
        sku -> Text,
        name -> Text,
        name_key -> Text,
        price -> Int8,
        currency -> Text,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    recovery_codes (user_id, hash) {
        user_id -> Int8,
        hash -> Bytea,
    }
}

diesel::table! {
    refresh_tokens (hash) {
        hash -> Bytea,
        session_id -> Uuid,
        created_at -> Timestamptz,
        spent_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    sessions (id) {
        id -> Uuid,
        user_id -> Int8,
        user_agent -> Nullable<Text>,
        address -> Nullable<Text>,
        second_factor -> Bool,
        created_at -> Timestamptz,
        last_seen_at -> Timestamptz,
        expires_at -> Timestamptz,
        revoked_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    two_factor (user_id) {
        user_id -> Int8,
        secret -> Bytea,
        confirmed_at -> Nullable<Timestamptz>,
        last_step -> Int8,
        failures -> Int4,
        failures_since -> Timestamptz,
    }
}

diesel::table! {
    users (id) {
        id -> Int8,
        email -> Text,
        hashed_password -> Nullable<Text>,
        full_name -> Nullable<Text>,
        role -> Text,
        is_active -> Bool,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        email_verified_at -> Nullable<Timestamptz>,
        pending_email -> Nullable<Text>,
        password_set_at -> Timestamptz,
        deletion_due_at -> Nullable<Timestamptz>,
        email_key -> Nullable<Text>,
    }
}

diesel::allow_tables_to_appear_in_same_query! {
    api_keys,
    audit_log,
    idempotency_keys,
    invitations,
    job_outbox,
    memberships,
    one_time_tokens,
    org_jobs,
    organizations,
    outbox,
    products,
    recovery_codes,
    refresh_tokens,
    sessions,
    two_factor,
    users,
}
