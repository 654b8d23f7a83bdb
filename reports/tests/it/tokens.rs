//! Samples of token parity. As in `sample`, the figures are invented.

use reports::model::*;

use crate::sample;

fn same_tokens(n: u64) -> TokenComparison {
    let of = TokensOf {
        refused: None,
        tokens: Some(n),
        around: Vec::new(),
    };
    TokenComparison {
        equal: true,
        reference: of.clone(),
        candidate: of,
        first_difference: None,
        same_text: Some(true),
    }
}

/// The tokenizers agree.
pub fn equal(prompts: usize) -> TokenParity {
    TokenParity {
        fed: Some("bitnet.cpp".to_owned()),
        not_compared: None,
        texts: (0..prompts)
            .map(|i| TokenizedText {
                prompt: Some(i),
                source: "--prompt".to_owned(),
                comparison: same_tokens(12),
            })
            .collect(),
        generated: GeneratedTexts {
            seed: 0,
            compared: Some(1000),
            different: Some(0),
            first: Vec::new(),
            different_pieces: Some(0),
            first_pieces: Vec::new(),
        },
    }
}

/// The tokenizers differ, nothing else; one prompt went through the chat template.
pub fn report() -> Report {
    let mut report = sample::report(2, 3);
    report.inputs.prompts[1].rendered = Some("<s>User: Once upon a time</s>\n".to_owned());
    let around = |ids: &[(usize, u32, &str)]| TokensOf {
        refused: None,
        tokens: Some(12),
        around: ids
            .iter()
            .map(|&(index, id, piece)| TokenAt {
                index,
                id,
                piece: Some(piece.to_owned()),
            })
            .collect(),
    };
    let differs = TokenComparison {
        equal: false,
        reference: around(&[(2, 5, " upon"), (3, 77, " a"), (4, 11, " time")]),
        candidate: around(&[(2, 5, " upon"), (3, 78, " a ")]),
        first_difference: Some(3),
        same_text: Some(true),
    };
    let refused = |why: Option<&str>| TokensOf {
        refused: why.map(str::to_owned),
        tokens: None,
        around: Vec::new(),
    };
    let parity = report.tokenizer.as_mut().unwrap();
    parity.texts[1].comparison = differs.clone();
    parity.texts[2].comparison = TokenComparison {
        equal: true,
        reference: refused(Some("invalid character")),
        candidate: refused(Some("not UTF-8")),
        first_difference: None,
        same_text: None,
    };
    parity.texts.push(TokenizedText {
        prompt: None,
        source: "austen.txt".to_owned(),
        comparison: TokenComparison {
            equal: false,
            same_text: Some(false),
            ..same_tokens(4096)
        },
    });
    let text = |index, text: &str, comparison| GeneratedText {
        index,
        text: text.to_owned(),
        add_special: index == 17,
        parse_special: index != 17,
        comparison,
    };
    parity.generated = GeneratedTexts {
        different: Some(40),
        first: vec![
            text(17, "\\xE2a\\n|`<b>", differs),
            text(
                18,
                "",
                TokenComparison {
                    equal: false,
                    candidate: refused(Some("not UTF-8")),
                    same_text: None,
                    ..same_tokens(1)
                },
            ),
        ],
        different_pieces: Some(1),
        first_pieces: vec![PieceDifference {
            id: 9,
            reference: " a".to_owned(),
            candidate: "a".to_owned(),
        }],
        ..parity.generated.clone()
    };
    report.verdict = Verdict {
        status: Status::Fail,
        exit_code: 10,
        reasons: vec!["the tokenizers differ".to_owned()],
        findings: Vec::new(),
        at_fault: AtFault::Undetermined,
        first_divergence: None,
    };
    report
}

/// An engine has no tokenizer.
pub fn not_compared() -> TokenParity {
    TokenParity {
        fed: None,
        not_compared: Some("the candidate (exec:worker.py) has no tokenizer".to_owned()),
        texts: Vec::new(),
        generated: GeneratedTexts {
            compared: None,
            different: None,
            different_pieces: None,
            ..equal(0).generated
        },
    }
}
