//! A server of object storage for the benchmark and the demo: `walsafe-object-server KIND MILLISECONDS`. Prints
//! where it is and how it is spoken to, as JSON on one line. Then it answers lines on standard input, each by a
//! line of JSON, and ends with its standard input:
//!
//! - `names PREFIX`: the keys that begin so;
//! - `requests`: how many of each kind have come by `http` since this was asked last. A GET that lists counts as
//!   `LIST`.

use std::collections::BTreeMap;
use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::time::Duration;

use harness::object::{Kind, Latency, ObjectServer, Proxy, Seen};
use serde_json::{Value, json};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, latency] = &arguments[..] else { panic!("usage: walsafe-object-server KIND MS") };
    let kind = match kind.as_str() {
        "ceph" => Kind::Ceph,
        "seaweedfs" => Kind::SeaweedFs,
        other => panic!("no server is called {other}"),
    };
    // There and back.
    let each_way = Duration::from_millis(latency.parse().expect("milliseconds")) / 2;
    let server = ObjectServer::start(kind);
    let bucket = server.bucket();
    let (https, ca) = server.https();
    let network = (!each_way.is_zero()).then(|| Latency::in_front_of(https, each_way));
    let counting = Proxy::in_front_of(server.address());
    println!(
        "{}",
        json!({
            // By https: through the network, and past it.
            "far": network.as_ref().map_or_else(|| place(https), |network| place(network.address())),
            "near": place(https),
            "ca": ca,
            "http": counting.address().to_string(),
            "bucket": bucket.name,
            "region": server.keys().region,
            "access": server.keys().access,
            "secret": server.keys().secret,
        })
    );
    let mut told = 0;
    for line in io::stdin().lock().lines() {
        let line = line.expect("text");
        let answer = match line.split_once(' ') {
            Some(("names", prefix)) => json!(bucket.names(prefix)),
            None if line == "requests" => {
                let seen = counting.seen();
                let new = count(seen.get(told..).unwrap_or_default());
                told = seen.len();
                json!(new)
            }
            _ => panic!("neither names nor requests: {line}"),
        };
        println!("{answer}");
    }
}

/// A host as the certificate has it, and the port.
fn place(address: SocketAddr) -> Value {
    let ip = address.ip().to_string();
    json!({"host": if ip == "127.0.0.1" { "localhost".to_owned() } else { ip }, "port": address.port()})
}

fn count(seen: &[Seen]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for request in seen {
        let lists = request.method == "GET" && request.target.contains("prefix=");
        *counts.entry(if lists { "LIST" } else { request.method.as_str() }).or_default() += 1;
    }
    counts
}
