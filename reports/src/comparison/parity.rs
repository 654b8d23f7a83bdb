//! The verdict and what it rests on: taps, logits, generation, perplexity, tokenizers, coverage.

use std::collections::{BTreeMap, BTreeSet};

use super::{Reading, Subject, differing, error_moved, keys, ordered};
use crate::facts::{generations_of, mode_name, nmse, stage};
use crate::model::{
    AtFault, Coverage, Generation, LogitsStats, Mode, Perplexity, Report, Role, Status, TapStats,
    TokenParity,
};
use crate::number;

/// The name of the subject with a figure per tap.
pub(super) const TAPS: &str = "Taps";

pub(super) fn subjects(a: &Report, b: &Report) -> Vec<Subject> {
    vec![
        verdict(a, b),
        taps(a, b),
        logits(a, b),
        generation(a, b),
        perplexity(a.perplexity.as_ref(), b.perplexity.as_ref()),
        tokenizers(a.tokenizer.as_ref(), b.tokenizer.as_ref()),
        coverage(&a.coverage, &b.coverage),
    ]
}

fn verdict(a: &Report, b: &Report) -> Subject {
    let mut subject = Subject::new("Verdict");
    let reading = |report: &Report| {
        let status = report.verdict.status.name();
        let code = report.verdict.exit_code;
        let text = format!("{status}, exit code {code}");
        Some(Reading::number(f64::from(code), |_| text.clone()))
    };
    let passed = |report: &Report| report.verdict.status == Status::Pass;
    subject.figure("status", None, (reading(a), reading(b)), |x, y| {
        ordered(passed(a), passed(b)).or(differing(x, y))
    });
    let fault = |report: &Report| {
        Some(Reading::text(match report.verdict.at_fault {
            AtFault::None => "neither",
            AtFault::Candidate => Role::Candidate.name(),
            AtFault::Reference => Role::Reference.name(),
            AtFault::Both => "both",
            AtFault::Undetermined => "undetermined",
        }))
    };
    subject.figure("at fault", None, (fault(a), fault(b)), differing);
    let first = |report: &Report| {
        let first = report.verdict.first_divergence.as_ref();
        Some(Reading::text(first.map_or("none".to_owned(), |first| {
            format!(
                "prompt {}, position {}, {} ({})",
                first.prompt,
                first.position,
                stage(first.layer, &first.tap),
                mode_name(first.mode)
            )
        })))
    };
    let without = |report: &Report| report.verdict.first_divergence.is_none();
    subject.figure("first divergence", None, (first(a), first(b)), |x, y| {
        ordered(without(a), without(b)).or(differing(x, y))
    });
    subject
}

/// A prompt as both runs would know it: its index and the hash of its tokens.
type PromptKey = (usize, String);

fn prompt_key(report: &Report, prompt: usize) -> PromptKey {
    let of = report.inputs.prompts.get(prompt);
    (prompt, of.map_or(String::new(), |p| p.sha256.clone()))
}

type TapKey<'a> = (PromptKey, Mode, &'a str, Option<usize>);

fn taps(a: &Report, b: &Report) -> Subject {
    let mut subject = Subject::new(TAPS);
    let all = |report| -> (Vec<TapKey<'_>>, BTreeMap<TapKey<'_>, &TapStats>) {
        let mut keys = Vec::new();
        let mut stats_of = BTreeMap::new();
        for (key, stats) in taps_of(report) {
            if stats_of.insert(key.clone(), stats).is_none() {
                keys.push(key);
            }
        }
        (keys, stats_of)
    };
    let ((keys_a, a), (keys_b, b)) = (all(a), all(b));
    let vanished = keys_a.into_iter().filter(|key| !b.contains_key(key));
    for key in keys_b.iter().cloned().chain(vanished) {
        let ((prompt, _), mode, tap, layer) = &key;
        let name = format!("prompt {prompt}, {}, {tap}", mode_name(*mode));
        let (a, b) = (a.get(&key), b.get(&key));
        let reading = |stats: Option<&&TapStats>| Reading::level(nmse(stats?));
        let passes = |stats: Option<&&TapStats>| stats?.pass;
        let crossed = passes(a).zip(passes(b)).and_then(|(a, b)| ordered(a, b));
        let change = subject.figure(&name, *layer, (reading(a), reading(b)), |a, b| {
            crossed.or_else(|| error_moved(a, b))
        });
        if let Some(change) = change {
            change.crossed_limit = crossed.is_some();
        }
    }
    subject
}

fn taps_of(report: &Report) -> impl Iterator<Item = (TapKey<'_>, &TapStats)> {
    report.taps.iter().flat_map(|entry| {
        let prompt = prompt_key(report, entry.prompt);
        entry.modes().map(move |(mode, stats)| {
            let key = (prompt.clone(), mode, entry.tap.as_str(), entry.layer);
            (key, stats)
        })
    })
}

fn logits(a: &Report, b: &Report) -> Subject {
    let mut subject = Subject::new("Logits");
    let all = |report: &Report| -> Vec<(PromptKey, Mode)> {
        let modes = report.logits.iter().flat_map(|entry| {
            let key = prompt_key(report, entry.prompt);
            entry.modes().map(move |(mode, _)| (key.clone(), mode))
        });
        modes.collect()
    };
    for (prompt, mode) in keys(&all(a), &all(b)) {
        let (a, b) = (stats_of(a, &prompt, mode), stats_of(b, &prompt, mode));
        let name = |what: &str| format!("prompt {}, {}, {what}", prompt.0, mode_name(mode));
        for (what, of) in [
            (
                "KL mean (nats)",
                (|s| s.kl_mean) as fn(&LogitsStats) -> Option<f64>,
            ),
            ("KL max (nats)", |s| s.kl_max),
        ] {
            let kl =
                |stats: Option<&LogitsStats>| Some(Reading::number(of(stats?)?, number::error));
            subject.figure(&name(what), None, (kl(a), kl(b)), error_moved);
        }
        let same = |stats: Option<&LogitsStats>| {
            let agreement = stats?.top1_agreement;
            Some(Reading::number(agreement, number::share))
        };
        let what = name("same most likely token");
        subject.figure(&what, None, (same(a), same(b)), |a, b| {
            ordered(a.value?, b.value?)
        });
    }
    subject
}

fn stats_of<'a>(report: &'a Report, prompt: &PromptKey, mode: Mode) -> Option<&'a LogitsStats> {
    let mut entries = report.logits.iter();
    let entry = entries.find(|entry| prompt_key(report, entry.prompt) == *prompt)?;
    entry
        .modes()
        .find(|(of, _)| *of == mode)
        .map(|(_, stats)| stats)
}

fn generation(a: &Report, b: &Report) -> Subject {
    let mut subject = Subject::new("Generation");
    let all = |report: &Report| -> Vec<PromptKey> {
        let generations = generations_of(report);
        generations.map(|g| prompt_key(report, g.prompt)).collect()
    };
    for prompt in keys(&all(a), &all(b)) {
        let find = |report| {
            let mut generations = generations_of(report);
            generations.find(|g| prompt_key(report, g.prompt) == prompt)
        };
        let (a, b) = (find(a), find(b));
        let name = format!("prompt {}", prompt.0);
        let readings = (a.map(agreement), b.map(agreement));
        subject.figure(&name, None, readings, |_, _| {
            ordered(goodness(a?), goodness(b?))
        });
    }
    subject
}

fn agreement(generation: &Generation) -> Reading {
    let tokens = generation.reference.len();
    match &generation.first_mismatch {
        None => Reading::text(format!("same {}", number::plural(tokens as u64, "token"))),
        Some(m) => {
            let what = if m.near_tie { "near tie" } else { "differs" };
            Reading::number(m.index as f64, |_| format!("{what} at token {}", m.index))
        }
    }
}

/// The later the engines part the better; a near tie is no fault.
fn goodness(generation: &Generation) -> (u8, usize) {
    match &generation.first_mismatch {
        None => (2, 0),
        Some(m) if m.near_tie => (1, 0),
        Some(m) => (0, m.index),
    }
}

fn perplexity(a: Option<&Perplexity>, b: Option<&Perplexity>) -> Subject {
    let mut subject = Subject::new("Perplexity");
    let name = |p: &Perplexity| {
        let windows = number::plural(p.windows as u64, "window");
        let tokens = number::plural(p.window as u64, "token");
        format!("{}, {windows} of {tokens}", p.source)
    };
    let texts = |p: Option<&Perplexity>| p.map(name).into_iter().collect::<Vec<_>>();
    for text in keys(&texts(a), &texts(b)) {
        let of = |p: Option<&Perplexity>| p.filter(|p| name(p) == text).cloned();
        let (a, b) = (of(a), of(b));
        let difference = |p: &Option<Perplexity>| {
            let d = p.as_ref()?.difference.as_ref()?;
            let format = |x| number::significant(x, 3);
            Some(match d.low.zip(d.high) {
                Some((low, high)) => Reading::interval(d.mean, low, high, format),
                None => Reading::number(d.mean, format),
            })
        };
        let what = format!("{text}, candidate less reference, nats per token");
        let differences = (difference(&a), difference(&b));
        subject.figure(&what, None, differences, |a, b| {
            let overlap = a.low? <= b.high? && b.low? <= a.high?;
            if overlap {
                return None;
            }
            ordered(-a.value?.abs(), -b.value?.abs())
        });
        let kl =
            |p: &Option<Perplexity>| Some(Reading::number(p.as_ref()?.kl_mean?, number::error));
        let what = format!("{text}, KL mean (nats)");
        subject.figure(&what, None, (kl(&a), kl(&b)), error_moved);
    }
    subject
}

fn tokenizers(a: Option<&TokenParity>, b: Option<&TokenParity>) -> Subject {
    let mut subject = Subject::new("Tokenizers");
    let texts = |parity: Option<&TokenParity>| -> Vec<(String, bool)> {
        let texts = parity.iter().flat_map(|parity| &parity.texts);
        texts
            .map(|t| (format!("{} ({})", t.name(), t.source), t.comparison.equal))
            .collect()
    };
    let (texts_a, texts_b) = (texts(a), texts(b));
    let names = |all: &[(String, bool)]| all.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
    for name in keys(&names(&texts_a), &names(&texts_b)) {
        let find = |all: &[(String, bool)]| {
            let equal = all.iter().find(|(of, _)| *of == name)?.1;
            let text = if equal { "same" } else { "differs" };
            Some(Reading::number(f64::from(u8::from(equal)), |_| {
                text.to_owned()
            }))
        };
        let figures = (find(&texts_a), find(&texts_b));
        subject.figure(&name, None, figures, |a, b| ordered(a.value?, b.value?));
    }
    let fewer = |a: &Reading, b: &Reading| ordered(b.value?, a.value?);
    let strings = |parity: Option<&TokenParity>| {
        let generated = &parity?.generated;
        let (compared, different) = (generated.compared?, generated.different?);
        let text = format!(
            "{} of {} differ",
            number::count(different),
            number::plural(compared, "string")
        );
        Some(Reading::number(different as f64, |_| text.clone()))
    };
    subject.figure("generated strings", None, (strings(a), strings(b)), fewer);
    let pieces = |parity: Option<&TokenParity>| {
        let different = parity?.generated.different_pieces?;
        let text = format!("{} with another text", number::count(different));
        Some(Reading::number(different as f64, |_| text.clone()))
    };
    subject.figure("single tokens", None, (pieces(a), pieces(b)), fewer);
    subject
}

fn coverage(a: &Coverage, b: &Coverage) -> Subject {
    let mut subject = Subject::new("Coverage");
    let compared = |coverage: &Coverage| {
        let text = format!(
            "{} of {}",
            number::count(coverage.compared),
            number::count(coverage.expected)
        );
        let reading = Reading::number(coverage.compared as f64, |_| text.clone());
        (coverage.expected > 0).then_some(reading)
    };
    subject.figure("rows compared", None, (compared(a), compared(b)), |x, y| {
        ordered(x.value?, y.value?).or(differing(x, y))
    });
    let listed = |subject: &mut Subject, words: (&str, &str), a: &[String], b: &[String]| {
        let (in_a, in_b): (BTreeSet<_>, BTreeSet<_>) = (a.iter().collect(), b.iter().collect());
        for name in in_a.symmetric_difference(&in_b) {
            let now = in_b.contains(name);
            let reading = |fault| Some(Reading::text(if fault { words.0 } else { words.1 }));
            subject.figure(name, None, (reading(!now), reading(now)), |_, _| {
                ordered(now, !now)
            });
        }
    };
    listed(
        &mut subject,
        ("missing", "not missing"),
        &a.missing,
        &b.missing,
    );
    listed(
        &mut subject,
        ("not finite", "finite"),
        &a.not_finite,
        &b.not_finite,
    );
    let offers = |of: &BTreeMap<String, Vec<String>>| -> Vec<String> {
        let taps = of
            .iter()
            .flat_map(|(engine, taps)| taps.iter().map(move |tap| format!("{tap} of {engine}")));
        taps.collect()
    };
    let (offered_a, offered_b) = (offers(&a.not_offered), offers(&b.not_offered));
    listed(
        &mut subject,
        ("not offered", "offered"),
        &offered_a,
        &offered_b,
    );
    subject
}
