//! What engines say in their logs that nobody should overlook.

/// Parts of lines, in lower case, by which llama.cpp and its forks say that what they run is not what was meant: the file
/// lacks or contradicts what they need, and they go on with something else. Left out is what is about memory, and what is
/// about tokens that end a text, which nearly every file gives rise to (`special_eos_id is not in special_eog_ids`, control
/// tokens that are `not marked as EOG`): engines are compared past them.
const OMINOUS: [&str; 8] = [
    "quality will be degraded",
    "missing pre-tokenizer type",
    "probably a bug in the model",
    "bad special token",
    "newline token not found",
    "missing newline token",
    "empty token at index",
    "result will be garbage",
];

/// Warnings of one engine that are kept.
const MOST: usize = 8;

/// The warnings among the lines of a log, each once.
#[derive(Clone, Debug, Default)]
pub(super) struct Warnings(Vec<String>);

impl Warnings {
    pub(super) fn look_at(&mut self, line: &str) {
        if self.0.len() == MOST {
            return;
        }
        let lower = line.to_lowercase();
        let line = line.trim();
        if OMINOUS.iter().any(|part| lower.contains(part)) && !self.0.iter().any(|l| l == line) {
            self.0.push(line.to_owned());
        }
    }

    pub(super) fn lines(&self) -> &[String] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_kept_once_and_a_flood_is_not() {
        let mut warnings = Warnings::default();
        for line in [
            "llm_load_vocab: missing pre-tokenizer type, using: 'default'",
            "llm_load_vocab: ************************************        ",
            "llm_load_vocab: GENERATION QUALITY WILL BE DEGRADED!        ",
            "llm_load_vocab: GENERATION QUALITY WILL BE DEGRADED!        ",
            "llm_load_vocab: control token: 128247 '<|x|>' is not marked as EOG",
            "special_eos_id is not in special_eog_ids - the tokenizer config may be incorrect",
            "warning: failed to mlock 12-byte buffer",
        ] {
            warnings.look_at(line);
        }
        let kept = [
            "llm_load_vocab: missing pre-tokenizer type, using: 'default'",
            "llm_load_vocab: GENERATION QUALITY WILL BE DEGRADED!",
        ];
        assert_eq!(warnings.lines(), kept);
        for i in 0..100 {
            warnings.look_at(&format!("empty token at index {i}"));
        }
        assert_eq!(warnings.lines().len(), MOST);
    }
}
