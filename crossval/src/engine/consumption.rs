//! What a worker's processes have used, by the operating system: nothing that a worker says of itself.

use std::fs;
use std::path::Path;

/// Folders and names that device files of accelerators start with.
const ACCELERATORS: [&str; 4] = ["/dev/nvidia", "/dev/dri/", "/dev/kfd", "/dev/accel"];

/// What processes have used so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Consumption {
    /// CPU time, user and system, of all threads and of children that have ended, seconds.
    pub(crate) cpu_seconds: f64,
    /// Largest resident sets of the processes, added up, bytes: a page that two of them share counts twice.
    pub(crate) peak_rss_bytes: u64,
    /// The smallest of those of the processes, bytes.
    pub(crate) smallest_peak_bytes: u64,
}

/// Of a process and all that descend from it; `None` where there is no /proc that says so.
pub(super) fn of_tree(root: u32) -> Option<Consumption> {
    let all = processes();
    let members = tree(&all, root);
    let peaks: Vec<u64> = members.iter().filter_map(|p| peak_bytes(p.pid)).collect();
    Some(Consumption {
        cpu_seconds: members
            .iter()
            .map(|p| cpu_seconds(p.pid))
            .sum::<Option<f64>>()?,
        peak_rss_bytes: peaks.iter().sum(),
        smallest_peak_bytes: peaks.into_iter().min()?,
    })
}

/// The processes of a tree, to be looked at again at once.
pub(super) fn pids(root: u32) -> Vec<u32> {
    let all = processes();
    tree(&all, root).into_iter().map(|p| p.pid).collect()
}

/// What processes and the calling thread did until now, where the system says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// CPU time of the processes, all threads and children that have ended, seconds.
    pub(crate) cpu_seconds: Option<f64>,
    /// CPU time of the first thread of that process whose first thread has used the most, seconds. Threads of a pool may
    /// spin behind their work; the one that answers does not.
    pub(crate) first_thread_seconds: Option<f64>,
    /// Time that their threads and the calling thread were ready to run and had no CPU, added up, seconds.
    pub(crate) waited_seconds: Option<f64>,
}

impl Moment {
    /// Now.
    pub(crate) fn of(pids: &[u32]) -> Moment {
        let some = |total: Option<f64>| total.filter(|_| !pids.is_empty());
        let cpu_seconds = pids.iter().map(|&pid| cpu_seconds(pid)).sum();
        let of_thread = schedstat("/proc/thread-self/schedstat".as_ref()).map(|(_, waited)| waited);
        let of_processes: Option<f64> = pids.iter().map(|&pid| waited_seconds(pid)).sum();
        let first =
            |&pid: &u32| Some(schedstat(format!("/proc/{pid}/task/{pid}/schedstat").as_ref())?.0);
        Moment {
            cpu_seconds: some(cpu_seconds),
            first_thread_seconds: pids.iter().filter_map(first).reduce(f64::max),
            waited_seconds: some(of_thread.zip(of_processes).map(|(a, b)| a + b)),
        }
    }
}

/// Whether a process, or any that descends from it, has an accelerator open: then its work need not be the CPUs'.
pub(super) fn has_accelerator(root: u32) -> bool {
    tree(&processes(), root).into_iter().any(|process| {
        let files = fs::read_dir(format!("/proc/{}/fd", process.pid));
        let files = files.into_iter().flatten().flatten();
        let mut targets = files.filter_map(|file| fs::read_link(file.path()).ok());
        targets.any(|target| {
            let target = target.to_string_lossy();
            ACCELERATORS.iter().any(|device| target.starts_with(device))
        })
    })
}

/// Largest resident set of this process, bytes; 0 where the system does not say.
pub(crate) fn own_peak_bytes() -> u64 {
    peak_bytes(std::process::id()).unwrap_or(0)
}

/// A process, by its line in /proc/PID/stat (proc(5)).
struct Process {
    pid: u32,
    parent: u32,
    group: u32,
    /// CPU time of children that have ended and were waited for, seconds.
    ended_children: f64,
}

fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes =
        entries.filter_map(|entry| Process::read(entry.file_name().to_str()?.parse().ok()?));
    processes.collect()
}

impl Process {
    fn read(pid: u32) -> Option<Process> {
        parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }
}

fn parse(pid: u32, line: &str) -> Option<Process> {
    // The name stands in parentheses, and may hold any character.
    let (_, behind) = line.rsplit_once(')')?;
    let fields: Vec<&str> = behind.split_whitespace().collect();
    // SAFETY: takes a number, returns a number.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    let seconds = |field: usize| Some(fields.get(field)?.parse::<f64>().ok()? / ticks);
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        ended_children: seconds(13)? + seconds(14)?,
    })
}

/// The root, what descends from it, and what stayed in its group when its parent ended.
fn tree(all: &[Process], root: u32) -> Vec<&Process> {
    let mut members: Vec<&Process> = Vec::new();
    loop {
        let is_member = |pid: u32| members.iter().any(|member| member.pid == pid);
        let more: Vec<&Process> = all
            .iter()
            .filter(|p| p.pid == root || p.group == root || is_member(p.parent))
            .filter(|p| !is_member(p.pid))
            .collect();
        if more.is_empty() {
            return members;
        }
        members.extend(more);
    }
}

/// CPU time of all threads of a process, to the nanosecond, and of its children that have ended, in ticks of 10 ms.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let pid = libc::pid_t::try_from(pid).ok()?;
    // SAFETY: an all-zero timespec is valid; both calls fill what they get pointers to.
    let time = unsafe {
        let mut clock = 0;
        let mut time: libc::timespec = std::mem::zeroed();
        let known = libc::clock_getcpuclockid(pid, &mut clock) == 0
            && libc::clock_gettime(clock, &mut time) == 0;
        known.then_some(time)
    }?;
    let ended_children = Process::read(pid.cast_unsigned())?.ended_children;
    Some(time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9 + ended_children)
}

fn waited_seconds(pid: u32) -> Option<f64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let threads = threads.flatten();
    let mut waited = 0.0;
    for thread in threads {
        waited += schedstat(&thread.path().join("schedstat"))?.1;
    }
    Some(waited)
}

/// Time on a CPU and on a run queue, seconds (Linux, `scheduler/sched-stats.rst`).
fn schedstat(file: &Path) -> Option<(f64, f64)> {
    let line = fs::read_to_string(file).ok()?;
    let mut seconds = line
        .split_whitespace()
        .map_while(|nanoseconds| Some(nanoseconds.parse::<f64>().ok()? * 1e-9));
    Some((seconds.next()?, seconds.next()?))
}

fn peak_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_descends_from_a_worker_belongs_to_it() {
        let process = |pid, parent, group| Process {
            pid,
            parent,
            group,
            ended_children: 0.0,
        };
        let all = [
            process(1, 0, 1),
            // A grandchild with a smaller number than its parent, in a group of its own.
            process(5, 30, 5),
            process(20, 1, 20),
            process(30, 20, 20),
            // Its parent has ended.
            process(40, 1, 20),
            process(50, 1, 50),
        ];
        let mut members: Vec<u32> = tree(&all, 20).into_iter().map(|p| p.pid).collect();
        members.sort_unstable();
        assert_eq!(members, [5, 20, 30, 40]);
    }

    #[test]
    fn a_name_may_hold_anything() {
        let line = "7 (a) b (c) S 3 2 1 0 -1 4194560 1 2 3 4 5 6 250 50 20 0 1 0 9 9 9";
        let process = parse(7, line).unwrap();
        assert_eq!((process.parent, process.group), (3, 2));
        // SAFETY: takes a number, returns a number.
        let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
        assert_eq!(process.ended_children, 300.0 / ticks);
        assert!(parse(7, "7 (a").is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn work_is_seen_in_children_too() {
        let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; (sleep 30); true";
        let mut command = std::process::Command::new("sh");
        let mut child = command.args(["-c", script]).spawn().unwrap();
        let start = std::time::Instant::now();
        let mut seen = None;
        while start.elapsed().as_secs() < 20 {
            seen = of_tree(child.id());
            if seen.is_some_and(|c| c.peak_rss_bytes > c.smallest_peak_bytes) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        for process in tree(&processes(), child.id()) {
            // SAFETY: takes numbers; the processes are this test's own.
            unsafe { libc::kill(process.pid as i32, libc::SIGKILL) };
        }
        child.wait().unwrap();
        let seen = seen.unwrap();
        assert!(seen.cpu_seconds > 0.0);
        assert!(seen.peak_rss_bytes > seen.smallest_peak_bytes, "{seen:?}");
        assert!(!has_accelerator(std::process::id()));
        assert_eq!(of_tree(child.id()), None);
    }
}
