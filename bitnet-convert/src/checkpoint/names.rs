//! GGUF's names of a checkpoint's tensors.

/// The tensors that are in no layer.
const MODEL: [(&str, &str); 3] = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
];

/// Those of each layer. The sub-norms have other names in 1bitLLM's models than in Microsoft's.
const LAYER: [(&str, &str); 15] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.attn_sub_norm", "attn_sub_norm"),
    ("self_attn.inner_attn_ln", "attn_sub_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.ffn_sub_norm", "ffn_sub_norm"),
    ("mlp.ffn_layernorm", "ffn_sub_norm"),
];

/// GGUF's name of a tensor; `None` if it is not known.
pub(super) fn in_gguf(name: &str) -> Option<String> {
    let (module, kind) = name.rsplit_once('.')?;
    if !matches!(kind, "weight" | "bias") {
        return None;
    }
    let find = |table: &[(&str, &'static str)], module: &str| {
        let found = table.iter().find(|(of, _)| *of == module);
        found.map(|(_, name)| *name)
    };
    if let Some(name) = find(&MODEL, module) {
        return Some(format!("{name}.{kind}"));
    }
    let (layer, module) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    Some(format!("blk.{layer}.{}.{kind}", find(&LAYER, module)?))
}

/// Whether a tensor is part of another, or follows from the configuration.
pub(super) fn is_no_weight(name: &str) -> bool {
    name.ends_with(".weight_scale") || name.ends_with(".rotary_emb.inv_freq")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_gguf() {
        let named = |name| in_gguf(name).unwrap_or_default();
        assert_eq!(named("model.embed_tokens.weight"), "token_embd.weight");
        assert_eq!(
            named("model.layers.11.mlp.up_proj.weight"),
            "blk.11.ffn_up.weight"
        );
        assert_eq!(
            named("model.layers.0.self_attn.q_proj.bias"),
            "blk.0.attn_q.bias"
        );
        assert_eq!(
            named("model.layers.0.self_attn.inner_attn_ln.weight"),
            "blk.0.attn_sub_norm.weight"
        );
        assert_eq!(named("model.layers.0.self_attn.q_proj.rms_norm.weight"), "");
        assert_eq!(named("model.layers.0.mlp.up_proj.weight_scale"), "");
    }
}
