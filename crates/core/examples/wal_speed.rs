//! How fast segments in memory are checked: `wal_speed SEGMENT...`, in the order of their names.
//!
//! Each file is read into memory and checked ten times on one core; the best time counts, since
//! anything else on the machine only adds to it. Prints one line a file, and the worst at the end.

use std::path::Path;
use std::time::{Duration, Instant};

use walsafe_core::wal::{Lsn, SegmentSize, SegmentSpec, Tail, check_segment};

fn spec(path: &Path, bytes: u64) -> Option<SegmentSpec> {
    let name = path.file_name()?.to_str()?;
    let part = |from: usize| u32::from_str_radix(name.get(from..from + 8)?, 16).ok();
    let segment_size = SegmentSize::new(bytes).ok()?;
    Some(SegmentSpec {
        timeline: part(0)?,
        start: Lsn::of_segment(part(8)?, part(16)?, segment_size)?,
        segment_size,
        system_identifier: None,
    })
}

fn main() -> std::io::Result<()> {
    let mut carry: Option<Tail> = None;
    let mut worst = Duration::ZERO;
    for path in std::env::args().skip(1) {
        let bytes = std::fs::read(&path)?;
        let Some(spec) = spec(path.as_ref(), bytes.len() as u64) else {
            println!("{path}: not a segment");
            continue;
        };
        let mut best = Duration::MAX;
        for _ in 0..10 {
            let begun = Instant::now();
            std::hint::black_box(check_segment(spec, &bytes, carry.clone()));
            best = best.min(begun.elapsed());
        }
        let report = check_segment(spec, &bytes, carry.take());
        println!(
            "{path}: {:.2} ms, {} records, {:?}, {} damaged",
            best.as_secs_f64() * 1e3,
            report.records,
            report.end,
            report.damage_count
        );
        for damage in &report.damage {
            println!("  {damage}");
        }
        carry = report.tail;
        worst = worst.max(best);
    }
    println!("worst: {:.2} ms", worst.as_secs_f64() * 1e3);
    Ok(())
}
