//! The filter over system calls: what a worker never asks for is refused with EPERM, everything else allowed.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, sock_filter,
};

/// Refused with any arguments.
const REFUSED: &[i64] = &[
    // Network.
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    // Other programs and processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_kcmp,
    libc::SYS_tkill,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    // It ends with its group.
    libc::SYS_setpgid,
    libc::SYS_setsid,
    // Files: made, renamed, removed, changed. `openat2` and io_uring hide their flags from a filter.
    libc::SYS_openat2,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_truncate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_memfd_create,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_unshare,
    libc::SYS_setns,
    // Memory and messages shared by name.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_semget,
    libc::SYS_msgget,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    // The kernel's rarer doors, and what is root's.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_fanotify_init,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_personality,
];

/// Calls that newer architectures do without.
#[cfg(target_arch = "x86_64")]
const REFUSED_OLD: &[i64] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_creat,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_mknod,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_unlink,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
];
/// `renameat`, `kexec_file_load`: not in libc's tables for 64-bit Arm.
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_OLD: &[i64] = &[38, 294];

/// Newer than libc's tables, and of one number on all architectures: `fchmodat2`, `setxattrat`, `removexattrat`,
/// `open_tree_attr`, `file_setattr`.
const REFUSED_NEW: &[i64] = &[452, 463, 466, 467, 469];

/// Flags of `open` with which a file is written or made. O_TMPFILE needs one of the first two.
const WRITES: [i32; 4] = [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC];

/// What the standard libraries ask of descriptors; the rest of `ioctl` changes files, terminals and devices.
const IOCTLS: [u64; 4] = [libc::FIOCLEX, libc::FIONREAD, libc::FIONBIO, libc::TCGETS];

/// The bit that on x86-64 marks the system calls of x32, under which each would have a second number.
const X32: u32 = 0x4000_0000;

/// Puts the filter over every thread of this process; says so, or why not.
pub(super) fn enter() -> String {
    match program()
        .map_err(|e| e.to_string())
        .and_then(|program| install(&program).map_err(|e| e.to_string()))
    {
        Ok(()) => "seccomp".to_owned(),
        Err(e) => format!("no seccomp: {e}"),
    }
}

fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let all = [REFUSED, REFUSED_OLD, REFUSED_NEW].concat();
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = all.into_iter().map(|n| (n, vec![])).collect();
    let condition =
        |argument, op, value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value);
    let when = |conditions: Vec<SeccompCondition>| SeccompRule::new(conditions);

    let writing = |argument| -> Result<Vec<SeccompRule>, _> {
        let flags = WRITES.map(|flag| flag as u64);
        flags
            .into_iter()
            .map(|flag| when(vec![condition(argument, MaskedEq(flag), flag)?]))
            .collect()
    };
    rules.insert(libc::SYS_openat, writing(2)?);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, writing(1)?);

    // Threads, but no processes.
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(
        libc::SYS_clone,
        vec![when(vec![condition(0, MaskedEq(thread), 0)?])?],
    );

    // Signals to itself only, which `abort` needs; limits of itself only.
    let this = u64::from(std::process::id());
    for n in [
        libc::SYS_kill,
        libc::SYS_tgkill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
    ] {
        rules.insert(n, vec![when(vec![condition(0, Ne, this)?])?]);
    }
    rules.insert(
        libc::SYS_prlimit64,
        vec![when(vec![condition(0, Ne, 0)?, condition(0, Ne, this)?])?],
    );
    // It ends with its driver.
    let dies_with_driver = libc::PR_SET_PDEATHSIG as u64;
    rules.insert(
        libc::SYS_prctl,
        vec![when(vec![condition(0, Eq, dies_with_driver)?])?],
    );

    let unknown = IOCTLS.into_iter().map(|request| condition(1, Ne, request));
    rules.insert(
        libc::SYS_ioctl,
        vec![when(unknown.collect::<Result<_, _>>()?)?],
    );

    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    let mut program = before();
    program.extend(BpfProgram::try_from(filter)?);
    Ok(program)
}

/// What the filter's rules cannot say: calls that are to look as if the kernel did not have them. These are the calls of
/// x32, and `clone3`, whose flags lie in memory: without it, the C library makes threads by `clone`.
fn before() -> BpfProgram {
    let statement = |code: u32, k: u32| sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    // Where the comparison holds, on to the next instruction; else over it.
    let unless = |code: u32, k: u32| sock_filter {
        code: code as u16,
        jt: 0,
        jf: 1,
        k,
    };
    let missing = || {
        statement(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
        )
    };
    vec![
        // The number is the first field of `seccomp_data`.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        unless(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, X32),
        missing(),
        unless(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            libc::SYS_clone3 as u32,
        ),
        missing(),
    ]
}

/// As [`seccompiler::apply_filter_all_threads`], but leaves speculation on: before Linux 5.16 a filter turned it off by
/// default, and the engines would be timed without.
fn install(program: &[sock_filter]) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        len: libc::c_ushort,
        filter: *const sock_filter,
    }
    let len = program.len().try_into().map_err(io::Error::other)?;
    let program = Program {
        len,
        filter: program.as_ptr(),
    };
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: both calls take plain numbers but for `program`, which is laid out as the kernel's `sock_fprog` and points
    // to as many instructions as it says; the kernel copies them before it returns.
    let refused = unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    match refused {
        0 => Ok(()),
        ..0 => Err(io::Error::last_os_error()),
        thread => Err(io::Error::other(format!(
            "thread {thread} has a filter of its own"
        ))),
    }
}
