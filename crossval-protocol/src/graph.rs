//! The compute graphs of an engine that has some, and what it takes their nodes for.

use std::collections::BTreeMap;
use std::fmt;

use bitnet_model::tap::Tap;
use serde::{Deserialize, Serialize};

/// What an engine's library evaluates for the loaded model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graphs {
    /// One graph per kind of evaluation: of one token, and of several.
    pub graphs: Vec<Graph>,
    /// Taps of the model that are not among the nodes, with the reason. They are not offered for this model, whatever
    /// the hello says.
    pub not_offered: BTreeMap<Tap, String>,
}

/// One evaluation from position 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    /// Tokens that it evaluates.
    pub n_tokens: usize,
    /// In the order in which they are evaluated.
    pub nodes: Vec<GraphNode>,
}

/// A node of a graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphNode {
    /// Its name; names repeat within a graph.
    pub name: String,
    /// Its operation.
    pub op: String,
    /// Elements per dimension, fastest first, without the ones at the end.
    pub shape: Vec<i64>,
    /// Type of its elements, as the library says it.
    #[serde(rename = "type")]
    pub ty: String,
    /// What it is computed from.
    pub sources: Vec<GraphSource>,
    /// What it is taken for.
    pub taken_for: TakenFor,
}

/// What a node is computed from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GraphSource {
    /// A node before it, by its index.
    Node(usize),
    /// Anything else, by its name: a weight, an input, a cache.
    Tensor(String),
}

/// What a node is taken for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TakenFor {
    /// A tap.
    Tap(Tap),
    /// A step within the stage of a tap.
    Within(Tap),
    /// The values of its source, in another shape.
    View,
    /// Of a part of the graph that no tap is connected with.
    Apart,
    /// It was not understood.
    #[default]
    Unknown,
}

impl Graph {
    /// One line on the nodes that were not understood, each name once for all layers; `None` where all were.
    pub fn not_understood(&self) -> Option<String> {
        let unknown = self
            .nodes
            .iter()
            .filter(|n| n.taken_for == TakenFor::Unknown);
        let count = unknown.clone().count();
        let mut names: Vec<String> = Vec::new();
        for node in unknown {
            let (base, layer) = node.name.rsplit_once('-').unwrap_or((&node.name, ""));
            let of_layers = !layer.is_empty() && layer.bytes().all(|b| b.is_ascii_digit());
            let base = if of_layers { base } else { &node.name };
            let name = format!("{} ({})", plain(base), plain(&node.op));
            if !names.contains(&name) {
                names.push(name);
            }
        }
        (count > 0).then(|| {
            let (of, n) = (self.nodes.len(), self.n_tokens);
            let names = names.join(", ");
            format!("not understood in the graph of {n}: {count} of {of} nodes: {names}")
        })
    }
}

/// A line per node: index, name, operation, type, shape, sources (nodes as `#index`), and what it is taken for, as
/// `tap`, `(within tap)`, `-` for a view, `(apart)`, or `?`. Columns are two spaces apart or more, which no column has within.
impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<[String; 7]> = self.nodes.iter().enumerate().map(columns).collect();
        let width = |column: usize| {
            let cells = columns.iter().map(|cells| cells[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: [usize; 7] = std::array::from_fn(width);
        let tokens = if self.n_tokens == 1 {
            "token"
        } else {
            "tokens"
        };
        writeln!(f, "graph of {} {tokens}", self.n_tokens)?;
        for cells in &columns {
            let mut line = format!("{:>width$}", cells[0], width = widths[0]);
            for (cell, width) in cells.iter().zip(widths).skip(1) {
                line += &format!("  {cell:width$}");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// What a worker says, without control characters, and without the space in front of ` (view)`, of what has no name.
fn plain(text: &str) -> String {
    text.trim().escape_debug().to_string()
}

fn columns((index, node): (usize, &GraphNode)) -> [String; 7] {
    let sources = node.sources.iter().map(|source| match source {
        GraphSource::Node(index) => format!("#{index}"),
        GraphSource::Tensor(name) => plain(name),
    });
    let sources: Vec<String> = sources.collect();
    let shape: Vec<String> = node.shape.iter().map(i64::to_string).collect();
    [
        index.to_string(),
        plain(&node.name),
        plain(&node.op),
        plain(&node.ty),
        shape.join("x"),
        sources.join(", "),
        match node.taken_for {
            TakenFor::Tap(tap) => tap.to_string(),
            TakenFor::Within(tap) => format!("(within {tap})"),
            TakenFor::View => "-".to_owned(),
            TakenFor::Apart => "(apart)".to_owned(),
            TakenFor::Unknown => "?".to_owned(),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, op: &str, taken_for: TakenFor) -> GraphNode {
        GraphNode {
            name: name.to_owned(),
            op: op.to_owned(),
            shape: vec![64, 3],
            ty: "f32".to_owned(),
            sources: vec![
                GraphSource::Node(0),
                GraphSource::Tensor("blk.0.attn_q.weight".to_owned()),
            ],
            taken_for,
        }
    }

    #[test]
    fn a_line_per_node() {
        let nodes = vec![
            node("Qcur-0", "MUL_MAT", TakenFor::Tap(Tap::Q)),
            node("kq-0", "MUL_MAT", TakenFor::Within(Tap::AttnProbs)),
            node("a\u{1b}[1m", "VIEW", TakenFor::View),
        ];
        let graph = Graph { n_tokens: 3, nodes };
        let expected = "\
graph of 3 tokens
0  Qcur-0      MUL_MAT  f32  64x3  #0, blk.0.attn_q.weight  q
1  kq-0        MUL_MAT  f32  64x3  #0, blk.0.attn_q.weight  (within attn_probs)
2  a\\u{1b}[1m  VIEW     f32  64x3  #0, blk.0.attn_q.weight  -
";
        assert_eq!(graph.to_string(), expected);
        assert_eq!(graph.not_understood(), None);
    }

    #[test]
    fn what_was_not_understood_is_named_once_for_all_layers() {
        let nodes = vec![
            node("Qcur_normed-0", "RMS_NORM", TakenFor::Unknown),
            node("Qcur_normed-1", "RMS_NORM", TakenFor::Unknown),
            node("Qcur-1", "MUL_MAT", TakenFor::Tap(Tap::Q)),
            node("node_7-x", "ADD", TakenFor::Unknown),
        ];
        let graph = Graph { n_tokens: 1, nodes };
        assert_eq!(
            graph.not_understood().unwrap(),
            "not understood in the graph of 1: 3 of 4 nodes: Qcur_normed (RMS_NORM), node_7-x (ADD)"
        );
    }
}
