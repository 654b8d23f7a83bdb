//! What an engine says of itself and of the model, held against what the file says.

use std::collections::BTreeSet;
use std::fmt::Debug;

use bitnet_model::Architecture;
use crossval_protocol::{Hello, ModelFacts};
use reports::model::{Finding, Role, Source};
use reports::outcome::Outcome;

/// That an engine says what is not so, if it does. What it leaves out is not held against it.
pub(crate) fn finding(
    role: Role,
    name: &str,
    hello: &Hello,
    said: &ModelFacts,
    is: &ModelFacts,
) -> Option<Finding> {
    let false_claims = false_claims(hello, said, is);
    (!false_claims.is_empty()).then(|| Finding {
        outcome: Outcome::Engine,
        source: Source::Engine,
        place: Some(role.into()),
        text: format!(
            "the {role} ({name}) says what is not so: {}",
            false_claims.join("; ")
        ),
    })
}

/// What an engine says that is not so, one clause each.
pub(crate) fn false_claims(hello: &Hello, said: &ModelFacts, is: &ModelFacts) -> Vec<String> {
    let mut claims = of_itself(hello, is);
    claims.extend(of_the_model(said, is));
    claims
}

/// It has loaded the model, and runs it.
fn of_itself(hello: &Hello, is: &ModelFacts) -> Vec<String> {
    let mut claims = Vec::new();
    let mut seen = BTreeSet::new();
    let twice = hello.taps.iter().find(|&&tap| !seen.insert(tap));
    claims.extend(twice.map(|tap| format!("it offers {tap} twice")));
    // Of one that nobody here knows it need not be known by name what it is.
    let known = Architecture::named(&is.architecture).is_some();
    if known && !hello.architectures.contains(&is.architecture) {
        claims.push(format!(
            "it runs no {}, which this model is",
            is.architecture
        ));
    }
    let types = is.tensor_types.keys();
    let lacking: Vec<&str> = types
        .filter(|ty| !hello.dtypes.contains(ty))
        .map(String::as_str)
        .collect();
    if !lacking.is_empty() {
        claims.push(format!(
            "it runs no {}, which this model has",
            lacking.join(" and no ")
        ));
    }
    claims
}

fn of_the_model(said: &ModelFacts, is: &ModelFacts) -> Vec<String> {
    let mut claims = Vec::new();
    let mut claim = |what: &str, said: &dyn Debug, is: &dyn Debug| {
        claims.push(format!("{what} {said:?}, where the file has {is:?}"));
    };
    if said.architecture != is.architecture {
        claim("architecture", &said.architecture, &is.architecture);
    }
    let sizes = |facts: &ModelFacts| {
        [
            facts.n_layer,
            facts.n_embd,
            facts.n_ff,
            facts.n_head,
            facts.n_head_kv,
            facts.n_vocab,
            facts.n_ctx_train,
        ]
    };
    let names = [
        "layers",
        "embedding width",
        "feed-forward width",
        "heads",
        "key/value heads",
        "vocabulary",
        "context",
    ];
    for ((what, said), is) in names.into_iter().zip(sizes(said)).zip(sizes(is)) {
        if said != is {
            claim(what, &said, &is);
        }
    }
    let set = |facts: &ModelFacts| facts.taps.iter().copied().collect::<BTreeSet<_>>();
    if set(said) != set(is) {
        let missing: Vec<&str> = is
            .taps
            .iter()
            .filter(|t| !said.taps.contains(t))
            .map(|t| t.name())
            .collect();
        let beyond: Vec<&str> = said
            .taps
            .iter()
            .filter(|t| !is.taps.contains(t))
            .map(|t| t.name())
            .collect();
        for (what, taps) in [("lacks", missing), ("has", beyond)] {
            if !taps.is_empty() {
                claims.push(format!("the model {what} the taps {}", taps.join(", ")));
            }
        }
    }
    // The next two may be left out.
    if !said.tensor_types.is_empty() && said.tensor_types != is.tensor_types {
        let (said, is) = (&said.tensor_types, &is.tensor_types);
        claims.push(format!(
            "tensors of types {said:?}, where the file has {is:?}"
        ));
    }
    for (tap, types) in &said.weight_types {
        let sorted = |types: &[String]| types.iter().cloned().collect::<BTreeSet<_>>();
        let is = is.weight_types.get(tap).map_or(&[][..], Vec::as_slice);
        if sorted(types) != sorted(is) {
            let (said, is) = (types.join(" "), is.join(" "));
            claims.push(format!(
                "weights of {tap} in {said}, where the file has {is}"
            ));
        }
    }
    claims
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bitnet_model::tap::Tap;
    use bitnet_model::{Hyperparameters, gguf::Gguf};
    use crossval_protocol::facts;

    use super::*;

    fn model() -> ModelFacts {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny-bitnet.gguf");
        let gguf = Gguf::open(&file).unwrap();
        facts::model(&gguf, &Hyperparameters::read(&gguf).unwrap())
    }

    fn hello() -> Hello {
        Hello {
            protocol: 2,
            engine: "e".into(),
            version: None,
            build: Default::default(),
            architectures: vec!["bitnet-b1.58".into()],
            taps: Tap::ALL.to_vec(),
            overwrite: true,
            dtypes: ["F32", "F16", "I2_S"].map(str::to_owned).to_vec(),
            tokenizer: false,
            judges: false,
            graphs: false,
        }
    }

    #[test]
    fn the_truth_is_no_finding_and_neither_is_silence() {
        let is = model();
        let silent = ModelFacts {
            tensor_types: Default::default(),
            weight_types: Default::default(),
            name: None,
            vocab: None,
            work: None,
            ..is.clone()
        };
        for said in [&is, &silent] {
            let found = finding(Role::Candidate, "e", &hello(), said, &is);
            assert_eq!(found, None);
        }
    }

    /// One change each.
    #[test]
    fn whatever_is_not_so_is_named() {
        type Lie = fn(&mut Hello, &mut ModelFacts);
        let lies: [(Lie, &str); 15] = [
            (|h, _| h.taps.push(Tap::Q), "it offers q twice"),
            (|h, _| h.architectures.clear(), "it runs no bitnet-b1.58"),
            (|h, _| h.dtypes.truncate(2), "it runs no I2_S"),
            (
                |_, m| m.architecture = "llama".into(),
                "architecture \"llama\"",
            ),
            (|_, m| m.n_layer += 1, "layers 7, where the file has 6"),
            (|_, m| m.n_embd = 1, "embedding width 1,"),
            (|_, m| m.n_ff = 1, "feed-forward width 1,"),
            (|_, m| m.n_head = 1, "heads 1,"),
            (|_, m| m.n_head_kv = 1, "key/value heads 1,"),
            (|_, m| m.n_vocab = 1, "vocabulary 1, where the file has 512"),
            (|_, m| m.n_ctx_train = 1, "context 1,"),
            (
                |_, m| m.taps.retain(|&tap| tap != Tap::K),
                "the model lacks the taps k",
            ),
            (|_, m| m.tensor_types.extend([("Q8_0".into(), 1)]), "Q8_0"),
            (
                |_, m| m.weight_types.extend([(Tap::FfnUp, vec!["F16".into()])]),
                "weights of ffn_up in F16, where the file has I2_S",
            ),
            (
                |_, m| m.weight_types.extend([(Tap::Embd, vec!["F16".into()])]),
                "weights of embd in F16",
            ),
        ];
        let is = model();
        for (lie, says) in lies {
            let (mut hello, mut said) = (hello(), is.clone());
            lie(&mut hello, &mut said);
            let found = finding(Role::Reference, "e", &hello, &said, &is).unwrap();
            assert!(found.text.contains(says), "{says:?} in {}", found.text);
            assert_eq!(found.text.matches(';').count(), 0, "{}", found.text);
            assert_eq!(
                (found.outcome, found.role()),
                (Outcome::Engine, Some(Role::Reference))
            );
        }
    }
}
