//! The checks of an archive in object storage.

use std::time::Duration;

use super::{Check, Options, Status, denied, identity, made, names, unarchived};
use crate::error::{Activity, Error, ErrorKind};
use crate::store::trials::{Checksums, Put, Race, Rules, Wrong};
use crate::store::{Trials, Visit};

/// The row that says whether the bucket can be reached at all.
pub(super) const NAME: &str = "bucket";

/// A PUT of a few bytes that takes longer than this slows archiving down noticeably.
const SLOW_PUT: Duration = Duration::from_secs(1);

/// Runs the checks of a bucket. If it cannot be listed, that is the only result.
pub(super) fn checks(visit: &dyn Visit, trials: &dyn Trials, options: &Options<'_>) -> Vec<Check> {
    // Whether there is such a server, whether it takes the keys, the region and the clock, and whether the keys
    // may list: the first request tells all of it.
    if let Err(error) = trials.can_be_listed() {
        return vec![denied(NAME, error, options)];
    }
    let listed = format!("\"{}\" can be listed", visit.location().display());
    let mut checks = vec![made(NAME, Status::Ok, listed), identity(visit, options)];
    // Of several warnings, monitoring programs show the first.
    checks.extend(options.data_directory.and_then(|data| unarchived::unarchived(visit, data)));
    if !options.read_only {
        checks.extend(tried(trials));
    }
    checks.push(rules(&trials.rules()));
    checks.extend(names(visit, options));
    checks
}

/// As [`super::failed`]; the hint is the archiver's, which needs the right to write.
fn failed(name: &'static str, error: &Error) -> Check {
    let hint = error.hint(Activity::Archiving);
    made(name, Status::Error, format!("{error}: {} {hint}", error.detail()))
}

fn tried(trials: &dyn Trials) -> Vec<Check> {
    let name = "no-replace publish";
    let put = match trials.put() {
        Ok(put) => Ok(put),
        // What else it does wrong is told too.
        Err(error) if error.kind() == ErrorKind::ConditionIgnored => Err(error),
        // Every other trial would fail for the same cause.
        Err(error) => return vec![failed(name, &error)],
    };
    let race = match &put {
        Ok(put) => {
            trials.race().map_or_else(|error| failed(name, &error), |race| raced(*put, race))
        }
        Err(error) => failed(name, error),
    };
    let mut checks = vec![race, checksums(trials), broken(trials), held(trials)];
    checks.extend(put.ok().map(|put| latency(put.took)));
    checks
}

fn raced(Put { removes, .. }: Put, Race { puts, stored, agrees }: Race) -> Check {
    let name = "no-replace publish";
    let hint = ErrorKind::ConditionIgnored.hint(Activity::Checking);
    if stored > 1 {
        let detail = format!(
            "of {puts} PUTs of different contents to one name at one time, {stored} were accepted. {hint}"
        );
        return made(name, Status::Error, detail);
    }
    if !agrees {
        let detail = format!(
            "of {puts} PUTs of different contents to one name at one time, the object is not the one that was accepted. {hint}"
        );
        return made(name, Status::Error, detail);
    }
    let raced = match stored {
        1 => format!("and of {puts} PUTs at one time one was accepted"),
        _ => format!("and of {puts} PUTs to a name that was taken none was accepted"),
    };
    let left = if removes {
        ""
    } else {
        "; a few probes stay and count as nothing, because the keys may not remove objects or the bucket keeps versions"
    };
    made(name, Status::Ok, format!("an object cannot replace another, {raced}{left}"))
}

/// Makes a row of what a trial has shown.
fn judged(name: &'static str, result: Result<(Status, String), Error>) -> Check {
    match result {
        Ok((status, detail)) => made(name, status, detail),
        Err(error) => failed(name, &error),
    }
}

fn checksums(trials: &dyn Trials) -> Check {
    let name = "checksums";
    judged(name, trials.checksums().map(wrong_digests))
}

fn broken(trials: &dyn Trials) -> Check {
    let name = "broken uploads";
    judged(name, trials.shows_half().map(half))
}

fn held(trials: &dyn Trials) -> Check {
    let name = "held uploads";
    judged(name, trials.takes_held().map(later_end))
}

fn wrong_digests(Checksums { md5, sha256 }: Checksums) -> (Status, String) {
    let kept: Vec<&str> = [("Content-MD5", md5), ("SHA-256", sha256)]
        .into_iter()
        .filter(|(_, wrong)| *wrong == Wrong::RefusedAndStored)
        .map(|(name, _)| name)
        .collect();
    if !kept.is_empty() {
        let detail = format!(
            "the storage refuses a body with a wrong {}, and shows it as an object all the same: what was refused would count as archived. Use other storage.",
            kept.join(" or ")
        );
        return (Status::Error, detail);
    }
    match (md5, sha256) {
        (Wrong::Refused, Wrong::Refused) => {
            (Status::Ok, "a body with a wrong Content-MD5 or SHA-256 is refused".to_owned())
        }
        (Wrong::Refused, _) => (Status::Ok, "a body with a wrong Content-MD5 is refused".to_owned()),
        (_, Wrong::Refused) => (Status::Ok, "a body with a wrong SHA-256 is refused".to_owned()),
        _ => (
            Status::Error,
            "the storage looks at neither Content-MD5 nor SHA-256: it keeps a copy that was damaged on its way. Use other storage."
                .to_owned(),
        ),
    }
}

fn half(shows: bool) -> (Status, String) {
    if shows {
        let detail = "the storage shows an object although the connection broke before the end of its body: half a copy would stand under the name of the whole. Use other storage.";
        (Status::Error, detail.to_owned())
    } else {
        (Status::Ok, "a body that breaks off before its end leaves nothing".to_owned())
    }
}

fn later_end(takes: bool) -> (Status, String) {
    if takes {
        (Status::Ok, "a body may wait for its turn before its end".to_owned())
    } else {
        let detail = "the storage, or a proxy before it, does not wait for the end of a body: files are sent a second time, one after the other. Look for its limit on the time between two parts of a body.";
        (Status::Warning, detail.to_owned())
    }
}

fn latency(took: Option<Duration>) -> Check {
    let name = "PUT latency";
    let Some(took) = took else {
        let detail = "not measured: the probe of an earlier check is still there";
        return made(name, Status::Ok, detail);
    };
    let found = format!("{:.1} ms for a small object", took.as_secs_f64() * 1000.0);
    if took > SLOW_PUT {
        let detail =
            format!("{found}. Archiving one file after the other cannot be faster than that.");
        return made(name, Status::Warning, detail);
    }
    made(name, Status::Ok, found)
}

fn rules(Rules { keeps_versions, locks, by_age }: &Rules) -> Check {
    let name = "bucket rules";
    if let Ok(rules) = by_age
        && !rules.is_empty()
    {
        let detail = format!(
            "{}, the identity and history files of the archive among them: they are needed for as long as any of its WAL is. Give the rule a prefix or a smallest size that leaves them out.",
            rules.join(" and ")
        );
        return made(name, Status::Warning, detail);
    }
    let told = |what: &str, rule: &Result<bool, String>| match rule {
        Ok(true) => format!("{what}: yes"),
        Ok(false) => format!("{what}: no"),
        Err(reason) => format!("{what}: may not be read ({reason})"),
    };
    let by_age = match by_age {
        Ok(_) => "no rule removes the identity or history files by age".to_owned(),
        Err(reason) => format!("lifecycle rules may not be read ({reason})"),
    };
    let parts = [told("versions are kept", keeps_versions), told("object lock", locks), by_age];
    made(name, Status::Ok, parts.join("; "))
}
