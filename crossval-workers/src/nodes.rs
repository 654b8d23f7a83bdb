//! Which node of BitNet.cpp's graph is which tap: by (architecture, name, op, occurrence), never by position
//! or substring.
//!
//! The names come from the graph builders `build_bitnet`, `build_bitnet_158` and `build_llama` and their
//! helpers in the fork's `llama.cpp`. A node named several times keeps its last name: with a residual ADD,
//! `ffn_out` becomes `l_out`.

use bitnet_model::tap::Tap;

/// How the graphs of an architecture name their nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Bitnet,
    BitnetB158,
    Llama,
}

/// The architectures whose graphs are known, with the oldest vintage that builds them.
const GRAPHS: [(&str, Family, &str); 4] = [
    ("bitnet", Family::Bitnet, "2024-11"),
    ("bitnet-25", Family::BitnetB158, "2026-01"),
    ("bitnet-b1.58", Family::BitnetB158, "2026-01"),
    ("llama", Family::Llama, "2024-11"),
];

/// The architectures that a vintage builds, of those that are known. What is no vintage but somebody's checkout counts
/// as the newest.
pub(crate) fn architectures(vintage: &str) -> impl Iterator<Item = &'static str> + use<> {
    let oldest = vintage == "2024-11";
    let built = GRAPHS
        .iter()
        .filter(move |(.., since)| !oldest || *since == "2024-11");
    built.map(|(name, ..)| *name)
}

/// Maps nodes to taps for one model.
#[derive(Debug)]
pub(crate) struct NodeMap {
    family: Family,
    tensors: std::collections::HashSet<String>,
}

impl NodeMap {
    /// `tensors`: the names of the model's tensors. `None` for an architecture whose graph is not known.
    pub(crate) fn new(
        architecture: &str,
        tensors: impl IntoIterator<Item = String>,
    ) -> Option<NodeMap> {
        let mut graphs = GRAPHS.iter();
        let &(_, family, _) = graphs.find(|(name, ..)| *name == architecture)?;
        Some(NodeMap {
            family,
            tensors: tensors.into_iter().collect(),
        })
    }

    /// The tap that a node is, and its layer.
    pub(crate) fn tap(
        &self,
        name: &str,
        op: &str,
        occurrence: u32,
    ) -> Option<(Tap, Option<usize>)> {
        if occurrence != 0 {
            return None;
        }
        // Copies into the cache are named `k_cache_view-3 (copy of Kcur-3)`.
        let name = match op {
            "CPY" => name.split_once(" (copy of ")?.0,
            _ => name,
        };
        match (name, op) {
            ("inp_embd", "GET_ROWS") => return Some((Tap::Embd, None)),
            ("result_norm", "MUL") => return Some((Tap::FinalNorm, None)),
            ("result_output", "MUL_MAT") => return Some((Tap::Logits, None)),
            _ => {}
        }
        let (base, layer) = name.rsplit_once('-')?;
        let layer: usize = layer.parse().ok()?;
        let tap = self.layer_tap(base, op, layer)?;
        Some((tap, Some(layer)))
    }

    fn layer_tap(&self, base: &str, op: &str, layer: usize) -> Option<Tap> {
        use Family::{Bitnet, BitnetB158, Llama};
        // The last node of a projection: its product, then its scale, then its bias.
        let ends = |weight: &str| {
            let has = |suffix| {
                self.tensors
                    .contains(&format!("blk.{layer}.{weight}.{suffix}"))
            };
            if has("bias") {
                "ADD"
            } else if has("scale") && self.family != Llama {
                "MUL"
            } else {
                "MUL_MAT"
            }
        };
        // The feed-forward helper names the product, the bias and the scale apart, in this order.
        let ffn_ends = |weight: &str| {
            let has = |suffix| {
                self.tensors
                    .contains(&format!("blk.{layer}.{weight}.{suffix}"))
            };
            if has("scale") && self.family != Llama {
                (format!("{weight}_s"), "MUL")
            } else if has("bias") && self.family == Llama {
                (format!("{weight}_b"), "ADD")
            } else {
                (weight.to_owned(), "MUL_MAT")
            }
        };
        let tap = match (base, op) {
            ("attn_norm", "MUL") => Tap::AttnNorm,
            ("Qcur", "ROPE") => Tap::QRope,
            ("Kcur", "ROPE") => Tap::KRope,
            ("Qcur", op) if op == ends("attn_q") => Tap::Q,
            ("Kcur", op) if op == ends("attn_k") => Tap::K,
            ("Vcur", op) if op == ends("attn_v") => Tap::V,
            ("k_cache_view", "CPY") => Tap::KCache,
            ("v_cache_view", "CPY") => Tap::VCache,
            ("kq_soft_max_ext", "SOFT_MAX") => Tap::AttnProbs,
            ("kqv_out", "CONT") if self.family != Llama => Tap::AttnOut,
            ("kqv_merged_cont", "CONT") if self.family == Llama => Tap::AttnOut,
            ("attn_sub_norm", "MUL") => Tap::AttnSubNorm,
            ("attn_o_out", op) if self.family != Llama && op == ends("attn_output") => {
                Tap::AttnProj
            }
            ("kqv_out", op) if self.family == Llama && op == ends("attn_output") => Tap::AttnProj,
            ("ffn_inp", "ADD") => Tap::FfnInp,
            ("ffn_norm", "MUL") => Tap::FfnNorm,
            (base, op) if ffn_ends("ffn_gate") == (base.to_owned(), op) => Tap::FfnGate,
            (base, op) if ffn_ends("ffn_up") == (base.to_owned(), op) => Tap::FfnUp,
            ("ffn_sub_out", "MUL") if self.family == Bitnet => Tap::FfnAct,
            ("ffn_out", "MUL") if self.family == BitnetB158 => Tap::FfnAct,
            ("ffn_gate_par", "MUL") if self.family == Llama => Tap::FfnAct,
            ("ffn_sub_norm", "MUL") => Tap::FfnSubNorm,
            ("ffn_down", op) if self.family != Llama && op == ends("ffn_down") => Tap::FfnDown,
            ("ffn_out", op) if self.family == Llama && op == ends("ffn_down") => Tap::FfnDown,
            ("l_out", "ADD") => Tap::LayerOut,
            _ => return None,
        };
        Some(tap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taps(architecture: &str, tensors: &[&str], nodes: &[(&str, &str)]) -> Vec<Option<Tap>> {
        let map = NodeMap::new(architecture, tensors.iter().map(|t| t.to_string())).unwrap();
        nodes
            .iter()
            .map(|(name, op)| map.tap(name, op, 0).map(|(tap, _)| tap))
            .collect()
    }

    #[test]
    fn layers_are_read_whole() {
        let map = NodeMap::new("bitnet", []).unwrap();
        assert_eq!(map.tap("l_out-1", "ADD", 0), Some((Tap::LayerOut, Some(1))));
        assert_eq!(
            map.tap("l_out-10", "ADD", 0),
            Some((Tap::LayerOut, Some(10)))
        );
        assert_eq!(map.tap("l_out-1x", "ADD", 0), None);
        assert_eq!(map.tap("l_out-1", "ADD", 1), None);
        assert_eq!(map.tap("l_out-1", "VIEW", 0), None);
    }

    #[test]
    fn the_same_name_is_another_tap_in_another_family() {
        let nodes = [
            ("kqv_out-0", "CONT"),
            ("kqv_out-0", "MUL_MAT"),
            ("ffn_out-0", "MUL"),
        ];
        assert_eq!(
            taps("bitnet-b1.58", &[], &nodes),
            [Some(Tap::AttnOut), None, Some(Tap::FfnAct)]
        );
        assert_eq!(
            taps("bitnet", &[], &nodes),
            [Some(Tap::AttnOut), None, None]
        );
        assert_eq!(
            taps("llama", &[], &nodes),
            [None, Some(Tap::AttnProj), None]
        );
        assert!(NodeMap::new("falcon", []).is_none());
    }

    #[test]
    fn a_bias_or_scale_ends_the_projection() {
        let nodes = [
            ("Qcur-0", "MUL_MAT"),
            ("Qcur-0", "MUL"),
            ("Qcur-0", "ADD"),
            ("Qcur-0", "ROPE"),
        ];
        let rope = Some(Tap::QRope);
        assert_eq!(
            taps("bitnet", &[], &nodes),
            [Some(Tap::Q), None, None, rope]
        );
        let scale = ["blk.0.attn_q.scale"];
        assert_eq!(
            taps("bitnet", &scale, &nodes),
            [None, Some(Tap::Q), None, rope]
        );
        let bias = ["blk.0.attn_q.bias"];
        assert_eq!(
            taps("llama", &bias, &nodes),
            [None, None, Some(Tap::Q), rope]
        );
        let other_layer = ["blk.1.attn_q.bias"];
        assert_eq!(
            taps("llama", &other_layer, &nodes),
            [Some(Tap::Q), None, None, rope]
        );
        let gate = [("ffn_gate-0", "MUL_MAT"), ("ffn_gate_s-0", "MUL")];
        assert_eq!(taps("bitnet", &[], &gate), [Some(Tap::FfnGate), None]);
        let scale = ["blk.0.ffn_gate.scale"];
        assert_eq!(taps("bitnet", &scale, &gate), [None, Some(Tap::FfnGate)]);
    }

    #[test]
    fn the_first_vintage_builds_fewer() {
        assert!(architectures("2024-11").eq(["bitnet", "llama"]));
        for vintage in ["2026-01", "my checkout"] {
            assert_eq!(architectures(vintage).count(), GRAPHS.len());
        }
    }

    #[test]
    fn cache_writes_are_copies() {
        let nodes = [
            ("k_cache_view-4 (copy of Kcur-4)", "CPY"),
            ("v_cache_view-4 (copy of Vcur-4 (transposed))", "CPY"),
            ("k_cache_view-4", "VIEW"),
            ("Vcur-4 (transposed)", "TRANSPOSE"),
        ];
        assert_eq!(
            taps("llama", &[], &nodes),
            [Some(Tap::KCache), Some(Tap::VCache), None, None]
        );
    }
}
