//! Completions and man pages.

use super::*;

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = crossval(&["generate", "completions", shell]);
        assert_eq!(exit_code(&output), 0);
        let script = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            script.contains("max-regression") && script.contains("tokenize"),
            "{shell}"
        );
    }
    assert_eq!(
        exit_code(&crossval(&["generate", "completions", "cmd"])),
        64
    );
}

#[test]
fn every_command_has_a_man_page() {
    let scratch = Scratch::new();
    let folder = scratch.path("man");
    let output = crossval(&["generate", "man", folder.to_str().unwrap()]);
    assert_eq!(exit_code(&output), 0);
    for page in ["crossval.1", "crossval-run.1", "crossval-gate.1"] {
        let text = std::fs::read_to_string(folder.join(page)).expect(page);
        assert!(text.contains(".TH"), "{page}");
    }
    assert!(
        !folder.join("crossval-worker.1").exists(),
        "hidden commands have none"
    );
}
