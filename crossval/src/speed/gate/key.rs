//! What two runs must have in common for the speeds of one to be held against those of the other, and what is other where
//! they have not.

use std::collections::BTreeMap;

use reports::model::{Environment, KnownState, Report};
use reports::number;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::hex::hex;

/// What a reference says about its build that does not bear on its speed: where its source lies, and what its source is
/// written in, which older baselines do not say.
const WITHOUT_BEARING: [&str; 2] = ["source", "language"];

/// What a run's figures depend on beside the candidate, and what it was held to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// The machine and the build of crossval.
    pub environment: Environment,
    /// As the engine states it.
    pub reference_version: Option<String>,
    /// As the engine states it: compiler, flags, …; null in older baselines.
    #[serde(default)]
    pub reference_build: Option<BTreeMap<String, String>>,
    /// The limits; null in older baselines, and where nothing was compared.
    #[serde(default)]
    pub limits: Option<Limits>,
    /// Tokens to generate; null in older baselines.
    #[serde(default)]
    pub n_predict: Option<usize>,
    /// Tokens of a text that were scored; null in older baselines.
    #[serde(default)]
    pub scored: Option<u64>,
}

/// The limits that a run was held to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Name of the profile.
    pub profile: String,
    /// SHA-256 (hex) over the limits themselves.
    pub sha256: String,
    /// Known deviations that occurred and were not held against the run, by place.
    pub excused: Vec<String>,
}

impl Limits {
    fn of(report: &Report) -> Limits {
        let profile = &report.inputs.profile;
        let mut hash = Sha256::new();
        for (tap, limit) in &profile.isolated_nmse {
            hash.update(format!("{tap} {limit:e}\n"));
        }
        hash.update(format!("{:?}", profile.cumulative_logits_nmse));
        let known = report.known.iter();
        let excused = known.filter(|known| known.state == KnownState::Matched);
        let excused = excused.map(|known| match known.layer {
            Some(layer) => format!("{} of layer {layer}", known.tap),
            None => known.tap.clone(),
        });
        Limits {
            profile: profile.name.clone(),
            sha256: hex(&hash.finalize()),
            excused: excused.collect(),
        }
    }

    /// What is other, in words, where `self` could let more through.
    fn changed(&self, before: &Limits) -> Vec<String> {
        let mut changed = Vec::new();
        if self.sha256 != before.sha256 {
            changed.push(match self.profile == before.profile {
                true => format!("limits of the profile {}", self.profile),
                false => other("profile", &self.profile, &before.profile),
            });
        }
        let more = self.excused.iter();
        let more: Vec<&str> = more
            .filter(|place| !before.excused.contains(place))
            .map(String::as_str)
            .collect();
        if !more.is_empty() {
            changed.push(format!("known deviations: {} excused", more.join(", ")));
        }
        changed
    }
}

/// `CPU: A, B in the baseline`.
fn other(what: &str, now: &str, before: &str) -> String {
    format!("{what}: {now}, {before} in the baseline")
}

impl Key {
    pub(super) fn of(report: &Report) -> Key {
        let reference = &report.engines.reference;
        Key {
            environment: report.environment.clone(),
            reference_version: reference.version.clone(),
            reference_build: Some(reference.build.clone()),
            limits: report.not_compared.is_none().then(|| Limits::of(report)),
            n_predict: Some(report.inputs.n_predict),
            scored: Some(report.perplexity.as_ref().map_or(0, |p| p.tokens as u64)),
        }
    }

    /// What is other here than in a run `before`, in words; empty if they can be compared. `timed` says whether it is speeds
    /// that are compared, for which the machine counts. What a baseline of an older crossval does not say is no
    /// difference.
    pub(super) fn changed(&self, before: &Key, timed: bool) -> Vec<String> {
        let mut changed = Vec::new();
        let stated = |version: &Option<String>| version.clone().unwrap_or("not stated".to_owned());
        if self.reference_version != before.reference_version {
            let versions = [self, before].map(|key| stated(&key.reference_version));
            changed.push(other("reference", &versions[0], &versions[1]));
        }
        changed.extend(self.changed_build(before));
        if let (Some(now), Some(before)) = (&self.limits, &before.limits) {
            changed.extend(now.changed(before));
        }
        if let (Some(now), Some(before)) = (self.n_predict, before.n_predict)
            && now != before
        {
            changed.push(other(
                "tokens to generate",
                &now.to_string(),
                &before.to_string(),
            ));
        }
        if let (Some(now), Some(before)) = (self.scored, before.scored)
            && now < before
        {
            let [now, before] = [now, before].map(number::count);
            changed.push(other("tokens of a text scored", &now, &before));
        }
        if timed {
            changed.extend(changed_machine(&self.environment, &before.environment));
        }
        changed
    }

    fn changed_build(&self, before: &Key) -> Option<String> {
        let (now, before) = (
            self.reference_build.as_ref()?,
            before.reference_build.as_ref()?,
        );
        let mut keys: Vec<&str> = now
            .keys()
            .chain(before.keys())
            .map(String::as_str)
            .collect();
        keys.sort_unstable();
        keys.dedup();
        keys.retain(|key| !WITHOUT_BEARING.contains(key) && now.get(*key) != before.get(*key));
        (!keys.is_empty()).then(|| format!("build of the reference ({})", keys.join(", ")))
    }
}

/// What is other in a machine, or in how crossval was built for it.
fn changed_machine(now: &Environment, before: &Environment) -> Vec<String> {
    let mut changed = Vec::new();
    let mut differ = |what: &str, now: &str, before: &str| {
        if now != before {
            changed.push(other(what, now, before));
        }
    };
    let named = |cpu: &Option<String>| cpu.clone().unwrap_or("not known".to_owned());
    differ("CPU", &named(&now.cpu), &named(&before.cpu));
    differ("CPUs", &now.cpus.to_string(), &before.cpus.to_string());
    differ("target", &now.target, &before.target);
    differ("build of crossval", &now.profile, &before.profile);
    for (what, now, before) in [
        ("CPU features", &now.cpu_features, &before.cpu_features),
        (
            "target features",
            &now.target_features,
            &before.target_features,
        ),
    ] {
        let lacking = |of: &[String], from: &[String]| {
            let lacking = of.iter().filter(|feature| !from.contains(feature));
            lacking.cloned().collect::<Vec<_>>().join(" ")
        };
        let parts = [
            ("with", lacking(now, before)),
            ("without", lacking(before, now)),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(_, features)| !features.is_empty())
            .map(|(how, features)| format!("{how} {features}"))
            .collect();
        if !parts.is_empty() {
            changed.push(format!("{what}: {}", parts.join(", ")));
        }
    }
    changed
}
