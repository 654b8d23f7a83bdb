//! A graph of an architecture that nobody here knows: what every transformer has, by name and shape alone, since what it is
//! computed from is not known.

use std::collections::BTreeMap;

use bitnet_model::tap::{Tap, sites};
use crossval_protocol::{Graph, GraphNode, TakenFor};

use super::Place;
use super::recognise::{Recognised, plain_name};
use super::table::{Layout, TABLE};

/// The sizes of a model that no engine here knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outline {
    pub(crate) n_layer: usize,
    /// Width of the residual stream.
    pub(crate) n_embd: usize,
    pub(crate) n_vocab: usize,
}

impl Outline {
    /// Finds [`Tap::OUTLINE`].
    pub(super) fn recognise(&self, graph: &Graph) -> Recognised {
        let (mut places, mut missing) = (vec![None; graph.nodes.len()], BTreeMap::new());
        for (layer, tap) in sites(&Tap::OUTLINE, self.n_layer) {
            match self.find(graph, tap, layer) {
                Ok(index) => {
                    let layout = Layout::Rows;
                    places[index] = Some(Place { tap, layer, layout });
                }
                Err(reason) => {
                    missing.entry(tap).or_insert(reason);
                }
            }
        }
        for place in &mut places {
            place.take_if(|place: &mut Place| missing.contains_key(&place.tap));
        }
        let taken_for = places.iter().map(|place| match place {
            Some(place) => TakenFor::Tap(place.tap),
            None => TakenFor::Unknown,
        });
        Recognised {
            taken_for: taken_for.collect(),
            places,
            missing,
        }
    }

    /// The last node of one of the tap's names, which holds a row per token.
    fn find(&self, graph: &Graph, tap: Tap, layer: Option<usize>) -> Result<usize, String> {
        let rows = TABLE.iter().filter(|row| row.tap == tap);
        let at = layer.map_or(String::new(), |layer| layer.to_string());
        let mut names: Vec<String> = rows.map(|row| row.name.replace("{}", &at)).collect();
        names.dedup();
        let width = match tap {
            Tap::Logits => self.n_vocab,
            _ => self.n_embd,
        };
        let whole = |node: &GraphNode| {
            let mut sizes = node.shape.iter().map(|&n| usize::try_from(n).unwrap_or(0));
            node.ty == "f32"
                && sizes.next() == Some(width)
                && sizes.product::<usize>() == graph.n_tokens
        };
        let named = |node: &GraphNode| names.iter().any(|name| name == plain_name(node));
        match graph.nodes.iter().rposition(named) {
            None => Err(format!("no node is called {}", names.join(" or "))),
            Some(index) if whole(&graph.nodes[index]) => Ok(index),
            Some(index) => {
                let node = &graph.nodes[index];
                Err(format!(
                    "node {index}, {} ({}), holds no row of {width} values per token",
                    node.name, node.op
                ))
            }
        }
    }
}
