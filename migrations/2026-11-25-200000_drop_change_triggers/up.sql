DROP TRIGGER sessions_tell_of_truncate ON sessions;
DROP TRIGGER sessions_tell_of_change ON sessions;
DROP TRIGGER users_tell_of_truncate ON users;
DROP TRIGGER users_tell_of_change ON users;
DROP FUNCTION tell_of_truncate();
DROP FUNCTION tell_of_change();
