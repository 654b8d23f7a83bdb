//! What a GGUF file says of its weights, for the driver.

use std::collections::BTreeMap;

use bitnet_model::gguf::{Gguf, Metadata, StringArray, TensorInfo};
use bitnet_model::layout::{head, product_of};
use bitnet_model::tap::Tap;
use bitnet_model::{Error, Hyperparameters};

use crate::{ModelFacts, TokenWork, VocabFacts};

/// Tokens that are found in raw text before anything else: `tokenizer.ggml.token_type` control and user-defined.
const FOUND_IN_TEXT: [i32; 2] = [3, 4];

/// What a file says of its model; the vocabulary is the engine's to add.
pub fn model(gguf: &Gguf, model: &Hyperparameters) -> ModelFacts {
    ModelFacts {
        architecture: model.architecture.to_string(),
        name: gguf.metadata().str("general.name").ok().map(str::to_owned),
        n_layer: model.n_layer,
        n_embd: model.n_embd,
        n_ff: model.n_ff,
        n_head: model.n_head,
        n_head_kv: model.n_head_kv,
        head_dim: Some(model.head_dim),
        n_vocab: model.n_vocab,
        n_ctx_train: model.n_ctx_train,
        activation: Some(model.activation),
        taps: model.architecture.taps(),
        tensor_types: tensor_types(gguf),
        weight_types: weight_types(gguf),
        vocab: None,
        work: Some(token_work(gguf)),
    }
}

/// What a file says of a model whose architecture nobody here knows: taps that every transformer has. The sizes are the
/// engine's to add, from its own reading.
pub fn outline(gguf: &Gguf, architecture: &str) -> ModelFacts {
    let size = |key: &str| -> usize {
        let key = format!("{architecture}.{key}");
        gguf.metadata().u32(&key).map_or(0, |n| n as usize)
    };
    let taps = Tap::OUTLINE.to_vec();
    ModelFacts {
        architecture: architecture.to_owned(),
        name: gguf.metadata().str("general.name").ok().map(str::to_owned),
        n_layer: size("block_count"),
        n_embd: size("embedding_length"),
        n_ff: size("feed_forward_length"),
        n_head: size("attention.head_count"),
        n_head_kv: size("attention.head_count_kv"),
        head_dim: None,
        n_vocab: size("vocab_size"),
        n_ctx_train: size("context_length"),
        activation: None,
        tensor_types: tensor_types(gguf),
        weight_types: weight_types(gguf)
            .into_iter()
            .filter(|(tap, _)| taps.contains(tap))
            .collect(),
        taps,
        vocab: None,
        work: Some(token_work(gguf)),
    }
}

/// What the metadata say of the vocabulary; who begins and ends a sequence is the engine's to add.
pub fn vocab(metadata: &Metadata) -> Result<VocabFacts, Error> {
    let string = |key: &str| -> Result<Option<String>, Error> {
        Ok(metadata.optional::<&str>(key)?.map(str::to_owned))
    };
    let tokens: &StringArray = metadata.required("tokenizer.ggml.tokens")?;
    let types = metadata.optional::<&[i32]>("tokenizer.ggml.token_type")?;
    let special = tokens.iter().zip(types.unwrap_or_default());
    let special = special.filter(|(_, ty)| FOUND_IN_TEXT.contains(ty));
    Ok(VocabFacts {
        n_vocab: tokens.len(),
        tokenizer: metadata.str("tokenizer.ggml.model")?.to_owned(),
        pre: string("tokenizer.ggml.pre")?,
        chat_template: string("tokenizer.chat_template")?,
        bos: None,
        eos: None,
        add_bos: false,
        special: special.map(|(token, _)| text(token)).collect(),
    })
}

/// A token's text in JSON.
pub fn text(token: &[u8]) -> String {
    String::from_utf8_lossy(token).into_owned()
}

/// What one token costs: every matrix of the layers and the output head is read whole, and each of their ternary weights
/// is multiplied once. The one row of the embeddings and the vectors of the norms do not count.
pub fn token_work(gguf: &Gguf) -> TokenWork {
    let head = head(gguf);
    let matrices = || {
        let of_layers = |t: &TensorInfo| t.name.starts_with("blk.") && t.shape.len() == 2;
        let tensors = gguf.tensors().iter();
        tensors.filter(move |t| t.name == head || of_layers(t))
    };
    let ternary = matrices().filter(|t| t.ty.is_ternary());
    let macs: u64 = ternary.map(TensorInfo::n_elements).sum();
    TokenWork {
        weight_bytes: matrices().map(|t| t.size).sum(),
        ternary_macs: (macs > 0).then_some(macs),
    }
}

/// Tensors per type name.
pub fn tensor_types(gguf: &Gguf) -> BTreeMap<String, usize> {
    let mut types = BTreeMap::new();
    for tensor in gguf.tensors() {
        *types.entry(tensor.ty.name().to_owned()).or_default() += 1;
    }
    types
}

/// Type names of the weights behind each tap that is a matrix product.
pub fn weight_types(gguf: &Gguf) -> BTreeMap<Tap, Vec<String>> {
    let mut types: BTreeMap<Tap, Vec<String>> = BTreeMap::new();
    for tensor in gguf.tensors() {
        if let Some(tap) = product_of(gguf, &tensor.name) {
            let of_tap = types.entry(tap).or_default();
            let name = tensor.ty.name();
            if !of_tap.iter().any(|t| t == name) {
                of_tap.push(name.to_owned());
            }
        }
    }
    types
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn work_of_the_bundled_model() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny-bitnet.gguf");
        let gguf = Gguf::open(&model).unwrap();
        let layers = u64::from(gguf.metadata().u32("bitnet-b1.58.block_count").unwrap());
        // 128 wide, half as many key and value heads, feed-forward 512.
        let macs = layers * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 512);
        // Two bits a weight, and 32 bytes behind each of seven matrices; the head is the embeddings' F16.
        let bytes = macs / 4 + layers * 7 * 32 + 512 * 128 * 2;
        assert_eq!(
            token_work(&gguf),
            TokenWork {
                weight_bytes: bytes,
                ternary_macs: Some(macs)
            }
        );
    }
}
