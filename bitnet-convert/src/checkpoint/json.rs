//! JSON files, with errors that name file and key.

use std::path::{Path, PathBuf};

use bitnet_model::Error;
use serde_json::{Map, Value};

/// An object in a file.
#[derive(Clone, Debug)]
pub(super) struct Json {
    path: PathBuf,
    value: Value,
}

impl Json {
    /// # Errors
    /// It cannot be read, or is no JSON object.
    pub(super) fn read(path: &Path) -> Result<Json, Error> {
        let text = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let value: Value = serde_json::from_slice(&text)
            .map_err(|e| Error::bad_file(path, format!("no JSON: {e}")))?;
        if !value.is_object() {
            return Err(Error::bad_file(path, "no JSON object"));
        }
        Ok(Json {
            path: path.to_owned(),
            value,
        })
    }

    /// [`read`](Self::read), of a file that need not be there.
    pub(super) fn read_if_there(path: &Path) -> Result<Option<Json>, Error> {
        path.is_file().then(|| Json::read(path)).transpose()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A value that is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, want: &str) -> Error {
        Error::bad_file(&self.path, format!("{key:?} is no {want}"))
    }

    pub(super) fn missing(&self, key: &str) -> Error {
        Error::bad_file(&self.path, format!("{key:?} is missing"))
    }

    fn optional<'a, T>(
        &'a self,
        key: &str,
        want: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let value = self.get(key);
        value
            .map(|v| read(v).ok_or_else(|| self.wrong(key, want)))
            .transpose()
    }

    pub(super) fn optional_u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.optional(key, "whole number", |v| v.as_u64()?.try_into().ok())
    }

    pub(super) fn u32(&self, key: &str) -> Result<u32, Error> {
        self.optional_u32(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn optional_f32(&self, key: &str) -> Result<Option<f32>, Error> {
        self.optional(key, "number", |v| Some(v.as_f64()? as f32))
    }

    pub(super) fn optional_str(&self, key: &str) -> Result<Option<&str>, Error> {
        self.optional(key, "string", Value::as_str)
    }

    pub(super) fn optional_bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.optional(key, "boolean", Value::as_bool)
    }

    pub(super) fn object(&self, key: &str) -> Result<&Map<String, Value>, Error> {
        let object = self.optional(key, "object", Value::as_object)?;
        object.ok_or_else(|| self.missing(key))
    }

    /// An object in this one, as if it were a file.
    pub(super) fn inner(&self, key: &str) -> Result<Option<Json>, Error> {
        let object = self.optional(key, "object", Value::as_object)?;
        Ok(object.map(|object| Json {
            path: self.path.clone(),
            value: Value::Object(object.clone()),
        }))
    }
}
