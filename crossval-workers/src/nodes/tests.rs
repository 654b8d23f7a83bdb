//! The table against the graphs in `graphs/`, each as `crossval doctor --graph` lists it, and against graphs that differ
//! from them.

use std::path::Path;

use bitnet_model::Architecture;
use crossval_protocol::{GraphNode, GraphSource, TakenFor};

use super::*;

/// What was listed: a model's shape, and its graphs without what their nodes were taken for.
struct Listing {
    model: Hyperparameters,
    several: Graph,
    one: Graph,
    text: String,
}

fn listing(file: &Path) -> Listing {
    let text = std::fs::read_to_string(file).unwrap();
    let mut parts = text.split("\n\n");
    let model = model(parts.next().unwrap().lines().nth(1).unwrap());
    let mut graph = || graph(parts.next().unwrap());
    Listing {
        model,
        several: graph(),
        one: graph(),
        text,
    }
}

/// The one of `graphs/` of that name.
fn named(name: &str) -> Listing {
    listing(&folder().join(format!("{name}.txt")))
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/nodes/graphs")
}

fn model(line: &str) -> Hyperparameters {
    let mut words = line.split(", ");
    let architecture = Architecture::named(words.next().unwrap()).unwrap();
    let mut size = |name: &str| {
        let (is, size) = words.next().unwrap().split_once(' ').unwrap();
        assert_eq!(is, name);
        size.parse::<usize>().unwrap()
    };
    let (n_layer, n_embd, n_ff) = (size("n_layer"), size("n_embd"), size("n_ff"));
    let n_head = size("n_head");
    Hyperparameters {
        activation: architecture.activation(),
        architecture,
        n_layer,
        n_embd,
        n_ff,
        n_head,
        n_head_kv: size("n_head_kv"),
        head_dim: n_embd / n_head,
        n_vocab: size("n_vocab"),
        n_ctx_train: 32,
        rope_dim: n_embd / n_head,
        rope_base: 1e4,
        rope_scale: 1.0,
        yarn_ctx: None,
        rope_magnitude: 1.0,
        rms_eps: 1e-5,
        tied_output: true,
    }
}

fn graph(text: &str) -> Graph {
    let mut lines = text.lines();
    let mut head = lines.next().unwrap().split(' ');
    let n_tokens = head.nth(2).unwrap().parse().unwrap();
    let nodes = lines.map(|line| {
        let columns = line.split("  ").map(str::trim).filter(|c| !c.is_empty());
        let columns: Vec<&str> = columns.collect();
        let [_, name, op, ty, shape, sources, _] = columns[..] else {
            panic!("{line:?}");
        };
        let source = |text: &str| match text.strip_prefix('#') {
            Some(index) => GraphSource::Node(index.parse().unwrap()),
            None => GraphSource::Tensor(text.to_owned()),
        };
        GraphNode {
            name: name.to_owned(),
            op: op.to_owned(),
            shape: shape.split('x').map(|n| n.parse().unwrap()).collect(),
            ty: ty.to_owned(),
            sources: sources.split(", ").map(source).collect(),
            taken_for: TakenFor::Unknown,
        }
    });
    Graph {
        n_tokens,
        nodes: nodes.collect(),
    }
}

impl Listing {
    fn recognised(&self) -> (NodeMap, Graphs) {
        let model = Shape::Whole(self.model.clone());
        NodeMap::new(self.one.clone(), self.several.clone(), &model)
    }

    /// Changes a node wherever its name and operation are these.
    fn change(mut self, name: &str, op: &str, change: impl Fn(&mut GraphNode)) -> Listing {
        for graph in [&mut self.one, &mut self.several] {
            let nodes = graph.nodes.iter_mut();
            let mut of_name: Vec<_> = nodes.filter(|n| n.name == name && n.op == op).collect();
            assert_eq!(of_name.len(), 1, "{name} {op}");
            change(of_name[0]);
        }
        self
    }

    fn missing(&self) -> Vec<(Tap, String)> {
        self.recognised().1.not_offered.into_iter().collect()
    }
}

#[test]
fn every_listing_is_understood_as_it_was() {
    let files = std::fs::read_dir(folder()).unwrap();
    let mut count = 0;
    for file in files {
        let file = file.unwrap().path();
        let listing = listing(&file);
        let (_, graphs) = listing.recognised();
        let name = file.display();
        assert_eq!(graphs.not_offered, BTreeMap::new(), "{name}");
        for graph in &graphs.graphs {
            assert_eq!(graph.not_understood(), None, "{name}");
            let listed = graph.to_string();
            assert!(listing.text.contains(&listed), "{name}: {listed}");
            for tap in listing.model.architecture.taps() {
                let nodes = graph
                    .nodes
                    .iter()
                    .filter(|n| n.taken_for == TakenFor::Tap(tap));
                let layers = if tap.per_layer() {
                    listing.model.n_layer
                } else {
                    1
                };
                assert_eq!(nodes.count(), layers, "{name}: {tap}");
            }
        }
        count += 1;
    }
    assert!(count >= 11, "{count} listings");
}

#[test]
fn a_place_is_by_name_op_occurrence_and_kind_of_evaluation() {
    let (map, _) = named("2026-01-bitnet-b1.58").recognised();
    let tap = |n, name, op, occurrence| {
        let place = map.place(n, name, op, occurrence)?;
        Some((place.tap, place.layer, place.layout))
    };
    let output = Some((Tap::LayerOut, Some(1), Layout::Rows));
    for n_tokens in [1, 2, 512] {
        assert_eq!(tap(n_tokens, "l_out-1", "ADD", 0), output);
    }
    for (name, op, occurrence) in [
        ("l_out-1", "ADD", 1),
        ("l_out-1", "VIEW", 0),
        ("l_out-10", "ADD", 0),
        ("l_out-1x", "ADD", 0),
    ] {
        assert_eq!(tap(2, name, op, occurrence), None, "{name} {op}");
    }
    assert_eq!(
        tap(2, "v_cache_view-0 (copy of Vcur-0 (transposed))", "CPY", 0),
        Some((Tap::VCache, Some(0), Layout::Columns))
    );
}

/// ggml numbers what has no name, and may number it otherwise the next time.
#[test]
fn what_has_no_name_goes_by_the_tensor_that_it_applies() {
    let listing = named("llama.cpp-qwen3");
    let (map, _) = listing.recognised();
    let applied = ["blk.1.attn_output.weight", "kqv_out-1"];
    let place = |name, applied: [&'static str; 2]| {
        let place = map.place(3, key(name, applied.into_iter()), "MUL_MAT", 0)?;
        Some((place.tap, place.layer))
    };
    let projection = Some((Tap::AttnProj, Some(1)));
    assert_eq!(place("node_7", applied), projection);
    assert_eq!(place("node_7x", applied), None);
    assert_eq!(place("node_7", ["blk.1.attn_output", "kqv_out-1"]), None);
    // Nor is it taken for the projection by its number alone.
    let of_layer_1 = |node: &&mut GraphNode| {
        let weight = GraphSource::Tensor("blk.1.attn_output.weight".to_owned());
        node.sources.first() == Some(&weight)
    };
    let mut other = named("llama.cpp-qwen3");
    for graph in [&mut other.one, &mut other.several] {
        let node = graph.nodes.iter_mut().find(of_layer_1).unwrap();
        node.sources.swap(0, 1);
    }
    let missing = other.missing();
    assert_eq!(missing[0].0, Tap::AttnProj, "{missing:?}");
}

#[test]
fn what_has_another_name_is_not_offered_and_nothing_else_is_lost() {
    let listing = named("head-bitnet-b1.58").change("kq_soft_max-1", "SOFT_MAX", |node| {
        node.name = "kq_probs-1".to_owned();
    });
    let reason = "no node is called kq_soft_max_ext-1 (as in the fork of 2024) or kq_soft_max-1 (as in llama.cpp of \
                  2026)";
    assert_eq!(listing.missing(), [(Tap::AttnProbs, reason.to_owned())]);
    let (map, graphs) = listing.recognised();
    assert_eq!(map.place(3, "kq_soft_max-0", "SOFT_MAX", 0), None);
    assert!(map.place(3, "kqv_out-1", "CONT", 0).is_some());
    let unknown = graphs.graphs[0].not_understood().unwrap();
    assert!(unknown.contains("kq_probs (SOFT_MAX)"), "{unknown}");
    assert!(unknown.contains("kq_soft_max (SOFT_MAX)"), "{unknown}");
}

/// Of each generation, as if nobody knew the architecture.
#[test]
fn every_transformer_has_an_outline() {
    for name in [
        "2024-11-llama",
        "2026-01-bitnet-b1.58",
        "head-bitnet",
        "llama.cpp-llama",
    ] {
        let mut listing = named(name);
        let (whole, _) = listing.recognised();
        let outline = |listing: &Listing, n_vocab| {
            let outline = Outline {
                n_layer: listing.model.n_layer,
                n_embd: listing.model.n_embd,
                n_vocab,
            };
            let shape = Shape::Outline(outline);
            NodeMap::new(listing.one.clone(), listing.several.clone(), &shape)
        };
        let n_vocab = listing.model.n_vocab;
        let (map, graphs) = outline(&listing, n_vocab);
        assert_eq!(graphs.not_offered, BTreeMap::new(), "{name}");
        let taps = |map: &NodeMap| {
            let places = map.kinds.iter().flat_map(|nodes| nodes.values().flatten());
            let places =
                places.map(|(op, seen, place)| (op.clone(), *seen, place.tap, place.layer));
            let mut places: Vec<_> = places.collect();
            places.sort_by_key(|place| (place.2, place.3, place.0.clone()));
            places
        };
        let mut of_whole = taps(&whole);
        of_whole.retain(|(_, _, tap, _)| Tap::OUTLINE.contains(tap));
        assert_eq!(taps(&map), of_whole, "{name}");

        let (_, graphs) = outline(&listing, n_vocab + 1);
        let reason = &graphs.not_offered[&Tap::Logits];
        assert!(
            reason.contains("holds no row of 513 values per token"),
            "{reason}"
        );
        listing = listing.change("l_out-1", "ADD", |node| node.name = "out-1".to_owned());
        let (map, graphs) = outline(&listing, n_vocab);
        assert_eq!(
            graphs.not_offered[&Tap::LayerOut],
            "no node is called l_out-1"
        );
        assert!(
            taps(&map)
                .iter()
                .all(|(_, _, tap, _)| *tap != Tap::LayerOut)
        );
    }
}

/// A branch that the graph does not take, and only that, needs no row.
#[test]
fn what_no_tap_is_connected_with_is_apart() {
    let taken_for = |listing: &Listing, name: &str| {
        let (_, graphs) = listing.recognised();
        let mut nodes = graphs.graphs[0].nodes.iter();
        nodes.find(|node| node.name == name).unwrap().taken_for
    };
    let mut listing = named("llama.cpp-bitnet");
    for name in ["node_1", "node_2", "(view)"] {
        assert_eq!(taken_for(&listing, name), TakenFor::Apart);
    }
    for graph in [&mut listing.one, &mut listing.several] {
        let logits = graph.nodes.last_mut().unwrap();
        logits.name = "output".to_owned();
        let mixed = graph
            .nodes
            .iter()
            .position(|node| node.name == "node_1")
            .unwrap();
        let norm = graph
            .nodes
            .iter_mut()
            .find(|node| node.name == "norm-0")
            .unwrap();
        norm.sources.push(GraphSource::Node(mixed));
    }
    for name in ["output", "node_1"] {
        assert_eq!(taken_for(&listing, name), TakenFor::Unknown);
    }
}

#[test]
fn a_name_alone_makes_no_tap() {
    /// Listing, name, operation, what is changed, and of which tap that makes which reason.
    type Case = (
        &'static str,
        &'static str,
        &'static str,
        fn(&mut GraphNode),
        Tap,
        &'static str,
    );
    let cases: [Case; 6] = [
        (
            "2026-01-bitnet",
            "ffn_sub_out-0",
            "MUL",
            |node| node.op = "ADD".to_owned(),
            Tap::FfnAct,
            "(ADD), is not a MUL",
        ),
        (
            "2026-01-llama",
            "Qcur-0",
            "MUL_MAT",
            |node| node.sources[0] = GraphSource::Tensor("blk.0.attn_k.weight".to_owned()),
            Tap::Q,
            "(MUL_MAT), is computed from something else: blk.0.attn_k.weight, attn_norm-0 (MUL)",
        ),
        (
            "head-llama",
            "Qcur-1",
            "MUL_MAT",
            |node| node.sources[0] = GraphSource::Tensor("blk.0.attn_q.weight".to_owned()),
            Tap::Q,
            "is computed from something else: blk.0.attn_q.weight, attn_norm-1 (MUL)",
        ),
        (
            "head-llama",
            "ffn_inp-1",
            "ADD",
            |node| node.shape = vec![7],
            Tap::FfnInp,
            "is of shape [7], which holds no ",
        ),
        (
            "2026-01-bitnet-b1.58",
            "kq_soft_max_ext-0",
            "SOFT_MAX",
            |node| node.shape.swap(0, 1),
            Tap::AttnProbs,
            "which holds no ",
        ),
        (
            "head-bitnet",
            "cache_k_l0 (view)",
            "SET_ROWS",
            |node| node.ty = "q8_0".to_owned(),
            Tap::KCache,
            "is of type q8_0, not f16",
        ),
    ];
    for (of, name, op, change, tap, says) in cases {
        let missing = named(of).change(name, op, change).missing();
        let [(is, reason)] = &missing[..] else {
            panic!("{of}, {name}: {missing:?}");
        };
        assert_eq!(*is, tap);
        assert!(reason.contains(says), "{of}, {name}: {reason}");
    }
}

#[test]
fn of_two_that_could_be_it_neither_is() {
    let mut listing = named("head-llama");
    let nodes = &mut listing.several.nodes;
    let twin = nodes.iter().rfind(|n| n.name == "l_out-1").unwrap().clone();
    nodes.push(twin);
    let missing = listing.missing();
    let [(Tap::LayerOut, reason)] = &missing[..] else {
        panic!("{missing:?}");
    };
    assert!(reason.contains("could both be it"), "{reason}");
}

/// A step that nobody has seen, between what is known: `q` is no longer what goes into RoPE.
#[test]
fn a_stage_with_one_more_step_is_not_that_stage() {
    let mut listing = named("head-bitnet");
    for graph in [&mut listing.one, &mut listing.several] {
        let rope = |n: &GraphNode| n.name == "Qcur-0" && n.op == "ROPE";
        let at = graph.nodes.iter().position(rope).unwrap();
        let mut normed = graph.nodes[at].clone();
        (normed.name, normed.op) = ("Qcur_normed-0".to_owned(), "RMS_NORM".to_owned());
        graph.nodes.push(normed);
        let last = graph.nodes.len() - 1;
        graph.nodes[at].sources[0] = GraphSource::Node(last);
    }
    let missing = listing.missing();
    assert_eq!(missing[0].0, Tap::QRope, "{missing:?}");
    let (_, graphs) = listing.recognised();
    let unknown = graphs.graphs[0].not_understood().unwrap();
    assert!(unknown.contains("Qcur_normed (RMS_NORM)"), "{unknown}");
}

#[test]
fn a_graph_that_nobody_has_seen_offers_nothing_and_is_named() {
    let mut listing = named("head-llama");
    for graph in [&mut listing.one, &mut listing.several] {
        for node in &mut graph.nodes {
            node.name.insert_str(0, "x_");
        }
    }
    let (map, graphs) = listing.recognised();
    let taps = listing.model.architecture.taps();
    assert!(graphs.not_offered.keys().copied().eq(taps));
    assert!(map.kinds.iter().all(HashMap::is_empty));
    let line = graphs.graphs[0].not_understood().unwrap();
    assert!(line.contains("x_l_out (ADD)"), "{line}");
}

/// `name`, operation, sources; shapes as the layer's.
fn hand_made(nodes: &[(&str, &str, &[GraphSource], &[i64])]) -> Graph {
    let nodes = nodes.iter().map(|&(name, op, sources, shape)| GraphNode {
        name: name.to_owned(),
        op: op.to_owned(),
        shape: shape.to_vec(),
        ty: "f32".to_owned(),
        sources: sources.to_vec(),
        taken_for: TakenFor::Unknown,
    });
    Graph {
        n_tokens: 3,
        nodes: nodes.collect(),
    }
}

#[test]
fn a_scale_and_a_bias_end_a_product() {
    use GraphSource::Node;
    let part = |suffix: &str| GraphSource::Tensor(format!("blk.0.{suffix}"));
    let (scale, bias) = (part("attn_q.scale"), part("attn_q.bias"));
    let (gate_scale, gate_bias) = (part("ffn_gate.scale"), part("ffn_gate.bias"));
    let model = named("2026-01-bitnet").model;
    let (embd, ff) = (model.n_embd as i64, model.n_ff as i64);
    let product = [part("attn_q.weight"), part("x")];
    let gate = [part("ffn_gate.weight"), part("x")];
    let all = hand_made(&[
        ("Qcur-0", "MUL_MAT", &product, &[embd, 3]),
        ("Qcur-0", "MUL", &[Node(0), scale], &[embd, 3]),
        ("Qcur-0", "ADD", &[Node(1), bias], &[embd, 3]),
        ("ffn_gate-0", "MUL_MAT", &gate, &[ff, 3]),
        ("ffn_gate_b-0", "ADD", &[gate_bias, Node(3)], &[ff, 3]),
        ("ffn_gate_s-0", "MUL", &[Node(4), gate_scale], &[ff, 3]),
    ]);
    let places = |without: &[usize]| {
        let mut graph = all.clone();
        for &index in without {
            graph.nodes[index].name = "other".to_owned();
        }
        let of_one_layer = Hyperparameters {
            n_layer: 1,
            ..model.clone()
        };
        let places = recognise(&graph, &of_one_layer)
            .places
            .into_iter()
            .enumerate();
        let places = places.filter_map(|(index, place)| Some((index, place?.tap)));
        places.collect::<Vec<_>>()
    };
    assert_eq!(places(&[]), [(2, Tap::Q), (5, Tap::FfnGate)]);
    assert_eq!(places(&[2, 5]), [(1, Tap::Q), (4, Tap::FfnGate)]);
    assert_eq!(places(&[1, 2, 4, 5]), [(0, Tap::Q), (3, Tap::FfnGate)]);
}

#[test]
fn sources_that_point_nowhere_or_in_circles_are_no_taps() {
    let mut listing = named("head-llama");
    let n = listing.several.nodes.len();
    for (index, node) in listing.several.nodes.iter_mut().enumerate() {
        for (i, source) in node.sources.iter_mut().enumerate() {
            *source = GraphSource::Node(if i == 0 { index } else { n });
        }
    }
    assert!(!listing.missing().is_empty());
}

#[test]
fn some_pins_build_fewer() {
    for oldest_or_mainline in ["2024-11", "llama.cpp"] {
        let old = architectures(oldest_or_mainline).filter(|name| *name != "qwen3");
        assert!(old.eq(["bitnet", "llama"]));
    }
    for (vintage, builds) in [
        ("2024-11", false),
        ("2026-01", false),
        ("llama.cpp", true),
        ("head", true),
    ] {
        assert_eq!(architectures(vintage).any(|name| name == "qwen3"), builds);
    }
    assert_eq!(architectures("2026-01").count(), GRAPHS.len() - 1);
    assert_eq!(architectures("head").count(), GRAPHS.len());
}
