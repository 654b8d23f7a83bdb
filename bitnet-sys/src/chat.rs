use std::ffi::{CString, c_char};

use crate::error::Error;
use crate::ffi;

/// A conversation of (role, content) as `llama_chat_apply_template` writes it. It runs no template: by what the template
/// contains it chooses one of some twenty hard-coded renderings, of which none writes BOS, and several trim contents.
/// `None` if it recognises none.
///
/// # Errors
/// [`Error::Chat`] for a NUL byte in a string, and if the library throws or the text would be 2 GiB or longer.
pub fn apply_chat_template(
    template: &str,
    messages: &[(&str, &str)],
    add_generation_prompt: bool,
) -> Result<Option<String>, Error> {
    let c_string = |text: &str| {
        CString::new(text).map_err(|_| Error::Chat("a string contains a NUL byte".to_owned()))
    };
    let template = c_string(template)?;
    let mut owned = Vec::new();
    for (role, content) in messages {
        owned.push((c_string(role)?, c_string(content)?));
    }
    let (roles, contents): (Vec<*const c_char>, Vec<*const c_char>) = owned
        .iter()
        .map(|(role, content)| (role.as_ptr(), content.as_ptr()))
        .unzip();
    let mut text: Vec<u8> = Vec::new();
    // The first call says how long the text is.
    for _ in 0..2 {
        let size = i32::try_from(text.len()).map_err(|_| Error::Chat("it is too long".into()))?;
        // SAFETY: all strings end with NUL and outlive the call, both arrays have the length that is passed, and the
        // buffer has the size that is passed.
        let length = unsafe {
            ffi::bn_chat_apply_template(
                template.as_ptr(),
                roles.as_ptr(),
                contents.as_ptr(),
                roles.len(),
                add_generation_prompt,
                text.as_mut_ptr().cast(),
                size,
            )
        };
        if length == ffi::BN_FAILED {
            return Err(Error::Chat(ffi::last_error()));
        }
        let Ok(length) = usize::try_from(length) else {
            return Ok(None);
        };
        if length <= text.len() {
            text.truncate(length);
            break;
        }
        text.resize(length, 0);
    }
    String::from_utf8(text)
        .map(Some)
        .map_err(|e| Error::Chat(e.to_string()))
}
