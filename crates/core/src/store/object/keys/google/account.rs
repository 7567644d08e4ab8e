//! What Google's own files of credentials say: JSON, as `gcloud` and the console write it.

use std::fmt;

use serde_json::Value;

/// Who asks for tokens, and how.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Account {
    /// The key of a service account signs what is exchanged for a token.
    Service { email: String, key: String, key_id: Option<String>, token_uri: String },
    /// A user, who has allowed it once.
    User { client_id: String, client_secret: String, refresh_token: String },
    /// Workload identity federation: a token of somebody else's is exchanged for one of Google's.
    External {
        audience: String,
        subject_token_type: String,
        token_url: String,
        subject: Subject,
        /// Where that one is exchanged for one of a service account's.
        impersonation_url: Option<String>,
    },
}

/// Where somebody else's token comes from.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) from: From,
    /// The field of a JSON document that it stands in; `None` if it stands alone.
    pub(super) field: Option<String>,
}

/// The file or the server that gives somebody else's token.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum From {
    File(String),
    Server { url: String, headers: Vec<(String, String)> },
}

impl fmt::Debug for Account {
    /// Without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service { .. } => "Service",
            Self::User { .. } => "User",
            Self::External { .. } => "External",
        })
    }
}

impl Account {
    /// Reads a file of credentials.
    ///
    /// # Errors
    /// It is none, or of a kind that is not taken. The reason is half a sentence, and repeats no value of the file.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let json: Value = serde_json::from_str(text).map_err(|_| "is not JSON")?;
        let of = |value: &Value, key: &str| -> Option<String> {
            value.get(key)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let text = |key: &str, lacks: &'static str| of(&json, key).ok_or(lacks);
        match json.get("type").and_then(Value::as_str) {
            Some("service_account") => Ok(Self::Service {
                email: text("client_email", "lacks client_email")?,
                key: text("private_key", "lacks private_key")?,
                key_id: of(&json, "private_key_id"),
                token_uri: text("token_uri", "lacks token_uri")?,
            }),
            Some("authorized_user") => Ok(Self::User {
                client_id: text("client_id", "lacks client_id")?,
                client_secret: text("client_secret", "lacks client_secret")?,
                refresh_token: text("refresh_token", "lacks refresh_token")?,
            }),
            Some("external_account") => Ok(Self::External {
                audience: text("audience", "lacks audience")?,
                subject_token_type: text("subject_token_type", "lacks subject_token_type")?,
                token_url: text("token_url", "lacks token_url")?,
                subject: Subject::parse(json.get("credential_source").unwrap_or(&Value::Null))?,
                impersonation_url: of(&json, "service_account_impersonation_url"),
            }),
            Some("impersonated_service_account") => {
                Err("impersonates a service account, which is taken with \"external_account\" only")
            }
            Some(_) => Err("is of a type that is not known"),
            None => Err("has no type"),
        }
    }
}

impl Subject {
    fn parse(source: &Value) -> Result<Self, &'static str> {
        let text = |key: &str| source.get(key).and_then(Value::as_str).map(str::to_owned);
        let from = match (text("file"), text("url")) {
            _ if source.get("executable").is_some() => {
                return Err("wants a program to be run, which is not done");
            }
            _ if source.get("environment_id").is_some() => {
                return Err("takes its identity from AWS, which is not done");
            }
            (Some(file), _) => From::File(file),
            (None, Some(url)) => {
                let headers = source.get("headers").and_then(Value::as_object);
                let headers = headers.into_iter().flatten();
                let headers = headers
                    .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
                From::Server { url, headers: headers.collect() }
            }
            (None, None) => return Err("does not say which file or URL gives its identity"),
        };
        let format = source.get("format");
        let kind = format.and_then(|format| format.get("type")).and_then(Value::as_str);
        let field = match kind {
            Some("json") => {
                let name = format.and_then(|format| format.get("subject_token_field_name"));
                let name = name.and_then(Value::as_str).filter(|name| !name.is_empty());
                Some(name.ok_or("lacks subject_token_field_name")?.to_owned())
            }
            Some("text") | None => None,
            Some(_) => return Err("gives its identity in a format that is not known"),
        };
        Ok(Self { from, field })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_files_of_google_are_understood() {
        let service = r#"{"type": "service_account", "project_id": "p", "private_key_id": "k1",
            "private_key": "hunter2\n", "client_email": "wal@p.iam.gserviceaccount.com",
            "token_uri": "https://oauth2.googleapis.com/token"}"#;
        let Account::Service { email, key, key_id, token_uri } = Account::parse(service).unwrap()
        else {
            unreachable!("another type")
        };
        assert_eq!(email, "wal@p.iam.gserviceaccount.com");
        assert_eq!((key.as_str(), key_id.as_deref()), ("hunter2\n", Some("k1")));
        assert_eq!(token_uri, "https://oauth2.googleapis.com/token");

        let external = |source: &str| {
            format!(
                r#"{{"type": "external_account", "audience": "//iam.googleapis.com/x",
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "token_url": "https://sts.googleapis.com/v1/token", "credential_source": {source}}}"#
            )
        };
        let file = external(
            r#"{"file": "/run/t", "format": {"type": "json", "subject_token_field_name": "f"}}"#,
        );
        let Account::External { subject, impersonation_url, .. } = Account::parse(&file).unwrap()
        else {
            unreachable!("another type")
        };
        assert!(subject == Subject { from: From::File("/run/t".into()), field: Some("f".into()) });
        assert_eq!(impersonation_url, None);
        let url =
            external(r#"{"url": "http://169.254.169.254/x", "headers": {"Metadata": "True"}}"#);
        let Account::External { subject, .. } = Account::parse(&url).unwrap() else {
            unreachable!("another type")
        };
        let headers = vec![("Metadata".to_owned(), "True".to_owned())];
        let from = From::Server { url: "http://169.254.169.254/x".into(), headers };
        assert!(subject == Subject { from, field: None });

        for (text, says) in [
            ("hunter2", "not JSON"),
            ("{}", "has no type"),
            (r#"{"type": "hunter2"}"#, "not known"),
            (r#"{"type": "service_account", "private_key": "hunter2"}"#, "lacks client_email"),
            (r#"{"type": "authorized_user", "client_id": "hunter2"}"#, "lacks client_secret"),
            (&external(r#"{"executable": {"command": "hunter2"}}"#), "a program to be run"),
            (&external(r#"{"environment_id": "aws1"}"#), "from AWS"),
            (&external("{}"), "which file or URL"),
            (&external(r#"{"file": "x", "format": {"type": "json"}}"#), "subject_token_field_name"),
        ] {
            let error = Account::parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(!format!("{:?}", Account::parse(service)).contains("hunter2"));
    }
}
