DROP TABLE org_jobs;
