//! An authority of the tests' own, and a certificate from it.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;

use crate::command::run;
use crate::scratch::Scratch;

/// Writes `ca.pem`, and `server.pem` with `server.key` for an address, into a directory. Valid for two days.
pub(super) fn certify(dir: &Scratch, host: Ipv4Addr) {
    // Of its own, for the system's would add extensions.
    let configuration = format!(
        "[req]\ndistinguished_name = name\nprompt = no\n\
         [name]\nCN = walsafe tests\n\
         [ca]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign\n\
         subjectKeyIdentifier = hash\n\
         [server]\nbasicConstraints = critical, CA:FALSE\nextendedKeyUsage = serverAuth\n\
         subjectAltName = IP:{host}, DNS:localhost\n"
    );
    fs::write(dir.join("tls.cnf"), configuration).expect("written");
    let make = |name: &str, arguments: &[&str]| {
        run(Command::new("openssl")
            .args(["req", "-x509", "-config", "tls.cnf", "-days", "2", "-nodes"])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-extensions", name, "-out", &format!("{name}.pem")])
            .args(["-keyout", &format!("{name}.key")])
            .args(arguments)
            .current_dir(dir.path()));
    };
    make("ca", &[]);
    make("server", &["-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=an object server"]);
}
