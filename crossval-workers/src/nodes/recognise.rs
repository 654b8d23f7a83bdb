//! Holds a graph against the table.

use std::collections::{BTreeMap, HashMap};

use bitnet_model::Hyperparameters;
use bitnet_model::tap::{Tap, Weight, sites};
use crossval_protocol::{Graph, GraphNode, GraphSource, TakenFor};

use super::table::{Generation, Input, Layout, Row, TABLE, UNNAMED};
use super::{Place, is_unnamed};

/// Operations that give the values of their first source another shape.
const VIEWS: [&str; 5] = ["VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE", "CONT"];

/// What became of a graph.
pub(super) struct Recognised {
    /// Of every node, which tap it is.
    pub(super) places: Vec<Option<Place>>,
    /// Of every node, what it is taken for.
    pub(super) taken_for: Vec<TakenFor>,
    /// Taps of the model that are not there in every layer, with the reason.
    pub(super) missing: BTreeMap<Tap, String>,
}

/// Finds every tap of the model, in the order of the forward pass.
pub(super) fn recognise(graph: &Graph, model: &Hyperparameters) -> Recognised {
    let mut search = Search {
        graph,
        model,
        by_name: HashMap::new(),
        found: HashMap::new(),
        within: HashMap::new(),
    };
    for (index, node) in graph.nodes.iter().enumerate() {
        let of_name = search.by_name.entry(plain_name(node)).or_default();
        of_name.push(index);
    }
    let (mut places, mut missing) = (vec![None; graph.nodes.len()], BTreeMap::new());
    for (layer, tap) in sites(&model.architecture.taps(), model.n_layer) {
        match search.find(tap, layer) {
            Ok((index, layout)) => {
                places[index] = Some(Place { tap, layer, layout });
                search.found.insert((tap, layer), index);
            }
            Err(reason) => {
                missing.entry(tap).or_insert(reason);
            }
        }
    }
    // A tap that some layer lacks would be missing from each evaluation.
    for place in &mut places {
        place.take_if(|place| missing.contains_key(&place.tap));
    }
    let beside_taps = connected(graph, |index| places[index].is_some());
    let nodes = graph.nodes.iter().enumerate();
    let taken_for = nodes.map(|(index, node)| match places[index] {
        Some(place) => TakenFor::Tap(place.tap),
        None => match search.within.get(&index) {
            Some(&tap) => TakenFor::Within(tap),
            None if !beside_taps[index] => TakenFor::Apart,
            None if seen_through(node).is_some() => TakenFor::View,
            None => TakenFor::Unknown,
        },
    });
    Recognised {
        taken_for: taken_for.collect(),
        places,
        missing,
    }
}

/// Of every node, whether one of `these` is computed from it or it from one of them, by however many steps to and fro. All
/// nodes where there is none of `these`.
///
/// llama.cpp of 2026 builds branches that it then does not take, such as rows of embeddings given in place of tokens.
fn connected(graph: &Graph, these: impl Fn(usize) -> bool) -> Vec<bool> {
    let mut part: Vec<usize> = (0..graph.nodes.len()).collect();
    for (index, node) in graph.nodes.iter().enumerate() {
        let sources = node.sources.iter().filter_map(|source| match *source {
            GraphSource::Node(source) if source < index => Some(part[source]),
            _ => None,
        });
        for other in sources.collect::<Vec<_>>() {
            let joined = part[index];
            for p in part.iter_mut().filter(|p| **p == joined) {
                *p = other;
            }
        }
    }
    let mut of_these: Vec<usize> = (0..part.len())
        .filter(|&n| these(n))
        .map(|n| part[n])
        .collect();
    of_these.sort_unstable();
    of_these.dedup();
    let none = of_these.is_empty();
    let inside = |p: &usize| none || of_these.binary_search(p).is_ok();
    part.iter().map(inside).collect()
}

/// The name that the graph's builder gave, without what ggml appends: ` (view)`, ` (copy of Kcur-3)`.
pub(super) fn plain_name(node: &GraphNode) -> &str {
    match is_unnamed(&node.name) {
        true => UNNAMED,
        false => node.name.split(" (").next().unwrap_or_default(),
    }
}

/// The source that a node is another shape of.
fn seen_through(node: &GraphNode) -> Option<&GraphSource> {
    // In the last layer, the rows whose logits are asked for: here all of them.
    let all_rows = node.op == "GET_ROWS" && matches!(node.sources[..], [GraphSource::Node(_), _]);
    let view = all_rows || VIEWS.contains(&node.op.as_str());
    node.sources.first().filter(|_| view)
}

struct Search<'a> {
    graph: &'a Graph,
    model: &'a Hyperparameters,
    by_name: HashMap<&'a str, Vec<usize>>,
    found: HashMap<(Tap, Option<usize>), usize>,
    /// Nodes that are steps of a stage.
    within: HashMap<usize, Tap>,
}

/// Why a node does not fit a row; the one that came furthest is worth telling.
#[derive(Debug)]
enum Misfit {
    Name,
    Op(String),
    Inputs(String),
    Shape(String),
    Twice(String),
}

impl Misfit {
    /// The one of two that came further, the first if neither did.
    fn or(self, other: Misfit) -> Misfit {
        let rank = |misfit: &Misfit| match misfit {
            Misfit::Name => 0,
            Misfit::Op(_) => 1,
            Misfit::Inputs(_) => 2,
            Misfit::Shape(_) => 3,
            Misfit::Twice(_) => 4,
        };
        if rank(&other) > rank(&self) {
            other
        } else {
            self
        }
    }
}

impl Search<'_> {
    /// The node that is a tap.
    fn find(&mut self, tap: Tap, layer: Option<usize>) -> Result<(usize, Layout), String> {
        let (mut names, mut worst) = (Vec::new(), Misfit::Name);
        for row in TABLE.iter().filter(|row| row.tap == tap) {
            let at = layer.map_or(String::new(), |layer| layer.to_string());
            let name = row.name.replace("{}", &at);
            match self.fitting(row, &name, layer) {
                Ok((index, within)) => {
                    let steps = within.into_iter().map(|step| (step, tap));
                    self.within.extend(steps);
                    return Ok((index, row.layout));
                }
                Err(misfit) => worst = worst.or(misfit),
            }
            let whose = match row.generation {
                Generation::Fork2024 => " (as in the fork of 2024)",
                Generation::Llama2026 => " (as in llama.cpp of 2026)",
                Generation::Either => "",
            };
            let name = format!("{name}{whose}");
            if row.name != UNNAMED && !names.contains(&name) {
                names.push(name);
            }
        }
        Err(match worst {
            Misfit::Name => format!("no node is called {}", names.join(" or ")),
            Misfit::Op(what) | Misfit::Inputs(what) | Misfit::Shape(what) | Misfit::Twice(what) => {
                what
            }
        })
    }

    /// The one node that fits a row, and the nodes that are steps on the way to it.
    fn fitting(
        &self,
        row: &Row,
        name: &str,
        layer: Option<usize>,
    ) -> Result<(usize, Vec<usize>), Misfit> {
        let mut fits: Option<(usize, Vec<usize>)> = None;
        let mut worst = Misfit::Name;
        for &index in self.by_name.get(name).into_iter().flatten() {
            let node = &self.graph.nodes[index];
            let it = format!("node {index}, {} ({}),", node.name, node.op);
            let misfit = if node.op != row.op {
                Misfit::Op(format!("{it} is not a {}", row.op))
            } else if let Some(within) = self.comes_from(row, node, layer) {
                match self.misshapen(row, node) {
                    Some(what) => Misfit::Shape(format!("{it} {what}")),
                    None => match fits.replace((index, within)) {
                        Some((other, _)) => {
                            return Err(Misfit::Twice(format!(
                                "{it} and node {other} could both be it"
                            )));
                        }
                        None => continue,
                    },
                }
            } else {
                let from: Vec<String> = node.sources.iter().map(|s| self.describe(s)).collect();
                let from = from.join(", ");
                Misfit::Inputs(format!("{it} is computed from something else: {from}"))
            };
            // What has no name is nobody's, unless it fits.
            if name != UNNAMED {
                worst = worst.or(misfit);
            }
        }
        fits.ok_or(worst)
    }

    fn describe(&self, source: &GraphSource) -> String {
        match source {
            GraphSource::Tensor(name) => name.clone(),
            GraphSource::Node(index) => {
                let node = self.graph.nodes.get(*index);
                node.map_or("?".to_owned(), |node| {
                    format!("{} ({})", node.name, node.op)
                })
            }
        }
    }

    /// Whether a node is computed from what the row says; the steps between.
    fn comes_from(&self, row: &Row, node: &GraphNode, layer: Option<usize>) -> Option<Vec<usize>> {
        let mut within = Vec::new();
        let fits = self.all_are(row.inputs, node, (row.tap, layer), &mut within);
        fits.then_some(within)
    }

    fn all_are(
        &self,
        inputs: &[Input],
        node: &GraphNode,
        of: (Tap, Option<usize>),
        within: &mut Vec<usize>,
    ) -> bool {
        let mut fit = |order: &[usize]| {
            let before = within.len();
            let mut inputs = inputs.iter().zip(order);
            let fits = inputs.all(|(input, &at)| {
                let source = node.sources.get(at);
                source.is_some_and(|source| self.is(input, source, of, within))
            });
            if !fits {
                within.truncate(before);
            }
            fits
        };
        let commutes = inputs.len() == 2 && matches!(node.op.as_str(), "ADD" | "MUL");
        let in_order: Vec<usize> = (0..inputs.len()).collect();
        fit(&in_order) || (commutes && fit(&[1, 0]))
    }

    fn is(
        &self,
        input: &Input,
        source: &GraphSource,
        of: (Tap, Option<usize>),
        within: &mut Vec<usize>,
    ) -> bool {
        let (tap, layer) = of;
        match *input {
            Input::Any => true,
            Input::Named(name) => self.tensor(source) == Some(name),
            Input::Part(suffix) => self
                .tensor(source)
                .is_some_and(|name| is_part(name, tap, layer, suffix)),
            Input::Is(taps) => {
                let has = |tap: &&Tap| self.model.architecture.has(**tap);
                let tap = taps.iter().find(has);
                tap.is_none_or(|&tap| self.is_tap(source, (tap, layer_of(tap, layer))))
            }
            Input::Residual => {
                let before = layer.unwrap_or(self.model.n_layer).checked_sub(1);
                self.is_tap(
                    source,
                    match before {
                        Some(before) => (Tap::LayerOut, Some(before)),
                        None => (Tap::Embd, None),
                    },
                )
            }
            Input::Op(op, inputs) => {
                let Some((index, node)) = self.behind(source, |_, node| node.op == op) else {
                    return false;
                };
                within.push(index);
                self.all_are(inputs, node, of, within)
            }
        }
    }

    /// Whether a source is a tap's node; if that was not found, it may be.
    fn is_tap(&self, source: &GraphSource, tap: (Tap, Option<usize>)) -> bool {
        let tap = self.found.get(&tap);
        tap.is_none_or(|&tap| self.behind(source, |index, _| index == tap).is_some())
    }

    /// The first node that is wanted, from a source on back through what is only another shape of it.
    fn behind(
        &self,
        source: &GraphSource,
        wanted: impl Fn(usize, &GraphNode) -> bool,
    ) -> Option<(usize, &GraphNode)> {
        let (mut source, mut before) = (source, self.graph.nodes.len());
        loop {
            let GraphSource::Node(index) = *source else {
                return None;
            };
            // Of nodes that come later there is none.
            let node = self.graph.nodes.get(index).filter(|_| index < before)?;
            if wanted(index, node) {
                return Some((index, node));
            }
            (source, before) = (seen_through(node)?, index);
        }
    }

    /// The tensor that a source is, or is another shape of.
    fn tensor<'s>(&'s self, source: &'s GraphSource) -> Option<&'s str> {
        let (mut source, mut before) = (source, self.graph.nodes.len());
        loop {
            match source {
                GraphSource::Tensor(name) => return Some(name),
                GraphSource::Node(index) => {
                    let node = self.graph.nodes.get(*index).filter(|_| *index < before)?;
                    (source, before) = (seen_through(node)?, *index);
                }
            }
        }
    }

    /// What is wrong with a node's shape or type for the tap.
    fn misshapen(&self, row: &Row, node: &GraphNode) -> Option<String> {
        let ty = if row.tap.is_f16() { "f16" } else { "f32" };
        if node.ty != ty {
            return Some(format!("is of type {}, not {ty}", node.ty));
        }
        let n_tokens = self.graph.n_tokens;
        let width = self.model.width(row.tap, n_tokens);
        let shape = |node: &GraphNode| -> Vec<usize> {
            let dimensions = node.shape.iter();
            dimensions
                .map(|&n| usize::try_from(n).unwrap_or(0))
                .collect()
        };
        let (is, mut fits) = (shape(node), false);
        let whole = |shape: &[usize]| {
            let elements = shape.iter().try_fold(1usize, |n, &m| n.checked_mul(m));
            elements == width.checked_mul(n_tokens)
        };
        match row.layout {
            Layout::Rows => fits = whole(&is),
            Layout::Columns => fits = is.first() == Some(&n_tokens) && whole(&is),
            Layout::Probabilities => {
                // One head alone leaves no dimension for heads.
                let [n_kv, rows, heads] = std::array::from_fn(|i| is.get(i).map_or(1, |&n| n));
                let n_head = self.model.n_head;
                fits = is.len() <= 3 && n_kv >= n_tokens && (rows, heads) == (n_tokens, n_head);
            }
            Layout::Written => {
                if let Some(GraphSource::Node(rows)) = node.sources.first() {
                    let rows = self.graph.nodes.get(*rows);
                    fits = rows.is_some_and(|rows| whole(&shape(rows)));
                }
            }
        }
        (!fits).then(|| format!("is of shape {is:?}, which holds no {n_tokens} rows of {width}"))
    }
}

/// The layer that a tap is in, for a stage in `layer`.
fn layer_of(tap: Tap, layer: Option<usize>) -> Option<usize> {
    layer.filter(|_| tap.per_layer())
}

/// Whether a tensor is the one of this suffix that a stage applies.
fn is_part(name: &str, tap: Tap, layer: Option<usize>, suffix: &str) -> bool {
    let block = layer.map_or(String::new(), |layer| format!("blk.{layer}."));
    let is = |weight: &str| name == format!("{block}{weight}.{suffix}");
    match tap.weight() {
        Some(Weight::Norm(weight) | Weight::HeadNorm(weight) | Weight::Matrix(weight)) => {
            is(weight)
        }
        Some(Weight::Head) => is("output") || is("token_embd"),
        None => false,
    }
}
