//! A server of object storage for the benchmark: `walsafe-object-server KIND MILLISECONDS`. Prints where it is and
//! how it is spoken to, as JSON on one line. A line on standard input is the beginning of keys; those that begin so
//! are the answer. It ends with its standard input.

use std::io::{self, BufRead};
use std::time::Duration;

use harness::object::{Kind, Latency, ObjectServer};
use serde_json::json;

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
    let address = network.as_ref().map_or(https, Latency::address);
    println!(
        "{}",
        json!({
            // As the certificate has it.
            "host": if network.is_some() { "localhost".to_owned() } else { address.ip().to_string() },
            "port": address.port(),
            "ca": ca,
            "bucket": bucket.name,
            "region": server.keys().region,
            "access": server.keys().access,
            "secret": server.keys().secret,
        })
    );
    for line in io::stdin().lock().lines() {
        let prefix = line.expect("text");
        println!("{}", json!(bucket.names(&prefix)));
    }
}
