//! A bucket as the tests see it: requests of their own, independent of the client under test, and with nothing
//! tried again.

use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::SystemTime;

use super::http::{self, Answer, elements};
use super::server::ObjectServer;
use super::sign::{Keys, Request, UNSIGNED, authorization, encode, timestamp};
use super::{azure, google};

/// A bucket of a server, and whose rights to use.
#[derive(Debug, Clone)]
pub struct Bucket {
    pub address: SocketAddr,
    pub keys: Keys,
    pub name: String,
    /// What its server speaks.
    pub language: Language,
    /// Which runs as long as somebody has a bucket of it.
    _server: Option<Arc<ObjectServer>>,
}

/// How requests look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Language {
    S3,
    /// Azure Blob Storage's: keys are an account's name and its key.
    Azure,
    /// Google Cloud Storage's: the secret is a token.
    Google {
        /// What stands in a section of a file of credentials.
        credentials: String,
    },
}

impl Bucket {
    /// One that is there, or that [`create`](Self::create) makes.
    pub(super) fn new(
        address: SocketAddr,
        keys: &Keys,
        name: &str,
        server: Option<Arc<ObjectServer>>,
    ) -> Self {
        let (keys, language) = (keys.clone(), Language::S3);
        Self { address, keys, name: name.to_owned(), language, _server: server }
    }

    /// The same by another language.
    #[must_use]
    pub(super) fn speaking(self, language: Language) -> Self {
        Self { language, ..self }
    }

    /// An archive in it, as a setting or a command wants it.
    #[must_use]
    pub fn url(&self, prefix: &str) -> String {
        let (name, address, region) = (&self.name, self.address, &self.keys.region);
        match self.language {
            Language::S3 => {
                format!("s3://{name}/{prefix}?endpoint=http://{address}&region={region}&style=path")
            }
            Language::Azure => {
                let account = &self.keys.access;
                format!("azure://{account}/{name}/{prefix}?endpoint=http://{address}")
            }
            Language::Google { .. } => format!("gs://{name}/{prefix}?endpoint=http://{address}"),
        }
    }

    /// What a file of credentials says about the bucket.
    #[must_use]
    pub fn credentials(&self) -> String {
        let (name, Keys { access, secret, .. }) = (&self.name, &self.keys);
        match &self.language {
            Language::S3 => format!(
                "[s3://{name}]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"
            ),
            Language::Azure => {
                format!("[azure://{access}/{name}]\nazure_storage_key = {secret}\n")
            }
            Language::Google { credentials } => format!("[gs://{name}]\n{credentials}"),
        }
    }

    pub(super) fn is_google(&self) -> bool {
        matches!(self.language, Language::Google { .. })
    }

    fn is_azure(&self) -> bool {
        self.language == Language::Azure
    }

    /// The same bucket through something in front of the server.
    #[must_use]
    pub fn through(&self, address: SocketAddr) -> Self {
        Self { address, ..self.clone() }
    }

    /// The same bucket with another user's keys.
    #[must_use]
    pub fn with(&self, keys: Keys) -> Self {
        Self { keys, ..self.clone() }
    }

    /// The head of a signed request, for one that is sent piece by piece.
    #[must_use]
    pub fn head(
        &self,
        method: &str,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        length: usize,
    ) -> String {
        if self.is_google() {
            assert_eq!(query, [], "a query of S3's");
            return google::head(self, method, key, headers, length);
        }
        if self.is_azure() {
            return azure::head(self, method, key, query, headers, length);
        }
        let path = encode(&format!("/{}/{key}", self.name), b"/");
        // The bucket itself has no slash at its end.
        let path = if key.is_empty() { path.trim_end_matches('/') } else { &path };
        let mut query: Vec<String> = query
            .iter()
            .map(|(name, value)| format!("{}={}", encode(name, b""), encode(value, b"")))
            .collect();
        query.sort();
        let query = query.join("&");
        let time = timestamp(SystemTime::now());
        let mut signed = vec![
            ("host".to_owned(), self.address.to_string()),
            ("x-amz-content-sha256".to_owned(), UNSIGNED.to_owned()),
            ("x-amz-date".to_owned(), time.clone()),
        ];
        for (name, value) in headers {
            signed.push((name.to_ascii_lowercase(), (*value).to_owned()));
        }
        let request = Request {
            method,
            path,
            query: &query,
            headers: &signed,
            body_hash: UNSIGNED,
            time: &time,
        };
        let authorization = authorization(&self.keys, &request);
        let lines: String =
            signed.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let question = if query.is_empty() { "" } else { "?" };
        format!(
            "{method} {path}{question}{query} HTTP/1.1\r\n{lines}authorization: {authorization}\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n"
        )
    }

    /// Sends a request and reads the answer, whatever it is.
    ///
    /// # Errors
    /// The connection broke.
    pub fn request(
        &self,
        method: &str,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let head = self.head(method, key, query, headers, body.len());
        http::exchange(self.address, method, &head, body)
    }

    #[track_caller]
    pub(super) fn must(&self, answer: io::Result<Answer>, what: &str) -> Answer {
        match answer {
            Ok(answer) if (200..300).contains(&answer.status) => answer,
            other => panic!("could not {what} in {}: {other:?}", self.name),
        }
    }

    /// Makes the bucket. One that is there already, of the same user, is no failure.
    #[track_caller]
    pub fn create(&self) {
        if self.is_google() {
            self.must(google::create(self), "make the bucket");
            return;
        }
        if self.is_azure() {
            self.must(azure::create(self), "make the container");
            return;
        }
        let answer = self.request("PUT", "", &[], &[], b"");
        if !answer.as_ref().is_ok_and(|answer| answer.code() == "BucketAlreadyOwnedByYou") {
            self.must(answer, "make the bucket");
        }
    }

    /// Switches versioning on.
    #[track_caller]
    pub fn keep_versions(&self) {
        let body = b"<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
            <Status>Enabled</Status></VersioningConfiguration>";
        let answer = self.request("PUT", "", &[("versioning", "")], &[], body);
        self.must(answer, "keep versions");
    }

    /// Lets another user do just these things, such as `s3:GetObject`, as a policy says it. `who` is a user of
    /// Ceph.
    #[track_caller]
    pub fn allow(&self, who: &str, actions: &[&str]) {
        let actions: Vec<String> = actions.iter().map(|action| format!("{action:?}")).collect();
        let body = format!(
            r#"{{"Version": "2012-10-17", "Statement": [{{"Effect": "Allow",
                "Principal": {{"AWS": ["arn:aws:iam:::user/{who}"]}}, "Action": [{}],
                "Resource": ["arn:aws:s3:::{name}", "arn:aws:s3:::{name}/*"]}}]}}"#,
            actions.join(", "),
            name = self.name
        );
        let answer = self.request("PUT", "", &[("policy", "")], &[], body.as_bytes());
        self.must(answer, "set the policy");
    }

    /// The method of the request that stores an object, and what a proxy finds in its target.
    #[must_use]
    pub fn upload_of(&self, key: &str) -> (&'static str, String) {
        match self.language {
            Language::S3 | Language::Azure => ("PUT", format!("/{key}")),
            Language::Google { .. } => ("POST", format!("name={}", encode(key, b""))),
        }
    }

    /// The status of the answer to such a request that was done.
    #[must_use]
    pub fn good(&self) -> u16 {
        if self.is_azure() { 201 } else { 200 }
    }

    /// The status and the code of the answer to such a request where the name is taken.
    #[must_use]
    pub fn taken(&self) -> (u16, &'static str) {
        match self.language {
            Language::S3 => (412, "PreconditionFailed"),
            Language::Azure => (409, "BlobAlreadyExists"),
            Language::Google { .. } => (412, "conditionNotMet"),
        }
    }

    /// What a request that stores carries beside its contents.
    fn of_put(&self, new: bool) -> Vec<(&'static str, &'static str)> {
        match self.language {
            Language::Azure => azure::of_put(new),
            _ if new => vec![("if-none-match", "*")],
            _ => Vec::new(),
        }
    }

    /// Stores an object, over one that is there.
    #[track_caller]
    pub fn put(&self, key: &str, body: &[u8]) {
        if self.is_google() {
            self.must(google::put(self, key, body, false), &format!("put {key}"));
            return;
        }
        self.must(self.request("PUT", key, &[], &self.of_put(false), body), &format!("put {key}"));
    }

    /// Stores an object unless one is there: the conditional PUT.
    ///
    /// # Errors
    /// The connection broke.
    pub fn put_new(&self, key: &str, body: &[u8]) -> io::Result<Answer> {
        if self.is_google() {
            return google::put(self, key, body, true);
        }
        self.request("PUT", key, &[], &self.of_put(true), body)
    }

    /// An object; `None` only if the server says that there is none.
    #[must_use]
    #[track_caller]
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        match self.request("GET", key, &[], &[], b"") {
            Ok(answer) if answer.status == 200 => Some(answer.body),
            Ok(answer)
                if answer.status == 404
                    && ["NoSuchKey", "BlobNotFound"].contains(&&*answer.code()) =>
            {
                None
            }
            other => panic!("could not get {key} in {}: {other:?}", self.name),
        }
    }

    /// An object's headers, which hold its metadata.
    #[must_use]
    #[track_caller]
    pub fn metadata(&self, key: &str) -> Answer {
        self.must(self.request("HEAD", key, &[], &[], b""), &format!("look at {key}"))
    }

    /// Removes an object. One that is not there is no failure.
    #[track_caller]
    pub fn delete(&self, key: &str) {
        let answer = self.request("DELETE", key, &[], &[], b"");
        if !answer.as_ref().is_ok_and(|answer| answer.code() == "BlobNotFound") {
            self.must(answer, &format!("delete {key}"));
        }
    }

    /// The keys that begin with this, sorted.
    #[must_use]
    #[track_caller]
    pub fn names(&self, prefix: &str) -> Vec<String> {
        if self.is_google() {
            return google::names(self, prefix);
        }
        if self.is_azure() {
            return azure::names(self, prefix);
        }
        let mut names = Vec::new();
        let mut next: Option<String> = None;
        loop {
            // Short pages, so that the next one is asked for in each test of many.
            let mut query = vec![("list-type", "2"), ("max-keys", "100"), ("prefix", prefix)];
            if let Some(token) = &next {
                query.push(("continuation-token", token));
            }
            let answer = self.must(self.request("GET", "", &query, &[], b""), "list");
            let page = String::from_utf8_lossy(&answer.body).into_owned();
            names.extend(elements(&page, "Key"));
            if elements(&page, "IsTruncated").first().is_none_or(|text| text != "true") {
                break;
            }
            next = elements(&page, "NextContinuationToken").pop();
            assert!(next.is_some(), "a page without the next one's token: {page}");
        }
        names.sort();
        names
    }

    /// As many conditional PUTs of different bodies to one key as there are bodies, whose last bytes are sent
    /// at the same moment. Returns the answers in the bodies' order.
    ///
    /// # Errors
    /// A connection broke.
    pub fn race(&self, key: &str, bodies: &[Vec<u8>]) -> io::Result<Vec<Answer>> {
        let start = Barrier::new(bodies.len());
        let put = |body: &Vec<u8>| {
            let (head, body) = if self.is_google() {
                google::upload(self, key, body, true)
            } else {
                (self.head("PUT", key, &[], &self.of_put(true), body.len()), body.clone())
            };
            let (body, end) = body.split_at(body.len() - 1);
            let begin = || -> io::Result<TcpStream> {
                let mut stream = http::connect(self.address)?;
                stream.write_all(head.as_bytes())?;
                stream.write_all(body)?;
                Ok(stream)
            };
            let begun = begin();
            // Also with a connection that failed, or the others would wait for ever.
            start.wait();
            let mut stream = begun?;
            stream.write_all(end)?;
            Answer::read(&mut BufReader::new(&stream), "PUT")
        };
        thread::scope(|scope| {
            let racers: Vec<_> = bodies.iter().map(|body| scope.spawn(|| put(body))).collect();
            racers.into_iter().map(|racer| racer.join().expect("no panic in it")).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_named_as_settings_and_requests_want_it() {
        let keys = Keys {
            access: "ACCESS".to_owned(),
            secret: "se/cr+et".to_owned(),
            region: "us-east-1".to_owned(),
        };
        let bucket = Bucket::new(([127, 0, 0, 1], 9000).into(), &keys, "wal", None);
        let options = "endpoint=http://127.0.0.1:9000&region=us-east-1&style=path";
        assert_eq!(bucket.url("a/b"), format!("s3://wal/a/b?{options}"));
        let file = "[s3://wal]\naws_access_key_id = ACCESS\naws_secret_access_key = se/cr+et\n";
        assert_eq!(bucket.credentials(), file);
        let head = bucket.head("GET", "", &[("prefix", "a b"), ("list-type", "2")], &[], 0);
        assert!(head.starts_with("GET /wal?list-type=2&prefix=a%20b HTTP/1.1\r\n"), "{head}");
        let head = bucket.head("PUT", "a/b c", &[], &[("If-None-Match", "*")], 7);
        assert!(head.starts_with("PUT /wal/a/b%20c HTTP/1.1\r\nhost: 127.0.0.1:9000\r\n"));
        assert!(head.contains("\r\nif-none-match: *\r\n"), "{head}");
        assert!(!head.contains("cr+et"), "{head}");
    }
}
