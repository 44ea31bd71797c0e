-- Notifications are not used any more: a cached session or user expires after IDENTITY_CACHE_MS instead.
DROP TRIGGER sessions_tell_of_truncate ON sessions;
DROP TRIGGER sessions_tell_of_change ON sessions;
DROP TRIGGER users_tell_of_truncate ON users;
DROP TRIGGER users_tell_of_change ON users;
DROP FUNCTION tell_of_truncate();
DROP FUNCTION tell_of_change();
