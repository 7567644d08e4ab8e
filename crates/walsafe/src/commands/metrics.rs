//! How far a copy is behind, as a file for node_exporter's textfile collector.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use walsafe_core::transfer::Lag;

/// What the file says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Figures {
    /// Both archives answered at the last look.
    pub(super) up: bool,
    /// What is behind, once that is known.
    pub(super) lag: Option<Lag>,
    /// Files that are left out or are damaged at the destination, and a conflict.
    pub(super) findings: u64,
}

/// Replaces the file in one step, so that the collector never reads a part of it.
///
/// # Errors
/// What the file system reports.
pub(super) fn write(
    file: &Path,
    source: &Path,
    destination: &Path,
    figures: &Figures,
) -> io::Result<()> {
    let text = text(source, destination, figures, SystemTime::now());
    let temporary = temporary(file);
    let written = (|| {
        let mut out = File::create(&temporary)?;
        out.write_all(text.as_bytes())?;
        // The collector runs as another user.
        out.set_permissions(Permissions::from_mode(0o644))?;
        drop(out);
        fs::rename(&temporary, file)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// The collector reads only names that end in `.prom`.
fn temporary(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    name.into()
}

fn text(source: &Path, destination: &Path, figures: &Figures, now: SystemTime) -> String {
    let label = |path: &Path| {
        let path = path.display().to_string();
        path.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
    };
    let labels = format!("source=\"{}\",destination=\"{}\"", label(source), label(destination));
    let mut text = String::new();
    let mut metric = |name: &str, help: &str, value: u64| {
        text.push_str(&format!(
            "# HELP walsafe_copy_{name} {help}\n# TYPE walsafe_copy_{name} gauge\nwalsafe_copy_{name}{{{labels}}} {value}\n"
        ));
    };
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    metric(
        "up",
        "Whether both archives could be read and written at the last look.",
        figures.up.into(),
    );
    metric("time_seconds", "When these figures were written, in seconds since 1970.", seconds);
    metric(
        "findings",
        "Files that are left out or were copied damaged, and 1 for a conflict.",
        figures.findings,
    );
    let Some(lag) = figures.lag else { return text };
    let oldest = lag.oldest.and_then(|oldest| now.duration_since(oldest).ok());
    metric("files_behind", "Files that the source has and the destination lacks.", lag.files);
    metric("bytes_behind", "What these files hold, as they are stored.", lag.bytes);
    metric(
        "oldest_age_seconds",
        "How long ago the oldest of these files was archived; 0 if there is none.",
        oldest.map_or(0, |age| age.as_secs()),
    );
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;

    #[test]
    fn the_figures_are_in_the_collectors_format() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let lag = Lag { files: 3, bytes: 48, oldest: Some(now - Duration::from_secs(90)) };
        let figures = Figures { up: true, lag: Some(lag), findings: 1 };
        let text = text(Path::new("/a \"b\""), Path::new("/c"), &figures, now);
        let values: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let labels = r#"{source="/a \"b\"",destination="/c"}"#;
        let expected = [
            ("up", 1),
            ("time_seconds", 1_000_000),
            ("findings", 1),
            ("files_behind", 3),
            ("bytes_behind", 48),
            ("oldest_age_seconds", 90),
        ];
        let line = |(name, value)| format!("walsafe_copy_{name}{labels} {value}");
        assert_eq!(values, expected.map(line));
    }

    #[test]
    fn the_file_is_replaced_and_nothing_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.prom");
        for _ in 0..2 {
            write(&file, Path::new("/a"), Path::new("/b"), &Figures::default()).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write(&dir.path().join("no/x"), &file, &file, &Figures::default()).is_err());
    }
}
