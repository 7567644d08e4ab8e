//! Where an archive lies, and what of a URL is refused.

#![allow(clippy::unwrap_used, clippy::panic)]

use super::{Cloud, Encryption, Endpoint, ObjectUrl, Proxy, UrlError};

fn url(text: &str) -> ObjectUrl {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn why(text: &str) -> String {
    text.parse::<ObjectUrl>().map(|url| url.to_string()).unwrap_err().to_string()
}

#[test]
fn a_url_says_where_the_keys_are_and_which_server_has_them() {
    let aws = url("s3://bucket-1/pg/main/?region=eu-west-1");
    assert_eq!(aws.to_string(), "s3://bucket-1/pg/main");
    assert_eq!(aws.key("x"), "pg/main/x");
    let server = aws.server("eu-west-1");
    assert_eq!(server.with_port(), "bucket-1.s3.eu-west-1.amazonaws.com:443");
    assert_eq!(server.authority(), "bucket-1.s3.eu-west-1.amazonaws.com");
    // No certificate of AWS fits a name with dots before its own.
    assert_eq!(
        url("s3://a.b.c?region=us-east-1").server("us-east-1").authority(),
        "s3.us-east-1.amazonaws.com"
    );

    let own = url("s3://wal?endpoint=https%3A%2F%2Fstore.example.com:9000&style=path");
    assert_eq!(own.key("x"), "x");
    assert_eq!(own.server("us-east-1").authority(), "store.example.com:9000");
    let named = url("s3://wal?endpoint=https://store.example.com");
    assert_eq!(named.server("us-east-1").authority(), "wal.store.example.com");
    // There is no name under an address.
    assert_eq!(url("s3://wal?endpoint=http://[::1]:80").server("").authority(), "[::1]");
    assert_eq!(url("s3://wal?endpoint=http://127.0.0.1:1").server("").authority(), "127.0.0.1:1");
}

#[test]
fn the_region_is_the_urls_or_the_environments() {
    let set = |name: &str| (name == "AWS_REGION").then(|| "eu-west-3".to_owned());
    assert_eq!(url("s3://wal?region=x-1").region(set).unwrap(), "x-1");
    assert_eq!(url("s3://wal").region(set).unwrap(), "eu-west-3");
    let own = url("s3://wal?endpoint=https://store.example.com");
    assert_eq!(own.region(|_| None).unwrap(), "us-east-1");
    let error = url("s3://wal").region(|_| None).unwrap_err();
    assert!(error.to_string().contains("region=..."), "{error}");
}

#[test]
fn options_are_read_and_wrong_ones_are_named() {
    let all = url(
        "s3://wal/p?region=x-1&sse=aws:kms&kms_key=arn:aws:kms:x:1:key/2&storage_class=STANDARD_IA&requester_pays=true&expected_owner=123456789012&ca_file=/etc/ca.pem&proxy=http://proxy:3128",
    );
    assert_eq!(all.encryption, Some(Encryption::Managed));
    assert_eq!(all.kms_key.as_deref(), Some("arn:aws:kms:x:1:key/2"));
    assert_eq!(all.proxy, Proxy::At(Endpoint { tls: false, host: "proxy".into(), port: 3128 }));
    assert!(all.requester_pays);
    for (text, says) in [
        ("S3://bucket", "begin"),
        ("s3://bucket//x?region=r", "two slashes"),
        ("s3://bucket/a/../b?region=r", "\"..\""),
        ("s3://bucket/a b?region=r", "character"),
        ("s3://Bucket?region=r", "lower-case"),
        ("s3://express--x-s3?region=r", "directory buckets"),
        ("s3://bucket?region=r&what=1", "\"what\" is not known"),
        ("s3://bucket?region=r&region=r", "twice"),
        ("s3://bucket?region=r&storage_class=DEEP_ARCHIVE", "cold"),
        ("s3://bucket?region=r&sse_customer_key=x", "SSE-C"),
        ("s3://bucket?region=r&kms_key=x", "sse=aws:kms"),
        ("s3://bucket?region=r&style=host", "\"path\""),
        ("s3://bucket?endpoint=http://store.example.com", "allow_http=true"),
        ("s3://bucket?endpoint=store.example.com", "https://"),
        ("s3://bucket?endpoint=https://store.example.com:x", "port"),
        ("s3://bucket?region=r&proxy=https://p", "http://"),
        ("s3://bucket?region=", "no value"),
        ("s3://bucket#x?region=r", "#"),
    ] {
        let said = why(text);
        assert!(said.contains(says), "{text}: {said}");
    }
    assert!(
        url("s3://bucket?endpoint=http://store.example.com&allow_http=true").endpoint.is_some()
    );
}

#[test]
fn a_url_says_whose_storage_it_is_and_has_the_options_of_that_cloud() {
    let azure = url("azure://walsafe1/wal-1/pg/main/?storage_class=Cool&endpoint=http://[::1]:80");
    assert_eq!((azure.cloud, azure.account.as_str()), (Cloud::Azure, "walsafe1"));
    assert_eq!((azure.bucket.as_str(), azure.key("x").as_str()), ("wal-1", "pg/main/x"));
    assert_eq!(azure.to_string(), "azure://walsafe1/wal-1/pg/main");
    assert_eq!(azure.name(), "azure://walsafe1/wal-1/pg/main?endpoint=http://[::1]");
    assert_eq!(url("azure://walsafe1/wal").to_string(), "azure://walsafe1/wal");
    assert_eq!(url("gs://wal_1/main").to_string(), "gs://wal_1/main");
    // No region is asked of who has none.
    assert_eq!(azure.region(|_| None).unwrap(), "");
    for (text, says) in [
        ("az://walsafe1/wal", "\"azure://\""),
        ("azure://walsafe1", "name of its container"),
        ("azure://wal-archive/main", "name of its account"),
        ("azure://walsafe1/wal--1", "name of its container"),
        ("azure://walsafe1/$web/x", "name of its container"),
        ("azure://walsafe1/wal.1/x", "azure://ACCOUNT/CONTAINER/PREFIX"),
        ("azure://walsafe1/wal/a./b", "ends with \".\""),
        (
            "azure://walsafe1/wal?region=x",
            "\"region\" is not known to Azure Blob Storage: there are endpoint,",
        ),
        ("azure://walsafe1/wal?sse=aws:kms", "\"sse\" is not known"),
        ("azure://walsafe1/wal?storage_class=Archive", "cold class"),
        ("azure://walsafe1/wal?storage_class=STANDARD", "none of Hot, Cool and Cold"),
        ("azure://walsafe1/wal?endpoint=http://store.test", "allow_http=true"),
        ("gs://wal?region=x", "not known to Google Cloud Storage"),
    ] {
        let said = why(text);
        assert!(said.contains(says), "{text}: {said}");
    }
}

/// What is refused ends up in a log.
#[test]
fn a_secret_in_a_url_is_refused_and_not_repeated() {
    for text in [
        "s3://AKIAKEY:hunter2@bucket/x",
        "s3://bucket?region=r&secret_access_key=hunter2",
        "s3://bucket?region=r&session_token=hunter2",
        "s3://bucket?endpoint=https://me:hunter2@store",
        "s3://bucket?region=r&proxy=http://me:hunter2@proxy",
        // As the storage itself makes them: the signature comes last.
        "s3://bucket/x?X-Amz-Algorithm=AWS4&X-Amz-Signature=hunter2",
        "azure://walsafe1/wal?sv=2024-11-04&ss=b&sp=rcl&se=2027&sig=hunter2",
        "azure://walsafe1:hunter2@wal/main",
        "azure://walsafe1/key:hunter2@wal/main",
        "azure://walsafe1/wal?AccountKey=hunter2",
        "https://walsafe1.blob.core.windows.net/wal?sv=2024-11-04&sig=hunter2",
    ] {
        assert_eq!(text.parse::<ObjectUrl>(), Err(UrlError::Secret), "{text}");
        assert!(!why(text).contains("hunter2"), "{text}");
    }
    assert!(!why("s3://bucket?region=r&what=hunter2").contains("hunter2"));
}

/// A copy of an archive onto itself, or into itself: the same bucket is reached by several URLs.
#[test]
fn archives_that_are_one_or_lie_in_each_other_are_told_by_their_urls() {
    use super::Relation::{Apart, Inside, Outside, Same};
    for (first, second, expected) in [
        ("s3://bucket/a", "s3://bucket/a/", Same),
        ("s3://bucket/a", "s3://bucket/ab", Apart),
        ("s3://bucket/a/b", "s3://bucket/a", Inside),
        ("s3://bucket", "s3://bucket/a", Outside),
        ("s3://bucket/a", "s3://other/a", Apart),
        // A name of a bucket is given once by AWS, in whatever region it is asked for.
        ("s3://bucket/a?region=eu-west-1", "s3://bucket/a?sse=AES256", Same),
        ("s3://bucket/a", "s3://bucket/a?endpoint=https://s3.eu-west-1.amazonaws.com", Same),
        ("s3://bucket/a", "s3://bucket/a?region=cn-north-1", Apart),
        ("s3://bucket/a", "s3://bucket/a?region=us-gov-east-1", Apart),
        ("s3://bucket/a", "s3://bucket/a?endpoint=https://s3.example.com", Apart),
        (
            "s3://bucket/a?endpoint=https://S3.example.com&region=x",
            "s3://bucket/a?endpoint=https://s3.example.com:443&style=path",
            Same,
        ),
        (
            "s3://bucket/a?endpoint=http://localhost:9000",
            "s3://bucket/a?endpoint=http://127.0.0.1:9000",
            Same,
        ),
        (
            "s3://bucket/a?endpoint=http://127.0.0.1:9001",
            "s3://bucket/a?endpoint=http://127.0.0.1:9000",
            Apart,
        ),
        ("azure://walsafe1/wal/a", "azure://walsafe1/wal/a/?storage_class=Cool", Same),
        ("azure://walsafe1/wal/a/b", "azure://walsafe1/wal/a", Inside),
        ("azure://walsafe1/wal/a", "azure://walsafe2/wal/a", Apart),
        ("azure://walsafe1/wal/a", "azure://walsafe1/other/a", Apart),
        (
            "azure://walsafe1/wal/a",
            "azure://walsafe1/wal/a?endpoint=https://walsafe1.blob.core.windows.net",
            Same,
        ),
        (
            "azure://walsafe1/wal?endpoint=https://blob.core.usgovcloudapi.net",
            "azure://walsafe1/wal?endpoint=https://walsafe1.blob.core.usgovcloudapi.net",
            Same,
        ),
        (
            "azure://walsafe1/wal",
            "azure://walsafe1/wal?endpoint=https://blob.core.usgovcloudapi.net",
            Apart,
        ),
        ("azure://walsafe1/wal", "gs://wal", Apart),
        ("gs://wal/a", "s3://wal/a", Apart),
    ] {
        let [a, b] = [first, second].map(|url| url.parse::<ObjectUrl>().unwrap());
        assert_eq!(a.relation(&b), expected, "{first} {second}");
        assert_eq!(a.place() == b.place(), expected == Same, "{first} {second}");
        assert_eq!(a.lies_in(&b), matches!(expected, Same | Inside), "{first} {second}");
        assert_eq!(b.lies_in(&a), matches!(expected, Same | Outside), "{first} {second}");
    }
}
