//! `crossval profile show`.

use super::*;

#[test]
fn a_profile_can_be_shown_edited_and_used() {
    let scratch = Scratch::new();
    let text = include_str!("../../crossval/profiles/standard.toml");
    let strict = include_str!("../../crossval/profiles/strict.toml");
    let own = include_str!("../../crossval/profiles/logits.toml");
    let logits = [own, &text[text.find("\n# Isolated").expect("limits")..]].concat();
    for (args, want) in [
        (&["profile", "show"][..], text),
        (&["profile", "show", "strict"], strict),
        (&["profile", "show", "logits"], &logits),
    ] {
        let shown = crossval(args);
        assert_eq!(
            (exit_code(&shown), shown.stdout),
            (0, want.as_bytes().to_vec())
        );
    }

    // A file comes out as it went in, comments and all.
    let file = scratch.path("mine.toml");
    let why = "reason = 'a quiet machine'\nexpires = '9999-12-31'\n";
    let edited = format!("{why}{}", text.replace("# The default limits.", "# Mine."));
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
