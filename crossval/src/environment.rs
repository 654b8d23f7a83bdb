//! The machine and the build, for the report.

use reports::model::Environment;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// What the root package's build script stamped into the binary.
#[derive(Clone, Copy, Debug)]
pub struct Provenance {
    /// Version of the package.
    pub version: &'static str,
    /// Git revision, empty outside a checkout.
    pub git_revision: &'static str,
    /// `rustc --version`.
    pub rustc: &'static str,
    /// Build profile.
    pub profile: &'static str,
    /// Target triple.
    pub target: &'static str,
    /// Target features, comma-separated.
    pub target_features: &'static str,
}

/// Describes this machine.
pub fn describe(provenance: &Provenance) -> Environment {
    let nonempty = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    Environment {
        crossval_version: provenance.version.to_owned(),
        git_revision: nonempty(provenance.git_revision),
        rustc: provenance.rustc.to_owned(),
        profile: provenance.profile.to_owned(),
        target: provenance.target.to_owned(),
        target_features: provenance
            .target_features
            .split(',')
            .filter(|f| !f.is_empty())
            .map(str::to_owned)
            .collect(),
        os: operating_system(),
        cpu: cpu_name(),
        cpu_id: std::fs::read_to_string("/proc/cpuinfo")
            .ok()
            .and_then(|text| cpu_id(&text)),
        cpu_features: cpu_features(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: memory(System::total_memory),
    }
}

/// Of the first CPU in `/proc/cpuinfo`: `AuthenticAMD, family 26, model 2, stepping 1`.
fn cpu_id(cpuinfo: &str) -> Option<String> {
    const FIELDS: [(&str, &str); 8] = [
        ("vendor_id", ""),
        ("cpu family", "family "),
        ("model", "model "),
        ("stepping", "stepping "),
        ("CPU implementer", "implementer "),
        ("CPU variant", "variant "),
        ("CPU part", "part "),
        ("CPU revision", "revision "),
    ];
    let said = FIELDS.iter().filter_map(|(key, name)| {
        let value = field_of(cpuinfo, key, ':')?;
        (!value.is_empty()).then(|| format!("{name}{value}"))
    });
    let said: Vec<String> = said.collect();
    (!said.is_empty()).then(|| said.join(", "))
}

/// The name of the first CPU.
fn cpu_name() -> Option<String> {
    let kind = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing());
    let system = System::new_with_specifics(kind).ok()?;
    let name = system.cpus().first()?.brand().trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Memory that can be had without swapping, bytes.
pub fn available_memory() -> Option<u64> {
    memory(System::available_memory)
}

fn memory(of: fn(&System) -> u64) -> Option<u64> {
    let kind = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(kind).ok()?;
    Some(of(&system)).filter(|&bytes| bytes > 0)
}

/// The CPUs that this process may run on.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is a valid, empty set, and the call fills at most its size.
    unsafe {
        let mut mask: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut mask) != 0 {
            return Vec::new();
        }
        (0..libc::CPU_SETSIZE as usize)
            .filter(|&cpu| libc::CPU_ISSET(cpu, &mask))
            .collect()
    }
}

/// The CPUs that this process may run on, one of each core before the second of any, and how many cores they are.
pub fn cpus_by_core() -> (Vec<usize>, usize) {
    let allowed = allowed_cpus();
    let siblings = |cpu: usize| {
        let file = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        let list = std::fs::read_to_string(file).ok();
        list.map_or(vec![cpu], |list| cpu_list(&list))
    };
    by_core(&allowed, siblings)
}

fn by_core(allowed: &[usize], siblings: impl Fn(usize) -> Vec<usize>) -> (Vec<usize>, usize) {
    let mut ranked: Vec<(usize, usize)> = allowed
        .iter()
        .map(|&cpu| {
            let before = |s: &usize| *s < cpu && allowed.contains(s);
            (siblings(cpu).iter().filter(|s| before(s)).count(), cpu)
        })
        .collect();
    ranked.sort_unstable();
    let cores = ranked.iter().filter(|(rank, _)| *rank == 0).count();
    (ranked.into_iter().map(|(_, cpu)| cpu).collect(), cores)
}

/// `0-2,5` as the kernel writes it; parts that are none are left out.
fn cpu_list(list: &str) -> Vec<usize> {
    let ranges = list.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

/// `Debian GNU/Linux 12 (bookworm), kernel 6.1.0-18-amd64`.
fn operating_system() -> String {
    let name = field("/etc/os-release", "PRETTY_NAME", '=').map_or_else(
        || std::env::consts::OS.to_owned(),
        |n| n.trim_matches('"').to_owned(),
    );
    match System::kernel_version() {
        Ok(kernel) => format!("{name}, kernel {kernel}"),
        Err(_) => name,
    }
}

fn field(path: &str, key: &str, separator: char) -> Option<String> {
    field_of(&std::fs::read_to_string(path).ok()?, key, separator)
}

fn field_of(text: &str, key: &str, separator: char) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(separator)?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

/// Those that the kernels of either engine may use.
pub fn cpu_features() -> Vec<String> {
    let mut features: Vec<&str> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! detect {
            ($($name:tt),*) => {
                $(if std::arch::is_x86_feature_detected!($name) { features.push($name); })*
            };
        }
        detect!(
            "ssse3",
            "sse4.1",
            "avx",
            "f16c",
            "fma",
            "avx2",
            "avxvnni",
            "avx512f",
            "avx512bw",
            "avx512vl",
            "avx512vnni",
            "avx512vbmi",
            "avx512bf16"
        );
    }
    #[cfg(target_arch = "aarch64")]
    {
        macro_rules! detect {
            ($($name:tt),*) => {
                $(if std::arch::is_aarch64_feature_detected!($name) { features.push($name); })*
            };
        }
        detect!("neon", "fp16", "dotprod", "i8mm", "bf16", "sve");
    }
    features.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cpu_says_of_itself() {
        let x86 = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\n\
                   model name\t: AMD EPYC\nstepping\t: 1\n\nprocessor\t: 1\nmodel\t\t: 9\n";
        let said = "AuthenticAMD, family 26, model 2, stepping 1";
        assert_eq!(cpu_id(x86).as_deref(), Some(said));
        let arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\nCPU revision\t: 1\n";
        let said = "implementer 0x41, part 0xd40, revision 1";
        assert_eq!(cpu_id(arm).as_deref(), Some(said));
        assert_eq!(cpu_id("processor : 0\n"), None);
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(cpu_list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(cpu_list("7"), [7]);
        assert!(cpu_list("\n").is_empty() && cpu_list("a-b").is_empty());
    }

    #[test]
    fn cores_come_before_their_second_threads() {
        let neighbours = |cpu: usize| vec![cpu & !1, cpu | 1];
        assert_eq!(by_core(&[0, 1, 2, 3], neighbours), (vec![0, 2, 1, 3], 2));
        // The first thread of a core may be out of bounds.
        assert_eq!(by_core(&[1, 2, 3], neighbours), (vec![1, 2, 3], 2));
        let far = |cpu: usize| vec![cpu % 2, cpu % 2 + 2];
        assert_eq!(by_core(&[0, 1, 2, 3], far), (vec![0, 1, 2, 3], 2));
    }
}
