//! Names that nobody has, and what was probably meant.

/// Shortest beginning that stands for a whole name.
const BEGINNING: usize = 3;

/// The name of `known` that is nearest to `name`, if one is near: but for case and separators, a typing error (a letter
/// that is left out, added, changed or exchanged with the next) per three letters, or a beginning.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = letters(name);
    let n = name.chars().count();
    let distance = |known: &str| {
        let known = letters(known);
        let errors = strsim::osa_distance(&name, &known);
        let most = known.chars().count().min(n) / 3;
        let begins = n >= BEGINNING && known.starts_with(&name);
        (errors <= most)
            .then_some(errors)
            .or(begins.then_some(most + 1))
    };
    let known = known.into_iter();
    let near = known.filter_map(|known| Some((distance(known)?, known)));
    near.min_by_key(|&(distance, _)| distance)
        .map(|(_, known)| known)
}

/// ` (did you mean "rust"?)`, to follow `name` in a message; nothing if no name is near.
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map_or(String::new(), |known| format!(" (did you mean {known:?}?)"))
}

/// An error of serde's, whose sentence holds the name that is unknown and those that are known in backticks, with what
/// was meant behind the name.
pub fn with_what_was_meant(message: &str) -> String {
    let unknown = ["unknown field `", "unknown variant `"];
    let mut found = unknown.iter().filter_map(|what| {
        let start = message.rfind(what)? + what.len();
        let end = start + message[start..].find('`')?;
        Some((start, end))
    });
    let Some((start, end)) = found.next() else {
        return message.to_owned();
    };
    let (name, rest) = (&message[start..end], &message[end + 1..]);
    let known = rest.split('`').skip(1).step_by(2);
    let meant = did_you_mean(name, known);
    format!("{}{meant}{rest}", &message[..end + 1])
}

fn letters(name: &str) -> String {
    let letters = name.chars().filter(|c| !matches!(c, '-' | '_' | '.' | ' '));
    letters.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_found_and_nothing_else() {
        let engines = ["rust", "bitnet.cpp", "llama.cpp", "oracle"];
        for (name, meant) in [
            ("rsut", "rust"),
            ("Rust", "rust"),
            ("bitnetcpp", "bitnet.cpp"),
            ("BitNet.c++", "bitnet.cpp"),
            ("bitnet", "bitnet.cpp"),
            ("llama-cp", "llama.cpp"),
            ("oracel", "oracle"),
            ("llamacpp", "llama.cpp"),
        ] {
            assert_eq!(nearest(name, engines), Some(meant), "{name}");
        }
        for name in ["", "gpu", "mlx", "r", "vllm", "java", "tensorrt", "trace"] {
            assert_eq!(nearest(name, engines), None, "{name}");
        }
        // Short names are near to each other, and one typing error is not enough.
        assert_eq!(nearest("x", ["q", "k", "v"]), None);
        assert_eq!(nearest("kcache", ["v_cache", "k_cache"]), Some("k_cache"));
    }

    #[test]
    fn errors_of_serde_say_what_was_meant() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Limits {
            #[allow(dead_code, reason = "only its name is read")]
            cap: f64,
            #[allow(dead_code, reason = "only its name is read")]
            noise_factor: f64,
        }
        let error = |json: &str| {
            let error = serde_json::from_str::<Limits>(json).unwrap_err();
            with_what_was_meant(&error.to_string())
        };
        assert_eq!(
            error(r#"{"noise_facter": 1}"#),
            "unknown field `noise_facter` (did you mean \"noise_factor\"?), expected `cap` or `noise_factor` at line 1 \
             column 15"
        );
        for json in [r#"{"reason": 1}"#, r#"{"cap": 1}"#] {
            assert!(!error(json).contains("did you mean"), "{json}");
        }
    }
}
