"""WAL of several kinds: what servers do apart from pgbench's transactions."""

import shutil

from server import NOBODY, run

JSON = """
CREATE TABLE documents (id bigint, document jsonb);
CREATE INDEX ON documents (id);
INSERT INTO documents
SELECT (random() * 1e15)::bigint, jsonb_build_object(
    'name', 'user' || g, 'mail', 'user' || g || '@example.org', 'at', now() - g * interval '7 s',
    'score', random(), 'tags', jsonb_build_array('a', 'b', g % 17))
FROM generate_series(1, 250000) g"""
INDEXES = """
CREATE INDEX ON pgbench_accounts (abalance, aid);
CREATE INDEX ON documents ((document->>'mail'));
CREATE INDEX ON documents USING gin (document)"""
UPDATES = """
UPDATE documents SET id = id + 1 WHERE id % 3 = 0;
DELETE FROM documents WHERE id % 5 = 1;
VACUUM documents;
UPDATE pgbench_accounts SET abalance = aid WHERE aid % 4 = 0;
VACUUM pgbench_accounts"""
# As of values that are compressed or encrypted already.
RANDOM = """
CREATE TABLE noise (value bytea);
ALTER TABLE noise ALTER value SET STORAGE PLAIN;
INSERT INTO noise
SELECT (SELECT string_agg(sha512((g || ' ' || i || random())::bytea), '') FROM generate_series(1, 30) i)
FROM generate_series(1, 40000) g"""


def make(cluster, directory, files=4):
    """Returns directories with so many full segments of each kind, by what they hold."""
    cluster.start(NOBODY)
    cluster.sql("ALTER SYSTEM SET synchronous_commit = off; ALTER SYSTEM SET fsync = off")
    cluster.reload()

    def pgbench(*arguments):
        return lambda: run(cluster.client("pgbench", *arguments, "postgres"))

    made = {}
    for kind, work in {
        "loading a table": pgbench("-i", "-q", "-s", 10),
        "pgbench": pgbench("-n", "-c", 4, "-j", 2, "-T", 20),
        "inserts of JSON with random keys": lambda: cluster.sql(JSON),
        "building indexes": lambda: cluster.sql(INDEXES),
        "updates, deletes, vacuum": lambda: cluster.sql(UPDATES),
        "random bytes": lambda: cluster.sql(RANDOM),
    }.items():
        cluster.sql("CHECKPOINT; SELECT pg_switch_wal()")
        before = set(cluster.waiting())
        work()
        full = sorted(set(cluster.waiting()) - before)[-files:]
        made[kind] = directory / str(len(made))
        made[kind].mkdir()
        for name in full:
            shutil.copy(cluster.pg_wal / name, made[kind])
    cluster.stop()
    return made
