//! Energy by RAPL (running average power limit), the counters of x86 CPUs: Linux, `power/powercap/powercap.rst`.

use std::path::{Path, PathBuf};

/// The packages' energy counters.
pub(super) struct Packages {
    packages: Vec<Package>,
}

struct Package {
    counter: PathBuf,
    /// The counter starts again from 0 behind this, microjoules.
    range: u64,
}

impl Packages {
    /// Those that can be read; `None` if there are none, or not all can be.
    pub(super) fn open() -> Option<Packages> {
        Packages::in_folder(Path::new("/sys/class/powercap"))
    }

    fn in_folder(folder: &Path) -> Option<Packages> {
        let mut packages = Vec::new();
        for entry in std::fs::read_dir(folder).ok()? {
            let zone = entry.ok()?.path();
            let name = std::fs::read_to_string(zone.join("name")).unwrap_or_default();
            // `intel-rapl` also on AMD. Cores and DRAM are zones within a package; `psys` is the whole machine.
            let of_rapl = zone.file_name()?.to_str()?.starts_with("intel-rapl:");
            if of_rapl && name.trim().starts_with("package-") {
                packages.push(Package {
                    counter: zone.join("energy_uj"),
                    range: microjoules(&zone.join("max_energy_range_uj"))?,
                });
            }
        }
        let meter = Packages { packages };
        meter.read().map(|_| meter)
    }

    /// The counters now, microjoules.
    pub(super) fn read(&self) -> Option<Vec<u64>> {
        let counters = self.packages.iter().map(|p| microjoules(&p.counter));
        counters
            .collect::<Option<Vec<u64>>>()
            .filter(|c| !c.is_empty())
    }

    /// Joules between two readings, less than one turn of a counter apart.
    pub(super) fn joules(&self, before: &[u64], after: &[u64]) -> f64 {
        let used = self.packages.iter().zip(before.iter().zip(after));
        let microjoules =
            used.map(
                |(package, (&before, &after))| match after.checked_sub(before) {
                    Some(used) => used as f64,
                    None => package.range.saturating_sub(before) as f64 + after as f64,
                },
            );
        microjoules.sum::<f64>() / 1e6
    }
}

fn microjoules(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(folder: &Path, zone: &str, name: &str, energy: &str) {
        let zone = folder.join(zone);
        std::fs::create_dir(&zone).unwrap();
        std::fs::write(zone.join("name"), format!("{name}\n")).unwrap();
        std::fs::write(zone.join("energy_uj"), energy).unwrap();
        std::fs::write(zone.join("max_energy_range_uj"), "1000000\n").unwrap();
    }

    #[test]
    fn packages_are_summed_and_their_parts_are_not() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Packages::in_folder(folder.path()).is_none());
        zone(folder.path(), "intel-rapl:0", "package-0", "900000\n");
        zone(folder.path(), "intel-rapl:0:0", "core", "5\n");
        zone(folder.path(), "intel-rapl:1", "psys", "5\n");
        let meter = Packages::in_folder(folder.path()).unwrap();
        assert_eq!(meter.read(), Some(vec![900_000]));
        assert_eq!(meter.joules(&[100_000], &[900_000]), 0.8);
        // Past the end of the range.
        assert_eq!(meter.joules(&[900_000], &[400_000]), 0.5);
        zone(folder.path(), "intel-rapl:2", "package-1", "unreadable");
        assert!(Packages::in_folder(folder.path()).is_none());
    }
}
