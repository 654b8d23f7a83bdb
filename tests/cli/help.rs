//! What `--help` says.

use super::*;

#[test]
fn help_of_every_command() {
    for command in [
        "", "run", "bench", "gate", "selftest", "record", "synth", "inspect", "doctor", "profile",
        "report", "tokenize", "generate",
    ] {
        let args: Vec<&str> = [command, "--help"]
            .into_iter()
            .filter(|a| !a.is_empty())
            .collect();
        let output = crossval(&args);
        assert_eq!(exit_code(&output), 0);
        let name = if command.is_empty() { "help" } else { command };
        insta::assert_snapshot!(name, String::from_utf8_lossy(&output.stdout));
    }
}
