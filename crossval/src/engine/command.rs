//! The command behind `exec:`.

use std::path::Path;
use std::process::Command;

use rustix::fs::{Access, access};

use crate::error::Error;

/// The words of a command: the whole text where it names a file, so that paths with spaces need no quotes, else as a
/// shell splits it.
///
/// # Errors
/// [`Error::Usage`] for quotes without an end, and for no words.
pub(super) fn words(text: &str) -> Result<Vec<String>, Error> {
    if Path::new(text).is_file() {
        return Ok(vec![text.to_owned()]);
    }
    let bad = |what| Error::Usage(format!("engine exec:{text}: {what}"));
    match shlex::split(text) {
        Some(words) if words.is_empty() => Err(bad("it names no program")),
        Some(words) => Ok(words),
        None => Err(bad("a quote or a backslash in it has no end")),
    }
}

/// What starts the program of a command. One without a slash may lie in the working directory too.
///
/// # Errors
/// As [`words`]; [`Error::Engine`] that says what to type if there is no such program.
pub(super) fn command(text: &str) -> Result<Command, Error> {
    let words = words(text)?;
    let in_path = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| is_program(&folder.join(name)))
    };
    let program = match words[0].as_str() {
        path if path.contains('/') => path.to_owned(),
        // The text is a file, or the word is a program that no shell would find.
        name if text == name && Path::new(name).is_file() || !in_path(name) => format!("./{name}"),
        name => name.to_owned(),
    };
    if program.contains('/') && !is_program(Path::new(&program)) {
        let what = missing(&words[0], &program);
        return Err(Error::Engine(format!(
            "engine exec:{text}: cannot start {}: {what}",
            words[0]
        )));
    }
    let mut command = Command::new(program);
    command.args(&words[1..]);
    Ok(command)
}

fn is_program(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

/// Why a program cannot be started, and what to type.
fn missing(word: &str, path: &str) -> String {
    if Path::new(path).is_file() {
        format!(
            "it is not executable; type `chmod +x {path}`, or what runs it in front of it, such as `exec:python3 {path}`"
        )
    } else if word == path {
        "there is no such file".to_owned()
    } else {
        format!(
            "it is neither in PATH nor in the working directory; type where it is, such as `exec:/path/to/{word}`"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn started(text: &str) -> (String, Vec<String>) {
        let command = command(text).unwrap();
        let string = |s: &OsStr| s.to_str().unwrap().to_owned();
        (
            string(command.get_program()),
            command.get_args().map(string).collect(),
        )
    }

    #[test]
    fn words_are_those_of_a_shell() {
        let (program, args) = started("sh -c 'exit 3' \"a b\" c\\ d");
        assert_eq!(program, "sh");
        assert_eq!(args, ["-c", "exit 3", "a b", "c d"]);
        for (text, says) in [
            ("sh -c 'exit", "no end"),
            ("sh \"", "no end"),
            ("sh \\", "no end"),
            ("  ", "names no program"),
        ] {
            let error = command(text).unwrap_err();
            assert_eq!(error.outcome().exit_code(), 64, "{text}");
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn the_whole_text_may_be_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("it's an engine");
        fs::write(&program, "").unwrap();
        let text = program.to_str().unwrap();
        let error = command(text).unwrap_err();
        assert_eq!(error.outcome().exit_code(), 30);
        let says = format!("not executable; type `chmod +x {text}`");
        assert!(error.to_string().contains(&says), "{error}");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(started(text), (text.to_owned(), Vec::new()));
    }

    #[test]
    fn what_is_missing_is_said_with_what_to_type() {
        for (text, says) in [
            (
                "/nonexistent --flag",
                "cannot start /nonexistent: there is no such file",
            ),
            ("/tmp --flag", "cannot start /tmp: there is no such file"),
            (
                "no-such-engine --flag",
                "such as `exec:/path/to/no-such-engine`",
            ),
        ] {
            let error = command(text).unwrap_err();
            assert_eq!(error.outcome().exit_code(), 30, "{text}");
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
