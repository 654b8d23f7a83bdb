//! Errors of the command line's grammar, in words that say what to type.

use std::io::Write;
use std::path::Path;

use bitnet_model::nearest::nearest;
use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use super::Cli;

/// What the standard library says of numbers, and what that means to who typed them.
const NUMBERS: [(&str, &str); 5] = [
    (
        "invalid digit found in string",
        "this is not a whole number",
    ),
    (
        "cannot parse integer from empty string",
        "a number is missing",
    ),
    (
        "number too large to fit in target type",
        "this is too large",
    ),
    // The end of a range that has none.
    (
        "is not in 1..18446744073709551615",
        "is too few: give 1 or more",
    ),
    ("invalid float literal", "this is not a number"),
];

/// Adds the command that was probably meant, where clap finds none.
pub(super) fn suggest(e: &mut Error) {
    if e.kind() != ErrorKind::InvalidSubcommand {
        return;
    }
    let Some(ContextValue::String(typed)) = e.get(ContextKind::InvalidSubcommand) else {
        return;
    };
    if is_file(typed) {
        let run = format!("crossval run {typed}");
        e.remove(ContextKind::SuggestedSubcommand);
        e.insert(
            ContextKind::Suggested,
            ContextValue::StyledStrs(vec![
                format!("this is a file; to cross-validate it: '{run}'").into(),
            ]),
        );
        return;
    }
    if e.get(ContextKind::SuggestedSubcommand).is_some() {
        return;
    }
    let cli = Cli::command();
    let shown = cli.get_subcommands().filter(|c| !c.is_hide_set());
    if let Some(meant) = nearest(typed, shown.map(|c| c.get_name())) {
        let meant = ContextValue::Strings(vec![meant.to_owned()]);
        e.insert(ContextKind::SuggestedSubcommand, meant);
    }
}

/// Whether this is a model's file and no command, there or not.
fn is_file(typed: &str) -> bool {
    let path = Path::new(typed);
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
        || path.is_file()
}

/// Prints help, or what is wrong.
pub(super) fn print(e: &Error) {
    let mut text = e.render().ansi().to_string();
    if e.use_stderr() {
        for (said, meant) in NUMBERS {
            text = text.replace(said, meant);
        }
    }
    // Nothing is left to do if the terminal is gone.
    let _ = match e.use_stderr() {
        true => write!(anstream::stderr(), "{text}"),
        false => write!(anstream::stdout(), "{text}"),
    };
}
