//! The exit statuses of `walsafe restore` where the archive is in Azure Blob Storage: what can be wrong there only. What
//! is the same for a directory stands in `exit_table.rs`.

#![cfg(feature = "azure")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::bucket::Break;
use common::stored::{bucket, command, is_trouble, three_segments};
use common::{Language, Place, Run, SECRET};

const TWO: &str = "000000010000000000000002";
const FOUR: &str = "000000010000000000000004";

/// An archive with segments 1 to 3 of timeline 1.
fn place() -> Place {
    three_segments(Language::Azure)
}

#[test]
fn an_answer_is_told_by_its_code_and_none_but_blob_not_found_is_absence() {
    let place = place();
    let answers: [(u16, &'static str, &[&str]); 10] = [
        (404, "ContainerNotFound", &["answered 404 ContainerNotFound", "name of the bucket"]),
        (404, "ResourceNotFound", &["answered 404 ResourceNotFound", "Look for the code"]),
        (404, "", &["answered 404 an error without a code"]),
        (403, "AuthenticationFailed", &["403 AuthenticationFailed", "Check the keys"]),
        (403, "KeyBasedAuthenticationNotPermitted", &["NotPermitted", "Check the keys"]),
        (403, "AuthorizationPermissionMismatch", &["403 Authorization", "Give the keys the right"]),
        (409, "BlobArchived", &["409 BlobArchived", "Bring it back first"]),
        (409, "AccountBeingCreated", &["409 AccountBeingCreated"]),
        (503, "ServerBusy", &["503 ServerBusy", "overloaded"]),
        (412, "ConditionNotMet", &["412 ConditionNotMet"]),
    ];
    let url = bucket(&place).url();
    for (status, code, texts) in answers {
        for (part, file) in [(TWO, TWO), (FOUR, FOUR), ("walsafe_archive.id", FOUR)] {
            bucket(&place).break_all(part, Break::Answer(status, code));
            if part == FOUR || status < 500 {
                is_trouble(&place, &url, file, texts);
            }
        }
        if code != "BlobArchived" {
            bucket(&place).break_all("comp=list", Break::Answer(status, code));
            let run = Run::of(&mut command(&place, &url, FOUR));
            texts.iter().for_each(|text| run.says(126, text));
        }
    }
    bucket(&place).mend();
    place.restore(TWO).delivers();
    // What is missing is missing, and not a failure.
    Run::of(&mut command(&place, &url, FOUR)).says(1, "");
}

/// Azure has one code for a wrong key and for a wrong clock, and who looked for the key lost an evening.
#[test]
fn a_clock_that_is_wrong_is_named_with_the_other() {
    let place = place();
    bucket(&place).break_all("", Break::Skewed);
    let texts =
        ["its clock says 1994-11-06T08:49:37Z, and this machine's 20", "Set this machine's clock"];
    is_trouble(&place, &bucket(&place).url(), TWO, &texts);
}

#[test]
fn keys_are_a_file_s_or_the_environments_for_this_account() {
    let place = place();
    let (file, url) = (place.path("keys"), bucket(&place).url());
    let write = |text: &str| {
        fs::write(&file, format!("[azure://walsafetest/wal]\n{text}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    };
    // Nothing answers where a machine would have its metadata.
    let keyless = || {
        let mut command = command(&place, &url, TWO);
        command.env_remove("AZURE_STORAGE_KEY");
        command.env("IDENTITY_ENDPOINT", "http://127.0.0.1:1/token").env("IDENTITY_HEADER", "x");
        command
    };
    write(&format!("azure_storage_key = {SECRET}AA"));
    Run::of(keyless().arg("--credentials-file").arg(&file)).delivers();
    fs::remove_file(place.target()).unwrap();
    Run::of(keyless().env("AZURE_STORAGE_ACCOUNT_KEY", format!("{SECRET}AA"))).delivers();
    fs::remove_file(place.target()).unwrap();
    // Another account's key is none.
    let mut foreign = keyless();
    foreign.env("AZURE_STORAGE_KEY", format!("{SECRET}AA")).env("AZURE_STORAGE_ACCOUNT", "other");
    Run::of(&mut foreign).says(126, "there are no credentials: the environment, a workload");
    for (text, says) in [
        (format!("azure_storage_key = {SECRET}"), "the account key is not whole"),
        (format!("azure_storage_sas_token = sv=1&sg={SECRET}"), "has no sig="),
        ("azure_tenant_id = t".to_owned(), "lacks azure_client_id"),
        (format!("aws_secret_access_key = {SECRET}"), "has a key that is not known"),
    ] {
        write(&text);
        Run::of(keyless().arg("--credentials-file").arg(&file)).says(126, says);
    }
    assert_eq!(place.pg_wal(), Vec::<String>::new());
}

/// A machine whose metadata were being updated had its recovery stopped, for credentials that are not there.
#[test]
fn a_token_that_is_not_given_now_is_waited_for() {
    let place = place();
    let url = bucket(&place).url();
    let call = || {
        let mut command = command(&place, &url, TWO);
        command.env_remove("AZURE_STORAGE_KEY");
        bucket(&place).gives_tokens_to(&mut command);
        command
    };
    for status in [404, 410, 429, 503] {
        bucket(&place).break_next("/identity", Break::Answer(status, ""), 2);
        Run::of(&mut call()).delivers();
        fs::remove_file(place.target()).unwrap();
    }
    bucket(&place).break_all("/identity", Break::Answer(410, ""));
    let run = Run::of(&mut call());
    run.says(126, "the machine's metadata answered 410 without a code to the request for a token");
    run.says(126, "Start recovery again once it answers.");
    // What is for good is said at once.
    bucket(&place).break_all("/identity", Break::Answer(403, ""));
    bucket(&place).seen();
    Run::of(&mut call()).says(126, "there are no credentials: the environment, a workload");
    assert_eq!(bucket(&place).seen().len(), 1);
    assert_eq!(place.pg_wal(), Vec::<String>::new());
}

#[test]
fn a_url_that_cannot_be_right_is_told_without_what_may_be_secret() {
    let place = place();
    for (url, text) in [
        (format!("azure://walsafetest/wal?sv=2024-11-04&sp=rl&sig={SECRET}"), "holds credentials"),
        (format!("azure://walsafetest:{SECRET}@wal/main"), "holds credentials"),
        (format!("azure://walsafetest/wal?account_key={SECRET}"), "holds credentials"),
        ("azure://wal-archive/main".to_owned(), "name of its account is not one of"),
        ("azure://walsafetest".to_owned(), "name of its container is not one of"),
        ("azure://walsafetest/wal?region=x".to_owned(), "not known to Azure Blob Storage"),
        ("azure://walsafetest/wal?storage_class=Archive".to_owned(), "is a cold class"),
        ("az://walsafetest/wal".to_owned(), "not begin with \"s3://\", \"azure://\""),
    ] {
        let run = Run::of(&mut command(&place, &url, TWO));
        run.says(126, text);
        run.says(126, "Correct the location of the archive.");
    }
}
