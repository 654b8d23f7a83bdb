//! What a sandbox forbids cannot be allowed again, so each test runs itself anew in a child process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use super::*;

/// In the child: the folder that it tries to change.
const FOLDER: &str = "CROSSVAL_TEST_SANDBOX";

/// Runs the test of that name in a child process.
fn again(test: &str, folder: &Path) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg(format!(
            "{}::{test}",
            module_path!().split_once("::").unwrap().1
        ))
        .env(FOLDER, folder)
        .output()
        .unwrap()
}

/// In the parent: has the child run `test`, and sees that it did and that the folder is as it was.
fn in_child(test: &str) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model"), "weights").unwrap();
    let output = again(test, folder.path());
    let said = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    eprint!("{log}");
    assert!(output.status.success(), "{}: {said}{log}", output.status);
    assert!(said.contains("1 passed"), "{said}");
    let files: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(files, ["model"]);
    let model = folder.path().join("model");
    assert_eq!(fs::read_to_string(model).unwrap(), "weights");
}

/// The folder, in the child.
fn folder() -> Option<std::path::PathBuf> {
    std::env::var_os(FOLDER).map(Into::into)
}

fn checked(result: impl Into<i64>) -> io::Result<()> {
    match result.into() {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[track_caller]
fn refused<T>(what: &str, result: io::Result<T>) {
    let Err(e) = result else {
        panic!("{what}: allowed");
    };
    let code = e.raw_os_error();
    assert!(
        matches!(code, Some(libc::EPERM | libc::EACCES)),
        "{what}: {e}"
    );
}

/// What both layers forbid.
fn changes_nothing(folder: &Path) {
    let model = folder.join("model");
    refused("make a file", File::create(folder.join("new")));
    let open = |options: &mut OpenOptions| options.open(&model);
    refused("write", open(OpenOptions::new().write(true)));
    refused("append", open(OpenOptions::new().append(true)));
    refused(
        "read and write",
        open(OpenOptions::new().read(true).write(true)),
    );
    refused("make a folder", fs::create_dir(folder.join("new")));
    refused("rename", fs::rename(&model, folder.join("new")));
    refused("link", fs::hard_link(&model, folder.join("new")));
    refused("remove", fs::remove_file(&model));
    refused("start a program", Command::new("/bin/true").status());
}

/// What a worker does.
fn works(folder: &Path) {
    assert_eq!(fs::read_to_string(folder.join("model")).unwrap(), "weights");
    let mut status = String::new();
    File::open("/proc/thread-self/status")
        .and_then(|mut f| f.read_to_string(&mut status))
        .unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
    let file = File::open(folder.join("model")).unwrap();
    // SAFETY: nobody changes the file while it is mapped.
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    assert_eq!(&map[..], b"weights");
    io::stdout().write_all(b"pipes stay open\n").unwrap();
}

#[test]
fn landlock_alone() {
    let Some(folder) = folder() else {
        return in_child("landlock_alone");
    };
    let fact = landlock::enter();
    let Some(abi) = fact.strip_prefix("Landlock ABI ") else {
        eprintln!("SKIPPED: {fact}");
        return;
    };
    let abi: u32 = abi.split(',').next().unwrap().parse().unwrap();
    works(&folder);
    changes_nothing(&folder);
    if abi >= 4 {
        refused("connect", TcpStream::connect("127.0.0.1:9"));
        refused("listen", TcpListener::bind("127.0.0.1:0"));
    }
    if abi >= 6 {
        // SAFETY: signal 0 only asks whether one could be sent.
        let sent = unsafe { libc::kill(libc::getppid(), 0) };
        refused("signal the parent", checked(sent));
    }
}

#[test]
fn seccomp_alone() {
    let Some(folder) = folder() else {
        return in_child("seccomp_alone");
    };
    let model = File::open(folder.join("model")).unwrap();
    let fact = seccomp::enter();
    if fact != "seccomp" {
        eprintln!("SKIPPED: {fact}");
        return;
    }
    works(&folder);
    changes_nothing(&folder);
    refused("connect", TcpStream::connect("127.0.0.1:9"));
    refused("listen", TcpListener::bind("127.0.0.1:0"));
    refused("UDP", UdpSocket::bind("127.0.0.1:0"));
    refused("local sockets", UnixStream::pair());
    let writable = fs::Permissions::from_mode(0o777);
    refused(
        "chmod",
        fs::set_permissions(folder.join("model"), writable.clone()),
    );
    refused(
        "chmod of a file that is open",
        model.set_permissions(writable),
    );
    refused(
        "set a time",
        model.set_modified(std::time::SystemTime::UNIX_EPOCH),
    );
    // SAFETY: plain numbers and null pointers, which the kernel checks. None of these calls may succeed; the child of a
    // fork, if there were one, would only fail the test a second time.
    unsafe {
        let parent = libc::getppid();
        refused("fork", checked(libc::fork()));
        refused("signal the parent", checked(libc::kill(parent, 0)));
        refused("ptrace", checked(libc::ptrace(libc::PTRACE_TRACEME)));
        let (cpu, none) = (libc::RLIMIT_CPU, std::ptr::null_mut());
        let limited = libc::prlimit(parent, cpu, none, none);
        refused("limit the parent", checked(limited));
        let outlives = libc::prctl(libc::PR_SET_PDEATHSIG, 0);
        refused("outlive the parent", checked(outlives));
        refused("leave the group", checked(libc::setpgid(0, 0)));
        let typed = libc::ioctl(0, libc::TIOCSTI, c"x".as_ptr());
        refused("type for the user", checked(typed));
        refused("namespaces", checked(libc::unshare(libc::CLONE_NEWUSER)));
        for call in [
            libc::SYS_io_uring_setup,
            libc::SYS_perf_event_open,
            libc::SYS_bpf,
        ] {
            refused("a rare call", checked(libc::syscall(call, 0, 0, 0, 0, 0)));
        }
        missing("clone3", libc::syscall(libc::SYS_clone3, 0, 0));
        #[cfg(target_arch = "x86_64")]
        missing(
            "getpid by its number in x32",
            libc::syscall(libc::SYS_getpid | 0x4000_0000),
        );
        let this = std::process::id() as libc::pid_t;
        checked(libc::kill(this, 0)).expect("itself it may signal");
    }
}

#[track_caller]
fn missing(what: &str, result: libc::c_long) {
    let error = checked(result).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSYS), "{what}");
}

#[test]
fn both_layers() {
    let Some(folder) = folder() else {
        return in_child("both_layers");
    };
    eprintln!("{}", enter());
    works(&folder);
    changes_nothing(&folder);
}

/// The driver reports the signal, so an engine that aborts must still end by it.
#[test]
fn abort_is_still_an_abort() {
    if folder().is_some() {
        enter();
        std::process::abort();
    }
    let folder = tempfile::tempdir().unwrap();
    let output = again("abort_is_still_an_abort", folder.path());
    assert_eq!(output.status.signal(), Some(libc::SIGABRT));
}
