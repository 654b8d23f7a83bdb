//! `crossval profile show`.

use super::*;

#[test]
fn a_profile_can_be_shown_edited_and_used() {
    let scratch = Scratch::new();
    let standard = crossval(&["profile", "show"]);
    assert_eq!(exit_code(&standard), 0);
    let text = String::from_utf8(standard.stdout).expect("UTF-8");
    assert!(text.starts_with("# The default limits."), "{text}");
    let strict = crossval(&["profile", "show", "strict"]);
    assert!(!strict.stdout.is_empty() && strict.stdout != text.as_bytes());

    // A file comes out as it went in, comments and all.
    let file = scratch.path("mine.toml");
    let edited = text.replace("# The default limits.", "# Mine.");
    std::fs::write(&file, &edited).expect("a file");
    let file = file.to_str().expect("UTF-8");
    let shown = crossval(&["profile", "show", file]);
    assert_eq!((exit_code(&shown), shown.stdout), (0, edited.into_bytes()));
}

#[test]
fn a_bad_profile_is_named_and_not_shown() {
    let scratch = Scratch::new();
    let file = scratch.path("bad.toml");
    std::fs::write(&file, "required = 1\n").expect("a file");
    for (profile, says) in [
        (file.to_str().expect("UTF-8"), "required"),
        ("/no/profile.toml", "/no/profile.toml"),
    ] {
        let output = crossval(&["profile", "show", profile]);
        assert_eq!(exit_code(&output), 65);
        assert!(output.stdout.is_empty());
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
}
