//! The files in monitoring/ work as they are, and so do the commands of docs/monitoring.md: the exporters'
//! queries on a live cluster for a member of `pg_monitor`, the alert rules with Prometheus's own tool, and
//! `walsafe check` as Nagios runs it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::document::Document;
use harness::command::{Output, run, run_within};
use harness::scratch::chmod;
use harness::{
    Cluster, Fs, Mount, Scratch, Server, TIMEOUT, privileged, require, scratch, tool, wait_until,
};

fn monitoring(name: &str) -> PathBuf {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    tree.join("monitoring").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(monitoring(name)).unwrap()
}

/// An exporter's file: the one query in it, and what it makes of the columns.
struct Exporter {
    query: String,
    columns: BTreeSet<String>,
    metrics: BTreeSet<String>,
}

/// The block below `query: |`.
fn query(yaml: &str) -> String {
    let (before, after) = yaml.split_once("query: |\n").expect("a query");
    assert!(!after.contains("query: |"), "one query");
    let indent = before.rsplit('\n').next().unwrap().len() + 1;
    let inside = |line: &&str| line.len() - line.trim_start().len() >= indent;
    after.lines().take_while(inside).collect::<Vec<_>>().join("\n")
}

fn exporters() -> [Exporter; 2] {
    let yaml = text("postgres_exporter-queries.yaml");
    let entries = || yaml.lines().filter_map(|l| l.strip_prefix("    - ")?.strip_suffix(':'));
    let postgres = Exporter {
        query: query(&yaml),
        columns: entries().map(str::to_owned).collect(),
        // postgres_exporter puts the query's name before the column's.
        metrics: entries()
            .filter(|column| *column != "destination")
            .map(|column| format!("walsafe_archive_{column}"))
            .collect(),
    };
    let yaml = text("sql_exporter-walsafe.collector.yaml");
    let values = |key: &str| -> BTreeSet<String> {
        let lines =
            yaml.lines().filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(key));
        lines.map(|value| value.trim_matches(['[', ']', ' ']).to_owned()).collect()
    };
    let mut columns = values("values:");
    columns.extend(values("key_labels:"));
    let sql = Exporter { query: query(&yaml), columns, metrics: values("metric_name:") };
    [postgres, sql]
}

/// One column of an exporter's row, as a member of pg_monitor sees it.
#[track_caller]
fn column(cluster: &Cluster, exporter: &Exporter, column: &str) -> String {
    cluster.sql(&format!("SET ROLE exporter; SELECT {column} FROM ({}) q", exporter.query))
}

#[test]
fn the_exporters_queries_run_for_a_member_of_pg_monitor_whatever_the_state() {
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path()).segment_mb(4).start();
    let document = Document::new("monitoring.md");
    document.psql(&cluster, "exporter");
    let check = |configured: &str, failing: &str| {
        for exporter in exporters() {
            let row = column(&cluster, &exporter, "count(*), min(configured), max(failing)");
            assert_eq!(row, format!("1|{configured}|{failing}"));
            let names: BTreeSet<String> =
                column(&cluster, &exporter, "json_object_keys(to_json(q))")
                    .lines()
                    .map(str::to_owned)
                    .collect();
            assert_eq!(names, exporter.columns);
            // Each is a number, but for the label.
            for name in exporter.columns.iter().filter(|name| *name != "destination") {
                let kind = column(&cluster, &exporter, &format!("pg_typeof({name})"));
                assert!(
                    ["integer", "bigint", "double precision"].contains(&&*kind),
                    "{name}: {kind}"
                );
            }
        }
    };
    // Nothing was archived yet.
    check("1", "0");
    cluster.wait_archived(&cluster.switch_wal());
    check("1", "0");
    for exporter in exporters() {
        let row =
            column(&cluster, &exporter, "destination, archived_count > 0, oldest_waiting_seconds");
        assert_eq!(row, format!("{}|t|0", archive.path().display()));
    }
    assert!(document.psql(&cluster, "backlog-seconds").contains("\n        0\n"));
    chmod(archive.path(), 0o500);
    cluster.switch_wal();
    cluster.wait_failures(1);
    check("1", "1");
    for exporter in exporters() {
        let row = column(
            &cluster,
            &exporter,
            "oldest_waiting_seconds > 0, failed_count > 0, backlog_files",
        );
        assert_eq!(row, "t|t|1");
    }
    chmod(archive.path(), 0o700);
    cluster.reconfigure("walsafe_archive.destination", "");
    cluster.wait_until("the reload", || {
        let state = cluster.sql("SELECT state FROM walsafe_archive_status");
        (state == "unconfigured").then_some(())
    });
    check("0", "0");
}

/// Ends the process when the test does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What an exporter on this machine serves; `None` while there is none.
fn served(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// If no exporter read the file here, it could be one that none understands.
#[test]
fn postgres_exporter_serves_the_metrics() {
    require!(tool("prometheus-postgres-exporter"));
    let (archive, place) = (Scratch::new("archive"), Scratch::new("place"));
    // The server's user may not be able to look into the tree.
    let name = "postgres_exporter-queries.yaml";
    scratch::write(&place.join(name), text(name));
    let cluster = Cluster::archiving_to(archive.path()).start();
    let document = Document::new("monitoring.md")
        .with("postgres_exporter --", "prometheus-postgres-exporter --")
        .with("monitoring/", place.join(""));
    document.psql(&cluster, "exporter");
    cluster.wait_archived(&cluster.switch_wal());
    // Free a moment ago, and not given out again soon.
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let mut command = cluster.shell(&format!(
        "exec {} --web.listen-address=127.0.0.1:{port}",
        document.block("postgres-exporter")
    ));
    let socket = cluster.socket_dir().to_str().expect("a path of ours");
    let source = format!("host={socket} user=exporter dbname=postgres sslmode=disable");
    command.env("DATA_SOURCE_NAME", source).stdout(Stdio::null()).stderr(Stdio::null());
    let _exporter = Running(command.spawn().expect("started"));
    let served = wait_until(TIMEOUT, "the exporter", || {
        served(port).filter(|answer| answer.contains("pg_up 1"))
    });
    let label = format!("{{destination=\"{}\"", archive.path().display());
    for metric in &exporters()[0].metrics {
        let begin = format!("{metric}{label}");
        assert!(served.lines().any(|line| line.starts_with(&begin)), "{metric}\n{served}");
    }
}

fn metrics_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| {
            ["walsafe_archive_", "walsafe_verify_", "walsafe_copy_"]
                .iter()
                .any(|begin| word.starts_with(begin))
        })
        .map(str::to_owned)
        .collect()
}

#[test]
fn both_exporters_have_the_metrics_that_the_alerts_are_about() {
    let [postgres, sql] = exporters();
    assert!(postgres.metrics.len() > 10, "{:?}", postgres.metrics);
    assert_eq!(postgres.metrics, sql.metrics);
    assert_eq!(postgres.query.replace(' ', ""), sql.query.replace(' ', ""));
    let script = metrics_in(&text("walsafe-verify-metrics"));
    // `walsafe copy --metrics` has a test of its own for each of those.
    let copied = metrics_in(include_str!("../docs/monitoring.md"));
    let rules = text("alerts.yaml");
    let used = rules.lines().filter_map(|line| line.trim_start().strip_prefix("expr: "));
    let used: BTreeSet<String> = used.flat_map(metrics_in).collect();
    assert!(used.len() > 6, "{used:?}");
    for metric in used {
        assert!(
            postgres.metrics.contains(&metric)
                || script.contains(&metric)
                || (metric.starts_with("walsafe_copy_") && copied.contains(&metric)),
            "alerts.yaml asks for {metric}, which nothing exports"
        );
    }
}

#[test]
fn prometheus_accepts_the_alert_rules() {
    require!(tool("promtool"));
    let said =
        run(Command::new("promtool").args(["check", "rules"]).arg(monitoring("alerts.yaml")));
    assert!(said.contains("SUCCESS"), "{said}");
}

#[test]
fn the_alerts_fire_when_they_should_and_only_then() {
    require!(tool("promtool"));
    // It computes for half a minute, on a machine that does nothing else.
    let output = run_within(
        Command::new("promtool").args(["test", "rules"]).arg(monitoring("alerts_test.yaml")),
        "",
        5 * TIMEOUT,
    );
    assert!(output.success() && output.stdout.contains("SUCCESS"), "{output:?}");
}

/// Runs the script as cron would, with the program `walsafe` under test.
fn verify_metrics(archive: &Path, file: &Path) -> Output {
    let bindir = &Server::under_test().bindir;
    let path = format!("{}:/usr/bin:/bin", bindir.display());
    run_within(
        Command::new(monitoring("walsafe-verify-metrics")).env("PATH", path).arg(archive).arg(file),
        "",
        TIMEOUT,
    )
}

fn metric(file: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name}{{"))).expect(name);
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn a_verification_leaves_its_outcome_and_the_time_of_the_last_success() {
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path()).start();
    let names = cluster.fill_whole_segments(3);
    cluster.wait_all_archived();
    let home = Scratch::new("metrics");
    let file = home.join("walsafe.prom");
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();

    let began = now();
    let output = verify_metrics(archive.path(), &file);
    assert_eq!(output.code(), Some(0), "{output:?}");
    assert_eq!(metric(&file, "walsafe_verify_exit_status"), 0);
    let succeeded = metric(&file, "walsafe_verify_success_time_seconds");
    assert!((began..=now()).contains(&succeeded), "{succeeded}");
    assert_eq!(home.names(), ["walsafe.prom"]);

    let damaged = File::options().write(true).open(archive.join(&names[1])).unwrap();
    damaged.write_all_at(b"damage", 5000).unwrap();
    let output = verify_metrics(archive.path(), &file);
    assert_eq!(output.code(), Some(1), "{output:?}");
    assert!(output.stdout.contains(&names[1]), "{output:?}");
    assert_eq!(metric(&file, "walsafe_verify_exit_status"), 1);
    assert_eq!(metric(&file, "walsafe_verify_success_time_seconds"), succeeded);

    let output = verify_metrics(Path::new("/nowhere"), &file);
    assert_eq!(output.code(), Some(2), "{output:?}");
    assert_eq!(metric(&file, "walsafe_verify_exit_status"), 2);
    assert_eq!(metric(&file, "walsafe_verify_success_time_seconds"), succeeded);

    // Never verified with success.
    let fresh = home.join("fresh.prom");
    assert_eq!(verify_metrics(Path::new("/no \"where\" \\"), &fresh).code(), Some(2));
    assert_eq!(metric(&fresh, "walsafe_verify_success_time_seconds"), 0);

    if tool("promtool").is_ok() {
        let text = fs::read_to_string(&fresh).unwrap();
        let mut promtool = Command::new("promtool");
        let output = run_within(promtool.args(["check", "metrics"]), &text, TIMEOUT);
        assert!(output.success(), "{output:?}");
    }
}

/// If the steps were wrong, the job would never run: the script would not be where cron looks, or nobody
/// might write there.
#[test]
fn the_verification_is_installed_and_run_as_documented() {
    require!(privileged());
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path()).start();
    cluster.fill_whole_segments(1);
    cluster.wait_all_archived();
    let place = Scratch::new("place");
    let collector = place.join("node-exporter");
    fs::create_dir(&collector).unwrap();
    let document = Document::new("monitoring.md")
        .with("/usr/share/doc/walsafe/monitoring", monitoring(""))
        .with("/usr/local/bin", place.path())
        .with("/var/lib/prometheus/node-exporter", &collector)
        .with("/mnt/archive", archive.path());
    document.run_as_root(&cluster, "install-script");
    let line = document.block("cron");
    let (_, command) = line.split_once("  postgres  ").expect("when, who, what");
    let output = run_within(&mut cluster.shell(command), "", TIMEOUT);
    assert!(output.success(), "{output:?}");
    assert_eq!(metric(&collector.join("walsafe.prom"), "walsafe_verify_exit_status"), 0);
}

/// systemd ignores a mistyped key: then nobody learns of findings, or the job runs at any time.
#[test]
fn systemd_understands_the_unit_files() {
    require!(tool("systemd-analyze"));
    let place = Scratch::new("units");
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["verify", "--man=no"]);
    for name in ["walsafe-verify.timer", "walsafe-verify.service", "walsafe-copy.service"] {
        let unit = fs::read_to_string(monitoring("../docs/systemd").join(name)).unwrap();
        let program = Server::under_test().walsafe();
        let program = program.to_str().expect("a path of ours");
        scratch::write(&place.join(name), unit.replace("/usr/local/bin/walsafe", program));
        analyze.arg(place.join(name));
    }
    let output = run_within(&mut analyze, "", TIMEOUT);
    assert!(output.success() && !output.stderr.contains("walsafe-"), "{output:?}");
}

/// 0, 1 and 2 are OK, WARNING and CRITICAL, and the first line says why.
#[test]
fn walsafe_check_ends_as_nagios_expects_it() {
    require!(privileged());
    let storage = Mount::new(Fs::Ext4, 64);
    let cluster = Cluster::archiving_to(storage.path()).start();
    cluster.wait_archived(&cluster.switch_wal());
    let check = |archive: &Path, status: i32, says: &str| {
        let document = Document::new("monitoring.md")
            .with("--min-free 20000 ", "--min-free 1 ")
            .with("/var/lib/postgresql/15/main", cluster.data())
            .with("/mnt/archive", archive);
        // On a busy machine flushes are slow for a moment, and it says so.
        let output = wait_until(TIMEOUT, "flushes at an ordinary speed", || {
            let output = document.try_run(&cluster, "nagios");
            (!output.stdout.starts_with("WALSAFE WARNING - flush latency: ")).then_some(output)
        });
        let first = output.stdout.lines().next().unwrap_or_default();
        assert!(output.code() == Some(status) && first.starts_with(says), "{output:?}");
    };
    check(storage.path(), 0, "WALSAFE OK - ");
    chmod(storage.path(), 0o755);
    check(storage.path(), 1, "WALSAFE WARNING - ownership: ");
    chmod(storage.path(), 0o700);
    storage.unmount();
    check(storage.path(), 2, "WALSAFE CRITICAL - identity: ");
    check(Path::new("/nowhere"), 2, "WALSAFE CRITICAL - directory: ");
}
