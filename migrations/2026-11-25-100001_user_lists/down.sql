DROP INDEX users_inactive_idx;
DROP INDEX users_full_name_desc_idx;
DROP INDEX users_full_name_idx;
