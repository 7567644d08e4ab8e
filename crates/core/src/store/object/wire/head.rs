//! What of a request and of an answer comes before its body.

use std::io;
use std::time::{Duration, Instant};

use http::Response;
use ureq_proto::client::state::{Prepare, RecvResponse};
use ureq_proto::client::{Call, SendRequestResult};

use super::line::Line;
use super::{Failure, unmade};
use crate::sys::slice::part;

/// Writes the head of a request. `before` is what stands before its path where a proxy is to forward it.
pub(super) fn write_head(
    call: Call<Prepare>,
    before: Option<&str>,
) -> Result<(Vec<u8>, SendRequestResult), Failure> {
    // Holds the longest line of it.
    let mut some = vec![0; Line::BUFFER];
    let mut call = call.proceed();
    let mut text = Vec::new();
    while !call.can_proceed() {
        let written = call.write(&mut some).map_err(unmade)?;
        text.extend_from_slice(part(&some, ..written));
    }
    if let Some(before) = before {
        let path = call.method().as_str().len() + 1;
        text.splice(path..path, before.bytes());
    }
    let next = call.proceed().map_err(unmade)?;
    Ok((text, next.ok_or_else(|| unmade("its head has no end"))?))
}

/// Reads the head of an answer. It has to come whole while nothing may move: one that comes a byte at a time
/// is not waited for longer. What has been `waited` for already is there or does not come.
pub(super) fn read_head(
    line: &mut Line,
    call: &mut Call<RecvResponse>,
    waited: bool,
) -> Result<Response<()>, Failure> {
    let begun = Instant::now();
    let patience = if waited { Duration::ZERO } else { line.patience() };
    let response = loop {
        match call.try_response(line.received(), false) {
            Ok((len, Some(response))) => {
                line.use_up(len);
                break response;
            }
            // "100 Continue" and its like come before the answer.
            Ok((len, None)) if len > 0 => line.use_up(len),
            Ok((_, None)) => {
                let left = patience.saturating_sub(begun.elapsed());
                let got = line.wait_at_most(left).and_then(|()| line.receive());
                let cut =
                    |source| Failure::Cut { host: line.host.clone(), source, reused: line.reused };
                match got {
                    Ok(0) if line.received().len() >= Line::BUFFER => {
                        return Err(garbled(line, "its headers are too long"));
                    }
                    Ok(0) => return Err(cut(io::Error::from_raw_os_error(libc::ECONNRESET))),
                    Ok(_) => {}
                    Err(source) => return Err(cut(source)),
                }
            }
            Err(_) => return Err(garbled(line, "it is not HTTP")),
        }
    };
    line.wait_as_usual().map_err(|source| Failure::Cut {
        host: line.host.clone(),
        source,
        reused: false,
    })?;
    Ok(response)
}

fn garbled(line: &Line, what: &'static str) -> Failure {
    Failure::Garbled { host: line.host.clone(), what }
}
