//! `--tokens`.

use std::str::FromStr;

/// Token IDs, separated by commas or spaces, in brackets or without: as people type them, and as `crossval tokenize
/// --ids` prints them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenIds(pub Vec<u32>);

impl FromStr for TokenIds {
    type Err = String;

    fn from_str(text: &str) -> Result<TokenIds, String> {
        let list = text.trim();
        let inner = list.strip_prefix('[').and_then(|l| l.strip_suffix(']'));
        let list = inner.unwrap_or(list);
        let such_as = "such as 1,403,407";
        if list.trim().is_empty() {
            return Err(format!(
                "there are no token IDs in it: give some, {such_as}"
            ));
        }
        let mut ids = Vec::new();
        for part in list.split(',') {
            if part.trim().is_empty() {
                return Err(format!(
                    "beside a comma an ID is missing: give IDs {such_as}"
                ));
            }
            for id in part.split_whitespace() {
                let id = id
                    .parse()
                    .map_err(|_| format!("{id:?} is no token ID: give whole numbers, {such_as}"))?;
                ids.push(id);
            }
        }
        Ok(TokenIds(ids))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_people_type_them() {
        for text in [
            "1,403,407",
            "1, 403, 407",
            "1 403 407",
            "[1, 403, 407]\n",
            " 1 403,407",
        ] {
            assert_eq!(text.parse(), Ok(TokenIds(vec![1, 403, 407])), "{text:?}");
        }
        for (text, says) in [
            ("", "no token IDs"),
            ("[]", "no token IDs"),
            ("1,", "beside a comma"),
            (",", "beside a comma"),
            ("1,x", "\"x\" is no token ID"),
            ("1,-2", "\"-2\" is no token ID"),
            ("99999999999", "is no token ID"),
            ("[1", "\"[1\" is no token ID"),
        ] {
            let error = text.parse::<TokenIds>().unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }
}
