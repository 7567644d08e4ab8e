//! A server with objects in memory that asks nobody who he is.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::object::http::{self, Answer, Head, Piece};

#[derive(Debug, Default)]
pub(super) struct Objects {
    pub(super) whole: BTreeMap<String, Vec<u8>>,
    /// Heads that came.
    pub(super) requests: usize,
    /// Bodies that ended too early.
    pub(super) cut: usize,
}

/// Knows PUT, also conditional, GET and HEAD. Answers a PUT of `/early` before its body.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    pub(super) address: SocketAddr,
    pub(super) objects: Arc<Mutex<Objects>>,
}

impl Memory {
    pub(super) fn new() -> Self {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let memory = Self { address: socket.local_addr().unwrap(), objects: Arc::default() };
        let all = memory.clone();
        thread::spawn(move || {
            for client in socket.incoming() {
                let all = all.clone();
                thread::spawn(move || drop(all.serve(&client.unwrap())));
            }
        });
        memory
    }

    fn serve(&self, mut client: &TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(client);
        while let Some(head) = Head::read(&mut reader)? {
            self.objects.lock().unwrap().requests += 1;
            if head.target() == "/early" {
                client.write_all(&Answer::error(403, "AccessDenied").bytes("PUT"))?;
            }
            if head.header("expect").is_some() {
                client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let mut body = Vec::new();
            let read = http::body(&mut reader, head.request_framing(), &mut |piece| {
                if let Piece::Data(data) = piece {
                    body.extend_from_slice(data);
                }
                Ok(())
            });
            let mut objects = self.objects.lock().unwrap();
            if let Err(error) = read {
                objects.cut += 1;
                return Err(error);
            }
            let key = head.target().to_owned();
            let there = objects.whole.get(&key).cloned();
            let answer = match (head.method(), there) {
                ("PUT", Some(_)) if head.header("if-none-match") == Some("*") => {
                    Answer::error(412, "PreconditionFailed")
                }
                ("PUT", _) => {
                    objects.whole.insert(key.clone(), body);
                    Answer::new(200)
                }
                (_, Some(body)) => Answer { body, ..Answer::new(200) },
                _ => Answer::error(404, "NoSuchKey"),
            };
            drop(objects);
            if key != "/early" {
                client.write_all(&answer.bytes(head.method()))?;
            }
        }
        Ok(())
    }

    pub(super) fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.objects.lock().unwrap().whole.get(key).cloned()
    }

    pub(super) fn requests(&self) -> usize {
        self.objects.lock().unwrap().requests
    }
}
