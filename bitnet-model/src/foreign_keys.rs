//! Keys by which a file says that it is computed in a way that nobody here knows. llama.cpp reads each for some families
//! only, and goes on without it in the others.

use crate::error::Error;
use crate::gguf::{Gguf, Value};

/// A key without its architecture, the values with which it changes nothing, and what it stands for.
type Foreign = (&'static str, &'static [f64], &'static str);

/// Beside 0, values are those that llama.cpp itself writes into models that have no such thing.
const FOREIGN: &[Foreign] = &[
    ("expert_count", &[0.0], "mixture of experts"),
    ("attention.causal", &[1.0], "attention to later tokens"),
    ("attention.scale", &[0.0], "another scale of the scores"),
    ("attention.output_scale", &[0.0, 1.0], "scaled attention"),
    ("attention.value_scale", &[0.0, 1.0], "scaled values"),
    (
        "attention.temperature_scale",
        &[0.0],
        "a temperature by position",
    ),
    ("attention.clamp_kqv", &[0.0], "clamping"),
    ("attention.max_alibi_bias", &[0.0], "ALiBi"),
    ("attn_logit_softcapping", &[0.0, 50.0], "capping"),
    ("final_logit_softcapping", &[0.0, 30.0], "capping"),
    ("logit_scale", &[0.0, 1.0], "scaled logits"),
    ("residual_scale", &[0.0, 1.0], "a scaled residual stream"),
    ("embedding_scale", &[0.0, 1.0], "scaled embeddings"),
    (
        "use_parallel_residual",
        &[0.0],
        "a parallel residual stream",
    ),
    ("rope.scaling.alpha", &[0.0], "scaling by NTK"),
    // Those of YaRN itself; a negative factor stands for none.
    ("rope.scaling.yarn_ext_factor", &[-1.0, 1.0], "part of YaRN"),
    ("rope.scaling.yarn_attn_factor", &[1.0], "another YaRN"),
    ("rope.scaling.yarn_beta_fast", &[32.0], "another YaRN"),
    ("rope.scaling.yarn_beta_slow", &[1.0], "another YaRN"),
    ("rope.scaling.yarn_log_multiplier", &[0.0], "another YaRN"),
];

/// Refuses what a file of this architecture says beyond what is computed.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported), with the key.
pub(crate) fn refuse(gguf: &Gguf, architecture: &str, n_ctx_train: usize) -> Result<(), Error> {
    let value = |key: &str| {
        let key = format!("{architecture}.{key}");
        gguf.metadata().get(&key).map(|value| (key, value))
    };
    let unsupported = |key: String, is: &Value, what: &str| {
        let is = number(is).map_or(String::new(), |is| format!(" of {is}"));
        Error::unsupported(gguf.path(), format!("{key}{is}: {what} is not supported"))
    };
    for &(key, neutral, what) in FOREIGN {
        if let Some((key, is)) = value(key)
            && number(is).is_none_or(|is| !neutral.contains(&is))
        {
            return Err(unsupported(key, is, what));
        }
    }
    // One that no context fills hides nothing.
    if let Some((key, is)) = value("attention.sliding_window")
        && number(is).is_none_or(|is| is != 0.0 && is < n_ctx_train as f64)
    {
        return Err(unsupported(key, is, "a sliding window"));
    }
    Ok(())
}

/// A number of any type, and whether for 1 and 0.
fn number(value: &Value) -> Option<f64> {
    Some(match *value {
        Value::U8(v) => f64::from(v),
        Value::I8(v) => f64::from(v),
        Value::U16(v) => f64::from(v),
        Value::I16(v) => f64::from(v),
        Value::U32(v) => f64::from(v),
        Value::I32(v) => f64::from(v),
        Value::U64(v) => v as f64,
        Value::I64(v) => v as f64,
        Value::F32(v) => f64::from(v),
        Value::F64(v) => v,
        Value::Bool(v) => f64::from(u8::from(v)),
        Value::Str(_) | Value::Array(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::gguf::{Metadata, Writer};

    fn refused(key: &str, value: impl Into<Value>) -> Option<String> {
        let mut metadata = Metadata::new(Path::new("m.gguf"));
        metadata.insert(&format!("llama.{key}"), value).unwrap();
        let mut file = Vec::new();
        let writer = Writer::new(metadata).unwrap();
        writer.begin(&mut file).unwrap().finish().unwrap();
        let gguf = Gguf::from_bytes(Path::new("m.gguf"), file).unwrap();
        refuse(&gguf, "llama", 512).err().map(|e| e.to_string())
    }

    #[test]
    fn what_changes_nothing_may_stand_there_and_what_does_is_named() {
        for &(key, neutral, what) in FOREIGN {
            for &value in neutral {
                assert_eq!(refused(key, value as f32), None, "{key}");
            }
            let text = refused(key, 0.125f32).unwrap();
            assert!(
                text.contains(&format!("llama.{key} of 0.125: {what}")),
                "{text}"
            );
            assert!(refused(key, "much").is_some(), "{key}");
            assert!(refused(key, f32::NAN).is_some(), "{key}");
        }
        assert_eq!(refused("attention.causal", true), None);
        assert!(refused("attention.causal", false).is_some());
        for window in [0u32, 512, 4096] {
            assert_eq!(refused("attention.sliding_window", window), None);
        }
        let text = refused("attention.sliding_window", 511u32).unwrap();
        assert!(
            text.contains("sliding_window of 511: a sliding window"),
            "{text}"
        );
    }
}
