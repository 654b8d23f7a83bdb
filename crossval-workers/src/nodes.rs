//! Which node of BitNet.cpp's graph is which tap. Decided once per graph, by what each node is called, what it does, what
//! it is computed from, and its shape: never by position or substring.
//!
//! | module | what |
//! |---|---|
//! | `table` | a row per tap and generation of llama.cpp |
//! | `recognise` | holds a graph against the table |
//! | `outline` | finds what every transformer has, in a graph that no table describes |

mod outline;
mod recognise;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use bitnet_model::Hyperparameters;
use bitnet_model::tap::Tap;
use crossval_protocol::{Graph, GraphSource, Graphs};

pub(crate) use self::outline::Outline;
use self::recognise::{Recognised, recognise};
pub(crate) use self::table::Layout;

/// What is known of the model whose graph it is.
#[derive(Debug)]
pub(crate) enum Shape {
    /// Every stage.
    Whole(Hyperparameters),
    /// Of an architecture that nobody here knows.
    Outline(Outline),
}

/// The pins, by the names that the build gives them.
const PINS: [&str; 3] = ["2024-11", "2026-01", "llama.cpp"];

/// The architectures whose graphs are known, with the pins that build them.
const GRAPHS: [(&str, &[&str]); 5] = [
    ("bitnet", &PINS),
    ("bitnet-25", &["2026-01"]),
    ("bitnet-b1.58", &["2026-01"]),
    ("llama", &PINS),
    ("qwen3", &["llama.cpp"]),
];

/// The architectures that a vintage builds, of those that are known. What is no pin but somebody's checkout may build
/// any.
pub(crate) fn architectures(vintage: &str) -> impl Iterator<Item = &'static str> + use<'_> {
    let any = !PINS.contains(&vintage);
    let built = GRAPHS
        .iter()
        .filter(move |(_, pins)| any || pins.contains(&vintage));
    built.map(|(name, _)| *name)
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) tap: Tap,
    pub(crate) layer: Option<usize>,
    pub(crate) layout: Layout,
}

/// What a node goes by: its name, or where nobody gave it one the tensor of the file that it applies.
pub(crate) fn key<'a>(name: &'a str, mut sources: impl Iterator<Item = &'a str>) -> &'a str {
    let of_file = |name: &&str| {
        [".weight", ".scale", ".bias"]
            .iter()
            .any(|part| name.ends_with(part))
    };
    match is_unnamed(name) {
        true => sources.find(of_file).unwrap_or(name),
        false => name,
    }
}

/// Whether ggml has numbered the node, since its builder gave it no name.
fn is_unnamed(name: &str) -> bool {
    let number = name.strip_prefix("node_");
    number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Maps nodes to taps for one model.
#[derive(Debug, Default)]
pub(crate) struct NodeMap {
    /// Of evaluations of one token, and of several.
    kinds: [Nodes; 2],
}

/// By [`key`]: operation and occurrence among nodes of both.
type Nodes = HashMap<String, Vec<(String, u32, Place)>>;

impl NodeMap {
    /// From the graph of one token and that of several, and what they show.
    pub(crate) fn new(one: Graph, several: Graph, model: &Shape) -> (NodeMap, Graphs) {
        let mut not_offered = BTreeMap::new();
        let mut seen = |mut graph: Graph| {
            let Recognised {
                places,
                taken_for,
                missing,
            } = match model {
                Shape::Whole(model) => recognise(&graph, model),
                Shape::Outline(outline) => outline.recognise(&graph),
            };
            for (node, taken_for) in graph.nodes.iter_mut().zip(taken_for) {
                node.taken_for = taken_for;
            }
            for (tap, reason) in missing {
                not_offered.entry(tap).or_insert(reason);
            }
            let (mut nodes, mut occurrences) = (Nodes::new(), HashMap::new());
            for (node, place) in graph.nodes.iter().zip(places) {
                let seen = occurrences.entry((&node.name, &node.op)).or_insert(0);
                if let Some(place) = place {
                    let tensors = node.sources.iter().filter_map(|source| match source {
                        GraphSource::Tensor(name) => Some(name.as_str()),
                        GraphSource::Node(_) => None,
                    });
                    let of_name = nodes.entry(key(&node.name, tensors).to_owned());
                    let of_name = of_name.or_default();
                    of_name.push((node.op.clone(), *seen, place));
                }
                *seen += 1;
            }
            (nodes, graph)
        };
        let (of_one, one) = seen(one);
        let (of_several, several) = seen(several);
        let map = NodeMap {
            kinds: [of_one, of_several],
        };
        let graphs = Graphs {
            graphs: vec![several, one],
            not_offered,
        };
        (map, graphs)
    }

    /// What a node of an evaluation of `n_tokens` is, by the name under which [`key`] has it.
    pub(crate) fn place(
        &self,
        n_tokens: usize,
        key: &str,
        op: &str,
        occurrence: u32,
    ) -> Option<Place> {
        let kind = usize::from(n_tokens != 1);
        let mut nodes = self.kinds[kind].get(key)?.iter();
        let found = nodes.find(|(of, seen, _)| of == op && *seen == occurrence);
        found.map(|(_, _, place)| *place)
    }
}
