//! What `--help` says.

use bitnet_model::Architecture;

use super::*;

#[test]
fn help_of_every_command() {
    // One more is no other text.
    let architectures = Architecture::ALL.map(Architecture::name).join(", ");
    for command in [
        "",
        "run",
        "bench",
        "gate",
        "selftest",
        "record",
        "check-worker",
        "synth",
        "inspect",
        "diff",
        "convert",
        "doctor",
        "profile",
        "report",
        "tokenize",
        "generate",
    ] {
        let args: Vec<&str> = [command, "--help"]
            .into_iter()
            .filter(|a| !a.is_empty())
            .collect();
        let output = crossval(&args);
        assert_eq!(exit_code(&output), 0);
        let name = if command.is_empty() { "help" } else { command };
        let text =
            String::from_utf8_lossy(&output.stdout).replace(&architectures, "<ARCHITECTURES>");
        insta::assert_snapshot!(name, text);
    }
}
