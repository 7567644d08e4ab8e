-- What ALTER SYSTEM refuses in a session that has loaded the module, with its SQLSTATE.
LOAD 'walsafe_archive';

ALTER SYSTEM SET walsafe_archive.destination = 'archive';
\echo :LAST_ERROR_SQLSTATE
ALTER SYSTEM SET walsafe_archive.destination = '/mnt/a', '/mnt/b';
ALTER SYSTEM SET walsafe_archive.destination = '/mnt/a,';
ALTER SYSTEM SET walsafe_archive.destination = '"/mnt/a';
ALTER SYSTEM SET walsafe_archive.destination = '/mnt/a, archive';
ALTER SYSTEM SET walsafe_archive.destination = '/mnt/a, /mnt//a/';
ALTER SYSTEM SET walsafe_archive.destination = '/mnt/a, /mnt/a/b';
ALTER SYSTEM SET walsafe_archive.destination = 's3://bucket//prefix';
ALTER SYSTEM SET walsafe_archive.destination = 's3://KEY:hunter2@bucket/prefix';
ALTER SYSTEM SET walsafe_archive.credentials_file = 'keys';
ALTER SYSTEM SET walsafe_archive.destination = '/mnt/../etc';
ALTER SYSTEM SET walsafe_archive.destination = E'/mnt/a\tb';
SELECT current_setting('data_directory') AS data \gset
\set inside :data '/archive'
ALTER SYSTEM SET walsafe_archive.destination = :'data';
ALTER SYSTEM SET walsafe_archive.destination = :'inside';

ALTER SYSTEM SET walsafe_archive.file_mode = '0644';
\echo :LAST_ERROR_SQLSTATE
ALTER SYSTEM SET walsafe_archive.file_mode = '0660';
ALTER SYSTEM SET walsafe_archive.file_mode = 'private';
ALTER SYSTEM SET walsafe_archive.file_mode = '';

ALTER SYSTEM SET walsafe_archive.compression = 'bzip2';
\echo :LAST_ERROR_SQLSTATE
ALTER SYSTEM SET walsafe_archive.compression = 'zstd:0';
ALTER SYSTEM SET walsafe_archive.compression = 'gzip:10';
ALTER SYSTEM SET walsafe_archive.compression = 'lz4:9';
ALTER SYSTEM SET walsafe_archive.compression = '';

ALTER SYSTEM SET walsafe_archive.fsync_policy = 'always';
ALTER SYSTEM SET walsafe_archive.check_wal = 'on';
ALTER SYSTEM SET walsafe_archive.workers = 65;
\echo :LAST_ERROR_SQLSTATE
ALTER SYSTEM SET walsafe_archive.workers = -1;
ALTER SYSTEM SET walsafe_archive.stall_timeout = '-1s';
ALTER SYSTEM SET walsafe_archive.min_free_space = '1 fathom';
ALTER SYSTEM SET walsafe_archive.verify = 'perhaps';

-- What may be right is taken.
ALTER SYSTEM SET walsafe_archive.destination = '/mnt/not/there/yet';
ALTER SYSTEM SET walsafe_archive.destination = '/mnt/a, "/mnt/b, c" ,/mnt/"d"';
ALTER SYSTEM SET walsafe_archive.destination = '';
ALTER SYSTEM SET walsafe_archive.file_mode = '0440';
ALTER SYSTEM SET walsafe_archive.compression = 'zstd:3';
ALTER SYSTEM SET walsafe_archive.stall_timeout = '2min';
ALTER SYSTEM SET walsafe_archive.min_free_space = '10GB';
SELECT name, setting, error FROM pg_file_settings
WHERE name LIKE 'walsafe\_archive.%' AND sourcefile LIKE '%auto.conf' ORDER BY seqno;
ALTER SYSTEM RESET walsafe_archive.destination;
ALTER SYSTEM RESET walsafe_archive.file_mode;
ALTER SYSTEM RESET walsafe_archive.compression;
ALTER SYSTEM RESET walsafe_archive.stall_timeout;
ALTER SYSTEM RESET walsafe_archive.min_free_space;
