//! The report as Markdown (GitHub's flavour), for a comment on a pull request or a terminal: the verdict and what
//! stands out first, everything else folded.

pub(crate) mod writer;

use crate::facts::{Digest, Facts, Parity, Row, State, Tokenizer};
use crate::model::{Report, Status};
use crate::number;
use writer::{Writer, fitting};

/// The report as Markdown, at most 65,536 characters: the facts of the HTML page without charts and without what only
/// fills pages: token IDs, the layers that pass, and the limits by tap. What does not fit is counted, not shown.
pub fn render(report: &Report) -> String {
    let parity = Parity::new(report);
    let facts = Facts::new(report, &parity);
    let digest = Facts::digest(report, &parity);
    fitting("report.json", |out| {
        out.heading(1, &facts.verdict.headline);
        summary(out, &facts, &digest);
        environment(out, &facts);
        implementations(out, &facts, &digest);
        performance(out, &facts, &digest);
        cross_validation(out, &facts);
        conclusion(out, &facts, &digest);
    })
}

fn summary(out: &mut Writer, facts: &Facts<'_>, digest: &Digest) {
    out.heading(2, "Executive summary");
    for sentence in &digest.summary {
        out.sentence(sentence);
    }
    out.table(&facts.glance);
    let verdict = &facts.verdict;
    out.list("reasons", &verdict.reasons);
    if let Some(first) = &verdict.divergence {
        let values: Vec<_> = first
            .values
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        let text = format!("{}. {}.", values.join(", "), first.error);
        out.stressed(&format!("First divergence: {}:", first.place), &text);
        if let Some(hint) = &first.hint {
            out.sentence(hint);
        }
        out.titled(
            "Each engine against the oracle, from the same inputs:",
            &first.arbitration,
        );
        out.list("findings", &first.findings);
    }
    for failure in &facts.failures {
        out.sentence(&failure.sentence);
        if !failure.log_tail.is_empty() {
            out.fenced(&failure.log_tail.join("\n"));
        }
    }
    out.list("gates", &verdict.gates);
    out.titled("Known deviations:", &facts.known);
    out.titled("Changed against the baseline:", &digest.gated);
    out.titled("Gated taps that use up most of their limits:", &digest.taps);
    out.titled(
        "Tests in which one engine is faster by the 95% interval of the ratio:",
        &digest.tests,
    );
}

fn environment(out: &mut Writer, facts: &Facts<'_>) {
    out.heading(2, "Test environment");
    if facts.command.is_empty() {
        out.sentence("Command: not recorded.");
    } else {
        out.fenced(&facts.command);
    }
    out.folded("Machine and build", |out| out.table(&facts.environment));
    out.folded("Model and inputs", |out| {
        out.table(&facts.model);
        out.table(&facts.prompts);
        out.table(&facts.inputs);
    });
}

fn implementations(out: &mut Writer, facts: &Facts<'_>, digest: &Digest) {
    out.heading(2, "Implementation comparison");
    out.table(&digest.implementations);
    out.folded("What the engines say about themselves", |out| {
        out.table(&facts.engines);
    });
}

fn performance(out: &mut Writer, facts: &Facts<'_>, digest: &Digest) {
    out.heading(2, "Performance analysis");
    if digest.throughput.rows.is_empty() {
        out.sentence("Throughput: not measured.");
    } else {
        out.folded("Throughput", |out| out.table(&digest.throughput));
    }
    if !facts.bench_notes.is_empty() {
        out.folded("What the figures are", |out| {
            out.list("notes", &facts.bench_notes);
        });
    }
    for (title, table) in [
        ("Latency and CPU time of a repetition", &facts.latency),
        ("Peak memory", &facts.memory),
    ] {
        if !table.rows.is_empty() {
            out.folded(title, |out| out.table(table));
        }
    }
    if !facts.gate.rows.is_empty() {
        out.folded("Every speed against the baseline", |out| {
            out.list("notes", &facts.gate_notes);
            out.table(&facts.gate);
        });
    }

    out.heading(3, "Quantization");
    out.folded("Tensors of the model by type", |out| {
        out.table_or(&digest.tensor_types, "Tensor types: not measured.");
    });
    out.measured("Codes flipped by int8 quantisers", &digest.quantisers);
    out.measured(
        "Activations quantised to int8, timed by themselves",
        &facts.quantiser_times,
    );

    out.heading(3, "Matrix multiplication");
    out.measured("Parity of matrix products", &digest.products);
    out.measured("Matrix products timed by themselves", &facts.kernels);
    out.measured("What the cores can do", &facts.roofline);

    out.heading(3, "Model loading");
    if digest.loading.rows.is_empty() && facts.workers.rows.is_empty() {
        out.sentence("Load time: not measured.");
    } else {
        out.folded("Load time and memory", |out| {
            out.table(&digest.loading);
            out.table(&facts.workers);
        });
    }
}

fn cross_validation(out: &mut Writer, facts: &Facts<'_>) {
    out.heading(2, "Cross-validation results");
    if let Some(why) = facts.not_compared {
        out.sentence(&format!("Not compared; {why}."));
    } else {
        parity(out, facts);
    }
    out.titled("Further references:", &facts.further);
    out.titled(
        "Who agrees with whom (worst row of logits and generated tokens, each engine on its own):",
        &facts.matrix,
    );
    if let Some(tokenizer) = &facts.tokenizer {
        out.folded("Tokenizers", |out| tokenizers(out, tokenizer));
    }
    if facts.not_compared.is_none() {
        out.folded("Coverage", |out| {
            out.table(&facts.coverage);
            for (title, rows) in [
                ("Missing:", facts.missing),
                ("Not finite:", facts.not_finite),
            ] {
                if !rows.is_empty() {
                    out.sentence(title);
                    out.list("rows", rows);
                }
            }
        });
    }
}

fn parity(out: &mut Writer, facts: &Facts<'_>) {
    if facts.taps.is_empty() {
        out.sentence("Taps: not measured.");
    }
    let failing: Vec<&Row> = facts
        .layers
        .rows
        .iter()
        .filter(|row| row.state == State::Fail)
        .collect();
    if !failing.is_empty() {
        out.folded("Layers beyond their limit", |out| {
            out.rows_of(&facts.layers, &failing);
        });
    }
    for (title, taps) in &facts.taps {
        out.folded(&format!("Taps, {title}"), |out| out.table(taps));
    }
    if let Some(floor) = facts.noise_floor {
        out.sentence(&format!("Noise floor: {floor}"));
    }
    if !facts.noise.rows.is_empty() {
        out.folded(
            "NMSE of each engine against itself, beside the difference between them",
            |out| out.table(&facts.noise),
        );
    }
    if let Some(check) = &facts.spot_check {
        out.sentence(&format!("{check}."));
        out.titled("Stages that the oracle finds wrong:", &facts.wrong_stages);
    }
    if facts.logits.rows.is_empty() {
        out.sentence("Logits: not measured.");
    } else {
        out.folded("Logits", |out| {
            out.table(&facts.logits);
            out.titled(
                "Positions with another most likely token:",
                &facts.disagreements,
            );
        });
    }
    for worst in &facts.worst {
        let title = format!(
            "Likeliest tokens where the distributions differ most, {}",
            worst.mode
        );
        out.folded(&title, |out| {
            for position in out.shown("positions", &worst.positions) {
                let tie = match position.near_tie {
                    true => ", a near tie",
                    false => "",
                };
                out.titled(&format!("{}{tie}:", position.title), &position.tokens);
            }
            if worst.left_out > 0 {
                out.sentence(&format!("{} more in report.json.", worst.left_out));
            }
        });
    }
    if let Some(note) = &facts.conditions_note {
        out.sentence(&format!("Other conditions: {note}"));
    }
    if !facts.conditions.rows.is_empty() {
        out.folded(
            "NMSE of the logits under other conditions, between the engines and of each against itself",
            |out| out.table(&facts.conditions),
        );
    }
    if !facts.perplexity.rows.is_empty() {
        out.folded("Perplexity", |out| out.table(&facts.perplexity));
    }
    if facts.generations.is_empty() {
        out.sentence("Generation: not measured.");
    } else {
        out.folded("Generation", |out| generations(out, facts));
    }
}

fn generations(out: &mut Writer, facts: &Facts<'_>) {
    for generated in out.shown("prompts", &facts.generations) {
        out.sentence(&format!(
            "Prompt {}: {}",
            generated.prompt, generated.sentence
        ));
        let sides = generated.sides.iter();
        let texts: Vec<_> = sides.map(|s| (s.engine.as_str(), s.whole_text())).collect();
        out.quotes(&texts);
    }
}

fn tokenizers(out: &mut Writer, tokenizer: &Tokenizer) {
    for sentence in &tokenizer.sentences {
        out.sentence(sentence);
    }
    out.table(&tokenizer.texts);
    for (text, around) in out.shown("texts", &tokenizer.partings) {
        out.titled(&format!("Where the engines part on {text}:"), around);
    }
    out.titled("Generated strings that differ:", &tokenizer.generated);
    out.titled("Tokens with another text by themselves:", &tokenizer.pieces);
}

fn conclusion(out: &mut Writer, facts: &Facts<'_>, digest: &Digest) {
    out.heading(2, "Key advantages");
    for advantages in &digest.advantages {
        let name = format!("{}:", advantages.engine);
        if !advantages.measured {
            out.stressed(&name, number::NOT_MEASURED);
        } else if advantages.sentences.is_empty() {
            out.stressed(&name, "none that the measurements show");
        } else {
            out.stressed(&name, "");
            out.list("advantages", &advantages.sentences);
        }
    }
    out.heading(2, "Recommendations");
    match facts.next.as_slice() {
        [] if facts.verdict.status == Status::Pass.name() => {
            out.sentence("None: nothing in the run calls for a step.")
        }
        [] => out.sentence("None that the report's data show."),
        steps => out.list("steps", steps),
    }
    out.heading(3, "Which engine for what");
    if digest.purposes.is_empty() {
        out.sentence("Speed and memory: not measured.");
    } else {
        out.list("purposes", &digest.purposes);
        for limit in &digest.evidence {
            out.sentence(limit);
        }
    }
    out.heading(2, "Conclusion");
    out.sentence(&digest.conclusion);
}
