//! The names of timed tests.

use std::fmt;
use std::str::FromStr;

/// What follows the name of a test that was timed with the candidate's compact head.
const CERTIFIED: &str = " certified";

/// What is timed, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Test {
    /// Tokens from an empty context.
    Prefill(usize),
    /// Steps.
    Decode(usize),
    /// The same with the candidate's compact head.
    Certified(usize),
    /// The prefill of the first prompt, as a time.
    TimeToFirstToken,
    /// Loading the model.
    Load(Cache),
    /// Loading, then the first token.
    FirstToken(Cache),
}

/// The state of the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cache {
    /// Holds the model.
    Warm,
    /// Holds nothing of it.
    Cold,
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Test::Prefill(tokens) => write!(f, "pp{tokens}"),
            Test::Decode(steps) => write!(f, "tg{steps}"),
            Test::Certified(steps) => write!(f, "tg{steps}{CERTIFIED}"),
            Test::TimeToFirstToken => f.write_str("ttft"),
            Test::Load(cache) => write!(f, "load{cache}"),
            Test::FirstToken(cache) => write!(f, "load+ttft{cache}"),
        }
    }
}

/// As the end of a test's name.
impl fmt::Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cache::Warm => "",
            Cache::Cold => " cold",
        })
    }
}

/// Reads a test's name, as it stands in reports and baselines.
impl FromStr for Test {
    type Err = String;

    fn from_str(name: &str) -> Result<Test, String> {
        let test = |name: &str| -> Option<Test> {
            let count = |prefix: &str| name.strip_prefix(prefix)?.parse().ok();
            if let Some(tokens) = count("pp") {
                return Some(Test::Prefill(tokens));
            }
            if let Some(steps) = count("tg") {
                return Some(Test::Decode(steps));
            }
            let of_cache = [Cache::Warm, Cache::Cold]
                .into_iter()
                .flat_map(|cache| [Test::Load(cache), Test::FirstToken(cache)]);
            let mut named = of_cache.chain([Test::TimeToFirstToken]);
            named.find(|test| test.to_string() == name)
        };
        match name.strip_suffix(CERTIFIED).map(test) {
            Some(Some(Test::Decode(steps))) => Some(Test::Certified(steps)),
            Some(_) => None,
            None => test(name),
        }
        .ok_or_else(|| format!("{name:?} is no test that this crossval knows"))
    }
}

impl Test {
    /// Tokens that the time is for; `None` where it is the time itself that counts.
    pub fn tokens(self) -> Option<usize> {
        match self {
            Test::Prefill(n) | Test::Decode(n) | Test::Certified(n) => Some(n),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tests() {
        let names = [
            Test::Prefill(128),
            Test::Decode(64),
            Test::Certified(64),
            Test::TimeToFirstToken,
            Test::Load(Cache::Warm),
            Test::Load(Cache::Cold),
            Test::FirstToken(Cache::Warm),
            Test::FirstToken(Cache::Cold),
        ];
        assert!(names.is_sorted());
        for test in names {
            assert_eq!(test.to_string().parse(), Ok(test));
        }
        for other in ["ppx", "pp128 certified", "tg", "load warm", ""] {
            assert!(other.parse::<Test>().unwrap_err().contains(other));
        }
        let names = names.map(|test| test.to_string());
        let want = [
            "pp128",
            "tg64",
            "tg64 certified",
            "ttft",
            "load",
            "load cold",
            "load+ttft",
            "load+ttft cold",
        ];
        assert_eq!(names, want);
    }
}
