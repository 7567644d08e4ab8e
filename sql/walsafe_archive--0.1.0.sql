-- walsafe_archive 0.1.0: status, checks and verification of the archive.
\echo Use "CREATE EXTENSION walsafe_archive" to load this file. \quit

CREATE FUNCTION walsafe_archive_stat(
    OUT destination text,
    OUT state text,
    OUT last_archived_wal text,
    OUT last_archived_time double precision,
    OUT last_failed_wal text,
    OUT last_failed_time double precision,
    OUT last_error text,
    OUT archived_count bigint,
    OUT already_present_count bigint,
    OUT failed_count bigint,
    OUT wal_bytes bigint,
    OUT stored_bytes bigint,
    OUT busy_ms double precision,
    OUT last_ms double precision,
    OUT backlog_files bigint,
    OUT backlog_bytes bigint,
    OUT oldest_waiting_since double precision,
    OUT free_bytes bigint,
    OUT pg_wal_free_bytes bigint,
    OUT damaged_count bigint,
    OUT complete_from text,
    OUT requests bigint,
    OUT retries bigint,
    OUT throttled bigint,
    OUT stats_reset double precision)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'walsafe_archive_stat_wrapper'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION walsafe_archive_stat() IS
    'the rows behind the view walsafe_archive_status; times in seconds since 1970';

CREATE VIEW walsafe_archive_status AS
SELECT
    destination,
    state,
    last_archived_wal,
    to_timestamp(last_archived_time) AS last_archived_time,
    last_failed_wal,
    to_timestamp(last_failed_time) AS last_failed_time,
    last_error,
    archived_count,
    already_present_count,
    failed_count,
    wal_bytes,
    stored_bytes,
    busy_ms,
    last_ms,
    backlog_files,
    backlog_bytes,
    clock_timestamp() - to_timestamp(oldest_waiting_since) AS oldest_waiting_age,
    free_bytes,
    pg_wal_free_bytes,
    damaged_count,
    complete_from,
    requests,
    retries,
    throttled,
    to_timestamp(stats_reset) AS stats_reset
FROM walsafe_archive_stat();

COMMENT ON VIEW walsafe_archive_status IS
    'what the archiver does in each destination, how far behind that is, and why it fails';
COMMENT ON COLUMN walsafe_archive_status.destination IS
    'an archive in use, by its path or URL; null if none is';
COMMENT ON COLUMN walsafe_archive_status.state IS
    'ok, starting, failing, waiting (the directory is not there), misconfigured, standby or unconfigured';
COMMENT ON COLUMN walsafe_archive_status.last_archived_wal IS
    'the file that was archived last';
COMMENT ON COLUMN walsafe_archive_status.last_archived_time IS
    'when that was';
COMMENT ON COLUMN walsafe_archive_status.last_failed_wal IS
    'the file that failed last';
COMMENT ON COLUMN walsafe_archive_status.last_failed_time IS
    'when that was';
COMMENT ON COLUMN walsafe_archive_status.last_error IS
    'why it failed, in the words of the log; with state misconfigured, which value is refused';
COMMENT ON COLUMN walsafe_archive_status.archived_count IS
    'files that the server asked for, and that are in the archive';
COMMENT ON COLUMN walsafe_archive_status.already_present_count IS
    'of those, the files that were in the archive already';
COMMENT ON COLUMN walsafe_archive_status.failed_count IS
    'calls of the server that failed there';
COMMENT ON COLUMN walsafe_archive_status.wal_bytes IS
    'bytes of WAL that were archived, before compression';
COMMENT ON COLUMN walsafe_archive_status.stored_bytes IS
    'bytes that they take in the archive, after compression';
COMMENT ON COLUMN walsafe_archive_status.busy_ms IS
    'how long the server waited for the archive in all, in milliseconds';
COMMENT ON COLUMN walsafe_archive_status.last_ms IS
    'how long it waited in the last call, in milliseconds';
COMMENT ON COLUMN walsafe_archive_status.backlog_files IS
    'files in pg_wal that wait to be archived there';
COMMENT ON COLUMN walsafe_archive_status.backlog_bytes IS
    'their length in bytes';
COMMENT ON COLUMN walsafe_archive_status.oldest_waiting_age IS
    'how long the oldest of them has waited; null on a standby that archives nothing';
COMMENT ON COLUMN walsafe_archive_status.free_bytes IS
    'free space in the archive at the last success, in bytes';
COMMENT ON COLUMN walsafe_archive_status.pg_wal_free_bytes IS
    'free space for pg_wal now, in bytes';
COMMENT ON COLUMN walsafe_archive_status.damaged_count IS
    'damaged files that were archived, under check_wal = records';
COMMENT ON COLUMN walsafe_archive_status.complete_from IS
    'the file that the archive began with: from there on it has all; null if that is not known';
COMMENT ON COLUMN walsafe_archive_status.requests IS
    'requests to object storage; null for a directory';
COMMENT ON COLUMN walsafe_archive_status.retries IS
    'of those, the requests that were sent once more';
COMMENT ON COLUMN walsafe_archive_status.throttled IS
    'of those, the requests that the storage called too many';
COMMENT ON COLUMN walsafe_archive_status.stats_reset IS
    'when walsafe_archive_reset() last set the counts to zero; null if never';

CREATE FUNCTION walsafe_archive_reset()
RETURNS void
AS 'MODULE_PATHNAME', 'walsafe_archive_reset_wrapper'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION walsafe_archive_reset() IS
    'sets the counts of walsafe_archive_status to zero';

CREATE FUNCTION walsafe_archive_check(
    OUT destination text,
    OUT check_name text,
    OUT status text,
    OUT detail text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'walsafe_archive_check_wrapper'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION walsafe_archive_check() IS
    'checks the configuration and each destination: ok, warning or error';

CREATE FUNCTION walsafe_archive_verify(
    destination text DEFAULT NULL,
    OUT destination text,
    OUT file text,
    OUT finding text,
    OUT reason text,
    OUT advice text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'walsafe_archive_verify_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION walsafe_archive_verify(text) IS
    'reads every file of an archive, or of each, and returns what is wrong; no rows if nothing is';

CREATE FUNCTION walsafe_archive_gaps(
    destination text DEFAULT NULL,
    OUT destination text,
    OUT file text,
    OUT finding text,
    OUT reason text,
    OUT advice text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'walsafe_archive_gaps_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION walsafe_archive_gaps(text) IS
    'returns the segments that are missing from an archive, or from each';

CREATE FUNCTION walsafe_archive_test(
    timeout double precision DEFAULT 60,
    OUT destination text,
    OUT file text,
    OUT status text,
    OUT detail text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'walsafe_archive_test_wrapper'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION walsafe_archive_test(double precision) IS
    'ends a segment, waits so many seconds until it is in each archive, and reads it back: ok or error';

REVOKE ALL ON FUNCTION walsafe_archive_stat() FROM PUBLIC;
REVOKE ALL ON FUNCTION walsafe_archive_reset() FROM PUBLIC;
REVOKE ALL ON FUNCTION walsafe_archive_check() FROM PUBLIC;
REVOKE ALL ON FUNCTION walsafe_archive_verify(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION walsafe_archive_gaps(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION walsafe_archive_test(double precision) FROM PUBLIC;
REVOKE ALL ON walsafe_archive_status FROM PUBLIC;

GRANT EXECUTE ON FUNCTION walsafe_archive_stat() TO pg_monitor;
GRANT EXECUTE ON FUNCTION walsafe_archive_check() TO pg_monitor;
GRANT SELECT ON walsafe_archive_status TO pg_monitor;
GRANT EXECUTE ON FUNCTION walsafe_archive_verify(text) TO pg_read_server_files;
GRANT EXECUTE ON FUNCTION walsafe_archive_gaps(text) TO pg_read_server_files;
