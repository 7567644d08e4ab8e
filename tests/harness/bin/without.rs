//! Runs a command on a kernel where system calls fail:
//! `walsafe-without O_TMPFILE=EOPNOTSUPP renameat2=EINVAL -- postgres -D ...`

use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    for argument in arguments.by_ref() {
        if argument == "--" {
            break;
        }
        let text = argument.to_str().unwrap_or_default();
        let Some((call, errno)) = text.split_once('=') else {
            panic!("expected CALL=ERRNO, not {text}");
        };
        if call == "umask" {
            rustix::process::umask(rustix::fs::Mode::empty());
        }
        // A filter has one errno, so each call gets a filter of its own.
        apply_filter(&filter(call, errno_number(errno))).expect("a seccomp filter");
        if call == "O_TMPFILE" {
            // Its flags are behind a pointer, where a filter cannot look: as on kernels before 5.6.
            apply_filter(&filter("openat2", errno_number("ENOSYS"))).expect("a seccomp filter");
        }
    }
    let program = arguments.next().expect("a command after --");
    let error = Command::new(&program).args(arguments).exec();
    panic!("could not run {}: {error}", program.display());
}

fn filter(call: &str, errno: u32) -> BpfProgram {
    let rules: Vec<(libc::c_long, Vec<SeccompRule>)> = match call {
        "O_TMPFILE" => {
            let mut rules = vec![(libc::SYS_openat, vec![has_tmpfile_flag(2)])];
            #[cfg(target_arch = "x86_64")]
            rules.push((libc::SYS_open, vec![has_tmpfile_flag(1)]));
            rules
        }
        "openat2" => vec![(libc::SYS_openat2, Vec::new())],
        "renameat2" => vec![(libc::SYS_renameat2, Vec::new())],
        "linkat" => vec![(libc::SYS_linkat, Vec::new())],
        "setxattr" => vec![(libc::SYS_setxattr, Vec::new())],
        "fsetxattr" => vec![(libc::SYS_fsetxattr, Vec::new())],
        "fsync" => vec![(libc::SYS_fsync, Vec::new())],
        "fallocate" => vec![(libc::SYS_fallocate, Vec::new())],
        "umask" => vec![(libc::SYS_umask, Vec::new())],
        "statx" => vec![(libc::SYS_statx, Vec::new())],
        "io_uring_setup" => vec![(libc::SYS_io_uring_setup, Vec::new())],
        _ => panic!("this program does not know the system call {call}"),
    };
    SeccompFilter::new(
        rules.into_iter().collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno),
        TargetArch::try_from(std::env::consts::ARCH).expect("a known architecture"),
    )
    .and_then(BpfProgram::try_from)
    .expect("a filter")
}

/// Whether the flags in this argument hold the bit that O_TMPFILE has beside O_DIRECTORY.
fn has_tmpfile_flag(argument: u8) -> SeccompRule {
    let bit = u64::from((libc::O_TMPFILE & !libc::O_DIRECTORY).cast_unsigned());
    let condition =
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bit), bit);
    SeccompRule::new(vec![condition.expect("a condition")]).expect("a rule")
}

fn errno_number(name: &str) -> u32 {
    let number = match name {
        "EPERM" => libc::EPERM,
        "EIO" => libc::EIO,
        "EINVAL" => libc::EINVAL,
        "ENOSYS" => libc::ENOSYS,
        "EOPNOTSUPP" | "ENOTSUP" => libc::EOPNOTSUPP,
        "ENOSPC" => libc::ENOSPC,
        "EDQUOT" => libc::EDQUOT,
        "EROFS" => libc::EROFS,
        _ => panic!("this program does not know the error {name}"),
    };
    number.cast_unsigned()
}
