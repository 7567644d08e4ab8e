-- What a session sees of the settings.
\set VERBOSITY default

-- Until the library is loaded, a session knows only what postgresql.conf has, as text.
SELECT name, setting, category FROM pg_settings WHERE name LIKE 'walsafe\_archive.%';
SHOW walsafe_archive.workers;

LOAD 'walsafe_archive';
SELECT name, vartype, unit, boot_val, min_val, max_val, enumvals, context, pending_restart
FROM pg_settings WHERE name LIKE 'walsafe\_archive.%' ORDER BY name COLLATE "C";
SELECT name, short_desc, extra_desc
FROM pg_settings WHERE name LIKE 'walsafe\_archive.%' ORDER BY name COLLATE "C";
SHOW walsafe_archive.fsync_policy;
SHOW walsafe_archive.file_mode;
SHOW walsafe_archive.compression;
SHOW walsafe_archive.workers;
SHOW walsafe_archive.check_wal;
SHOW walsafe_archive.verify;
SHOW walsafe_archive.stall_timeout;
SHOW walsafe_archive.min_free_space;

-- They are the server's, not a session's.
SET walsafe_archive.workers = 3;
RESET walsafe_archive.workers;

-- The prefix is reserved.
SET walsafe_archive.worker = 3;

-- Loading it again changes nothing.
LOAD 'walsafe_archive';
SHOW walsafe_archive.workers;
