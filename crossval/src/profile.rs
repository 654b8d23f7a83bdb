//! Tolerance profiles: commented TOML, three built in. One of somebody's own names what is other than in `standard`, why,
//! and until when.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use bitnet_model::gguf::TensorType;
use bitnet_model::nearest::{did_you_mean, with_what_was_meant};
use bitnet_model::tap::Tap;
use jiff::civil::Date;
use serde::Deserialize;
use toml::{Table, Value};

use crate::error::Error;
use crate::text_file;
use crossval_protocol::ModelFacts;

const BUILT_IN: [&str; 3] = ["standard", "strict", "logits"];
const STANDARD: &str = include_str!("../profiles/standard.toml");
const STRICT: &str = include_str!("../profiles/strict.toml");

/// What `logits` has before the limits, which are those of `standard`.
const LOGITS: &str = include_str!("../profiles/logits.toml");

/// A set of limits on the NMSE of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// `standard`, `strict`, `logits`, or the path of the file.
    pub name: String,
    /// Taps that must be compared where the model has them, whatever the engines offer.
    pub required: Vec<Tap>,
    /// Of taps that are no matrix products, every one.
    tap: BTreeMap<Tap, f64>,
    matmul: ByType,
    /// Limit on a row of logits in cumulative mode, if the reference is less noisy than that.
    pub cumulative_logits: f64,
    noise_factor: f64,
    cap: f64,
    /// Caps on an engine's own noise.
    pub noise: NoiseCaps,
    /// Limits on a text that both engines score.
    pub text: TextLimits,
    oracle: Oracle,
}

/// The largest NMSE of a row of logits of an engine against itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseCaps {
    /// Between numbers of threads.
    pub threads: f64,
    /// Between splits into batches.
    pub batches: f64,
}

/// How far two engines may differ on a text.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextLimits {
    /// Difference of the mean negative log-likelihoods, nats per token.
    pub difference: f64,
    /// Mean KL divergence, nats.
    pub kl: f64,
    /// Smallest share of tokens with the same most likely one, near ties aside.
    pub top1: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    reason: Option<String>,
    expires: Option<String>,
    required: Vec<Tap>,
    isolated: Isolated,
    cumulative: Cumulative,
    text: TextLimits,
    oracle: Oracle,
}

#[derive(Deserialize)]
struct Isolated {
    /// Of taps that are not named.
    default: f64,
    matmul: ByType,
    #[serde(flatten)]
    tap: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cumulative {
    logits: f64,
    noise_factor: f64,
    cap: f64,
    noise_threads: f64,
    noise_batches: f64,
}

/// Distances from the oracle.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Oracle {
    stage: f64,
    /// Of several stages at once.
    composite: f64,
    tap: BTreeMap<Tap, f64>,
    matmul: ByType,
}

/// Limits on matrix products by the type of their weights.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct ByType {
    /// Of types that are not named.
    default: f64,
    #[serde(flatten)]
    types: BTreeMap<String, f64>,
}

impl ByType {
    fn of(&self, ty: &str) -> f64 {
        self.types.get(ty).copied().unwrap_or(self.default)
    }

    /// The largest of the limits on several types, the default of none.
    fn of_all(&self, types: Option<&Vec<String>>) -> f64 {
        let types = types.into_iter().flatten().map(|ty| self.of(ty));
        types.reduce(f64::max).unwrap_or(self.default)
    }

    fn values(&self) -> impl Iterator<Item = &f64> {
        self.types.values().chain([&self.default])
    }

    /// Refuses names that no type has, which would limit nothing.
    fn check(&self) -> Result<(), String> {
        let mut names = self.types.keys();
        let unknown = names.find(|name| !TensorType::names().any(|known| known == *name));
        unknown.map_or(Ok(()), |name| {
            let meant = did_you_mean(name, TensorType::names());
            Err(format!("unknown tensor type {name:?}{meant}"))
        })
    }
}

impl Profile {
    /// `standard`, `strict`, `logits` or a TOML file.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming the file and what is wrong in it.
    pub fn open(name: &str) -> Result<Profile, Error> {
        Profile::parse(name, &Profile::read(name)?)
    }

    /// The commented TOML of a profile, which is checked first.
    ///
    /// # Errors
    /// As [`Profile::open`].
    pub fn text(name: &str) -> Result<String, Error> {
        let text = Profile::read(name)?;
        Profile::parse(name, &text)?;
        Ok(text)
    }

    fn read(name: &str) -> Result<String, Error> {
        match name {
            "standard" => Ok(STANDARD.to_owned()),
            "strict" => Ok(STRICT.to_owned()),
            "logits" => Ok(LOGITS.to_owned() + limits_of(STANDARD)),
            path => text_file::read(Path::new(path)).map_err(|e| {
                let meant = did_you_mean(path, BUILT_IN);
                let built_in = BUILT_IN.join(", ");
                Error::BadInput(format!(
                    "profile {path}{meant}: {e}; built in are {built_in}"
                ))
            }),
        }
    }

    /// Every limit of a profile, in the tables of its TOML, which is checked first: of one of somebody's own, those that
    /// it names and those of `standard`.
    ///
    /// # Errors
    /// As [`Profile::open`].
    pub fn limits(name: &str) -> Result<serde_json::Value, Error> {
        let text = Profile::read(name)?;
        Profile::parse(name, &text)?;
        let bad = |what: String| Error::BadInput(format!("profile {name}: {what}"));
        let all = Profile::all(name, &text).map_err(bad)?;
        serde_json::to_value(all).map_err(|e| bad(e.to_string()))
    }

    /// What a file says, or does not say and is as in `standard`.
    fn all(name: &str, text: &str) -> Result<Table, String> {
        let of = |text: &str| text.parse::<Table>().map_err(|e| e.to_string());
        let own = of(text)?;
        if BUILT_IN.contains(&name) {
            return Ok(own);
        }
        let mut all = of(STANDARD)?;
        overlay(&mut all, own);
        Ok(all)
    }

    fn file(name: &str, text: &str) -> Result<File, String> {
        let wrong = |e: toml::de::Error| with_what_was_meant(e.to_string().trim_end());
        let file: File = Profile::all(name, text)?.try_into().map_err(wrong)?;
        if !BUILT_IN.contains(&name) {
            check_override(&file)?;
        }
        Ok(file)
    }

    fn parse(name: &str, text: &str) -> Result<Profile, Error> {
        let bad = |what: String| Error::BadInput(format!("profile {name}: {what}"));
        let file = Profile::file(name, text).map_err(bad)?;
        for (table, limits) in [
            ("isolated", &file.isolated.matmul),
            ("oracle", &file.oracle.matmul),
        ] {
            let named = |what| bad(format!("[{table}.matmul] {what}"));
            limits.check().map_err(named)?;
        }
        let mut tap = BTreeMap::new();
        for (key, limit) in file.isolated.tap {
            let key = Tap::from_str(&key).map_err(|e| bad(format!("[isolated] {e}")))?;
            if key.is_product() {
                return Err(bad(format!(
                    "[isolated] {key}: matrix products are limited by weight type in [isolated.matmul]"
                )));
            }
            tap.insert(key, limit);
        }
        for other in Tap::ALL.into_iter().filter(|tap| !tap.is_product()) {
            tap.entry(other).or_insert(file.isolated.default);
        }
        let profile = Profile {
            name: name.to_owned(),
            required: file.required,
            tap,
            matmul: file.isolated.matmul,
            cumulative_logits: file.cumulative.logits,
            noise_factor: file.cumulative.noise_factor,
            cap: file.cumulative.cap,
            noise: NoiseCaps {
                threads: file.cumulative.noise_threads,
                batches: file.cumulative.noise_batches,
            },
            text: file.text,
            oracle: file.oracle,
        };
        let Oracle {
            stage,
            composite,
            tap,
            matmul,
        } = &profile.oracle;
        let of_oracle = tap.values().chain(matmul.values());
        let of_oracle = of_oracle.chain([stage, composite]);
        let limits = profile.tap.values().chain(profile.matmul.values());
        let NoiseCaps { threads, batches } = &profile.noise;
        let limits = limits.chain(of_oracle).chain([threads, batches]);
        for &limit in limits {
            // A row of zeros is 1 from anything.
            if !(0.0..1.0).contains(&limit) {
                return Err(bad(format!(
                    "a limit must be 0 or more and below 1, not {limit}"
                )));
            }
        }
        let (logits, factor, cap) = (profile.cumulative_logits, profile.noise_factor, profile.cap);
        if !(0.0..1.0).contains(&cap) || !(0.0..=cap).contains(&logits) {
            return Err(bad(format!(
                "[cumulative] needs 0 <= logits <= cap < 1, not {logits} and {cap}"
            )));
        }
        if !(factor >= 0.0 && factor.is_finite()) {
            return Err(bad(format!("noise_factor must be 0 or more, not {factor}")));
        }
        let TextLimits {
            difference,
            kl,
            top1,
        } = profile.text;
        let above_0 = |x: f64| x >= 0.0 && x.is_finite();
        if !above_0(difference) || !above_0(kl) || !(0.0..=1.0).contains(&top1) {
            return Err(bad(format!(
                "[text] needs difference and kl of 0 or more and top1 from 0 to 1, not {difference}, {kl} and {top1}"
            )));
        }
        if profile.required.is_empty() {
            return Err(bad("`required` names no tap".to_owned()));
        }
        Ok(profile)
    }

    /// The limit on a row of logits in cumulative mode, given the reference's NMSE against itself. What is above the cap
    /// on noise is a fault, and excuses nothing.
    pub fn cumulative_logits_limit(&self, noise: f64) -> f64 {
        let NoiseCaps { threads, batches } = self.noise;
        // NaN is the largest, and `min` takes the other.
        let noise = noise.min(threads.max(batches));
        self.cumulative_logits
            .max(self.noise_factor * noise)
            .min(self.cap)
    }

    /// The limit on a row of logits beside the noisiest reference that is let through.
    pub fn logits_ceiling(&self) -> f64 {
        self.cumulative_logits_limit(f64::INFINITY)
    }

    /// How far from the oracle a row may be and count as right, beside what the oracle allows for of its own accord:
    /// errors that f32 arithmetic builds up in angles and sums.
    pub fn oracle_limit(&self, tap: Tap, facts: &ModelFacts) -> f64 {
        let Oracle { stage, matmul, .. } = &self.oracle;
        let types = facts.weight_types.get(&tap).filter(|t| !t.is_empty());
        match (self.oracle.tap.get(&tap), types) {
            (Some(&limit), _) => limit,
            (None, Some(types)) => matmul.of_all(Some(types)),
            (None, None) => *stage,
        }
    }

    /// How far from the oracle a row may be whose inputs are computed by stages `between` it and what there is, if no
    /// activation flips from one code to another there.
    pub fn composite_limit(&self, tap: Tap, between: Vec<Tap>, facts: &ModelFacts) -> f64 {
        let stages = between.into_iter().chain([tap]);
        let limits = stages.map(|tap| self.oracle_limit(tap, facts));
        limits.fold(self.oracle.composite, f64::max)
    }

    /// The limit of every tap in isolated mode, for a model. That of a product whose weights are of a type that nobody
    /// says is the default one.
    pub fn isolated(&self, facts: &ModelFacts) -> BTreeMap<Tap, f64> {
        let limit = |tap: Tap| {
            let of_tap = self.tap.get(&tap).copied();
            of_tap.unwrap_or_else(|| self.matmul.of_all(facts.weight_types.get(&tap)))
        };
        facts.taps.iter().map(|&tap| (tap, limit(tap))).collect()
    }
}

/// Puts what a table names in the place of what is there.
fn overlay(base: &mut Table, own: Table) {
    for (key, value) in own {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(own)) => overlay(base, own),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// What follows the required taps in a profile.
fn limits_of(profile: &str) -> &str {
    let at = profile.find("\n# Isolated mode");
    at.map_or("", |at| &profile[at..])
}

/// Somebody's own limits say why, and until when.
fn check_override(file: &File) -> Result<(), String> {
    if file.reason.as_ref().is_none_or(|r| r.trim().is_empty()) {
        return Err("a profile of your own needs `reason`, why its limits are others".to_owned());
    }
    let Some(expires) = &file.expires else {
        return Err(
            "a profile of your own needs `expires`, its last day: \"2027-01-31\"".to_owned(),
        );
    };
    let expires: Date = expires
        .parse()
        .map_err(|e| format!("`expires` {expires:?}: {e}"))?;
    if expires < today() {
        return Err(format!(
            "it expired on {expires}: are its limits still right?"
        ));
    }
    Ok(())
}

/// The day in UTC, up to which entries and profiles that expire are held.
pub(crate) fn today() -> Date {
    let now = jiff::Timestamp::now();
    now.to_zoned_datetime(jiff::tz::TimeZone::UTC).date()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_profiles_parse_and_strict_is_stricter() {
        let standard = Profile::open("standard").unwrap();
        let strict = Profile::open("strict").unwrap();
        for (tap, limit) in &standard.tap {
            assert!(strict.tap[tap] <= *limit, "{tap}");
        }
        for (profile, f32s) in [(&standard, 1e-12), (&strict, 1e-13)] {
            assert_eq!(profile.tap[&Tap::LayerOut], f32s);
            assert_eq!(profile.tap.len(), Tap::ALL.len() - 8);
        }
        for (ty, limit) in &standard.matmul.types {
            assert!(strict.matmul.types[ty] <= *limit, "{ty}");
        }
        assert!(strict.matmul.default < standard.matmul.default);
        assert!(strict.cumulative_logits < standard.cumulative_logits);
        assert!(strict.noise.threads < standard.noise.threads);
        assert!(strict.noise.batches < standard.noise.batches);
        assert!(strict.text.difference < standard.text.difference);
        assert!(strict.text.kl < standard.text.kl && strict.text.top1 > standard.text.top1);
        // Two that are each as far from the truth as they may be are within each other's limit.
        let Oracle { stage, tap, .. } = &standard.oracle;
        for (name, &pair) in &standard.tap {
            let each = tap.get(name).unwrap_or(stage);
            assert!(pair == 0.0 || pair >= 4.0 * each, "{name}");
        }
        for profile in [&standard, &strict] {
            let largest = profile.cumulative_logits_limit(profile.noise.batches);
            approx::assert_relative_eq!(largest, profile.cap);
        }
        assert_eq!(strict.matmul.types["I2_S"], 0.0);
    }

    #[test]
    fn logits_has_the_limits_of_standard() {
        let standard = Profile::open("standard").unwrap();
        let logits = Profile::open("logits").unwrap();
        assert_eq!(logits.required, [Tap::Logits]);
        let expected = Profile {
            name: "logits".into(),
            required: vec![Tap::Logits],
            ..standard
        };
        assert_eq!(logits, expected);
    }

    #[test]
    fn noise_raises_the_cumulative_limit_up_to_the_cap() {
        let profile = Profile::open("standard").unwrap();
        assert_eq!(
            profile.cumulative_logits_limit(0.0),
            profile.cumulative_logits
        );
        let noise = profile.cumulative_logits;
        assert_eq!(
            profile.cumulative_logits_limit(noise),
            profile.noise_factor * noise
        );
        assert_eq!(profile.cumulative_logits_limit(1e9), profile.cap);
        assert_eq!(profile.cumulative_logits_limit(f64::NAN), profile.cap);
    }

    #[test]
    fn noise_beyond_its_cap_raises_no_limit() {
        let loose = STANDARD.replace("cap = 4e-2", "cap = 0.3");
        let own = format!("reason = 'x'\nexpires = '9999-12-31'\n{loose}");
        let profile = Profile::parse("my.toml", &own).unwrap();
        let limit = profile.noise_factor * profile.noise.batches;
        assert!(limit < profile.cap);
        for noise in [profile.noise.batches, 0.39, f64::INFINITY, f64::NAN] {
            assert_eq!(profile.cumulative_logits_limit(noise), limit, "{noise}");
        }
    }

    #[test]
    fn a_profile_of_ones_own_overrides_what_it_names() {
        let standard = Profile::open("standard").unwrap();
        let own = "reason = 'x'\nexpires = '9999-12-31'\n";
        let same = Profile {
            name: "my.toml".into(),
            ..standard.clone()
        };
        assert_eq!(Profile::parse("my.toml", own).unwrap(), same);
        let named = "required = ['logits']\n[isolated]\nattn_probs = 3e-5\n[isolated.matmul]\nQ4_K = 0.5\n\
                     [cumulative]\ncap = 0.3\n[oracle.tap]\nq_rope = 1e-9\n";
        let mut expected = Profile {
            required: vec![Tap::Logits],
            cap: 0.3,
            ..same
        };
        expected.tap.insert(Tap::AttnProbs, 3e-5);
        expected.matmul.types.insert("Q4_K".to_owned(), 0.5);
        expected.oracle.tap.insert(Tap::QRope, 1e-9);
        let profile = Profile::parse("my.toml", &(own.to_owned() + named)).unwrap();
        assert_eq!(profile, expected);
    }

    #[test]
    fn a_type_that_is_not_named_or_not_known_has_the_default_limit() {
        let facts = ModelFacts {
            architecture: "llama".to_owned(),
            name: None,
            n_layer: 1,
            n_embd: 8,
            n_ff: 8,
            n_head: 1,
            n_head_kv: 1,
            head_dim: None,
            n_vocab: 8,
            n_ctx_train: 8,
            activation: None,
            taps: vec![Tap::Q],
            tensor_types: BTreeMap::new(),
            weight_types: [(Tap::Q, vec!["Q9_9".to_owned()])].into(),
            vocab: None,
            work: None,
        };
        let silent = ModelFacts {
            weight_types: BTreeMap::new(),
            ..facts.clone()
        };
        for name in BUILT_IN {
            let profile = Profile::open(name).unwrap();
            let f32s = profile.matmul.of("F32");
            for facts in [&facts, &silent] {
                assert_eq!(profile.isolated(facts), [(Tap::Q, f32s)].into());
            }
            let of_oracle = profile.oracle_limit(Tap::Q, &facts);
            assert_eq!(of_oracle, profile.oracle.matmul.of("F32"));
            assert_eq!(profile.oracle_limit(Tap::Q, &silent), profile.oracle.stage);
        }
    }

    #[test]
    fn faults_in_a_file_are_named() {
        let own = |text: String| format!("reason = 'x'\nexpires = '9999-12-31'\n{text}");
        let cases: [(String, &str); 15] = [
            (STANDARD.to_owned(), "needs `reason`"),
            (format!("reason = 'x'\n{STANDARD}"), "needs `expires`"),
            (
                format!("reason = 'x'\nexpires = '2020-01-31'\n{STANDARD}"),
                "expired on 2020-01-31",
            ),
            (
                own(STANDARD.replace("cap = 4e-2", "cap = 0")),
                "logits <= cap",
            ),
            (
                own(STANDARD.replace("attn_out = 1e-6", "attn_out = 1e300")),
                "below 1",
            ),
            (
                own(STANDARD.replace("attn_out =", "attn_aut =")),
                "unknown tap \"attn_aut\" (did you mean \"attn_out\"?)",
            ),
            (
                own("[oracle.tap]\nattn_aut = 0.5".to_owned()),
                "unknown tap \"attn_aut\" (did you mean \"attn_out\"?)",
            ),
            (
                own("[isolated.matmul]\nI2S = 0".to_owned()),
                "[isolated.matmul] unknown tensor type \"I2S\" (did you mean \"I2_S\"?)",
            ),
            (
                own("[cumulative]\nnoise_facter = 1".to_owned()),
                "(did you mean \"noise_factor\"?)",
            ),
            (own("cumulative = 1".to_owned()), "cumulative"),
            (
                own(STANDARD.replace("logits = 1e-3", "logits = -1")),
                "0 <= logits",
            ),
            (
                own(STANDARD.replace("noise_batches = 1e-2", "noise_batches = 2")),
                "below 1",
            ),
            (
                own(STANDARD.replace("top1 = 0.95", "top1 = 95")),
                "top1 from 0 to 1",
            ),
            (
                own(STANDARD.replace("embd = 0", "embd = 0\nq = 1")),
                "by weight type",
            ),
            (
                own(STANDARD.replace("[cumulative]", "[cumulativ]")),
                "(did you mean \"cumulative\"?)",
            ),
        ];
        for (text, says) in cases {
            let error = Profile::parse("my.toml", &text).unwrap_err();
            assert_eq!(error.outcome().exit_code(), 65);
            let message = error.to_string();
            assert!(
                message.contains("my.toml") && message.contains(says),
                "{message}"
            );
        }
    }
}
