//! Least privilege: a worker reads a model that strangers may have made, so what it does not need is taken from it first.
//!
//! On Linux, two layers that each do without the other, as far as the kernel has them: Landlock (no writing, no programs
//! started, no TCP, no signals to others), and a seccomp filter over the system calls. `PR_SET_NO_NEW_PRIVS`
//! is set with both. What is open stays usable: the pipes to the driver. Files can be read.

#[cfg(target_os = "linux")]
mod seccomp;

/// The key in [`crossval_protocol::Hello::build`] that says what [`enter`] did.
pub(crate) const FACT: &str = "sandbox";

/// Confines this process, for good, as far as the system can; to be called before it has a second thread. A layer that
/// is not to be had ends nothing: a run in a container that forbids it is still a run.
///
/// Returns what was applied, layer by layer, and why another was not.
pub(crate) fn enter() -> String {
    #[cfg(target_os = "linux")]
    return format!("{}; {}", landlock::enter(), seccomp::enter());
    #[cfg(not(target_os = "linux"))]
    format!("none on {}", std::env::consts::OS)
}

#[cfg(target_os = "linux")]
mod landlock {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, LandlockStatus, RestrictionStatus, Ruleset, RulesetAttr,
        RulesetError, RulesetStatus, Scope,
    };

    /// The newest whose rights this was tried with; an older kernel enforces those of them that it knows.
    const NEWEST: ABI = ABI::V7;

    /// Handles rights and grants none of them.
    fn restrict() -> Result<RestrictionStatus, RulesetError> {
        Ruleset::default()
            .handle_access(AccessFs::from_write(NEWEST) | AccessFs::Execute)?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?
            .restrict_self()
    }

    pub(super) fn enter() -> String {
        match restrict() {
            Err(e) => format!("no Landlock: {e}"),
            Ok(status) => match status.landlock {
                LandlockStatus::NotImplemented => "no Landlock: not in this kernel".to_owned(),
                LandlockStatus::NotEnabled => "no Landlock: not enabled in this kernel".to_owned(),
                LandlockStatus::Available {
                    effective_abi,
                    kernel_abi,
                } => {
                    let abi = kernel_abi.unwrap_or(effective_abi as i32);
                    match status.ruleset {
                        RulesetStatus::FullyEnforced => format!("Landlock ABI {abi}"),
                        RulesetStatus::PartiallyEnforced => format!("Landlock ABI {abi}, in part"),
                        RulesetStatus::NotEnforced => "no Landlock: not enforced".to_owned(),
                    }
                }
            },
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
