// The names that llama.h has changed between generations, one inline function each.
// build.rs reads the header and defines:
//   BN_VOCAB_API        llama_vocab_*, llama_model_load_from_file, llama_init_from_model (since 2025-01)
//   BN_MEMORY_API       llama_memory_clear (since 2025-06)
//   BN_KV_SELF_API      llama_kv_self_clear (2025-03 to 2025-06)
//   BN_LOAD_MODE        mapping the file is one of several load modes (2026)
//   BN_FLASH_ATTN_TYPE  flash attention is an enum in the context parameters (since 2025-08)
//   BN_EXTRA_BUFTS      weights may be laid out anew for other kernels when they are loaded (since 2025-08)
#pragma once

#include "llama.h"

namespace compat {

#ifdef BN_VOCAB_API
inline const llama_vocab * vocab(const llama_model * m) { return llama_model_get_vocab(m); }
inline llama_model * load(const char * path, llama_model_params p) { return llama_model_load_from_file(path, p); }
inline void free_model(llama_model * m) { llama_model_free(m); }
inline llama_context * new_context(llama_model * m, llama_context_params p) { return llama_init_from_model(m, p); }
inline int32_t n_vocab(const llama_model * m) { return llama_vocab_n_tokens(vocab(m)); }
inline int32_t n_ctx_train(const llama_model * m) { return llama_model_n_ctx_train(m); }
inline int32_t n_embd(const llama_model * m) { return llama_model_n_embd(m); }
inline int32_t n_layer(const llama_model * m) { return llama_model_n_layer(m); }
inline bool has_vocab(const llama_model * m) { return llama_vocab_type(vocab(m)) != LLAMA_VOCAB_TYPE_NONE; }
inline llama_token bos(const llama_model * m) { return llama_vocab_bos(vocab(m)); }
inline llama_token eos(const llama_model * m) { return llama_vocab_eos(vocab(m)); }
inline bool add_bos(const llama_model * m) { return llama_vocab_get_add_bos(vocab(m)); }
inline bool add_eos(const llama_model * m) { return llama_vocab_get_add_eos(vocab(m)); }
inline bool is_eog(const llama_model * m, llama_token t) { return llama_vocab_is_eog(vocab(m), t); }
#else
inline const llama_model * vocab(const llama_model * m) { return m; }
inline llama_model * load(const char * path, llama_model_params p) { return llama_load_model_from_file(path, p); }
inline void free_model(llama_model * m) { llama_free_model(m); }
inline llama_context * new_context(llama_model * m, llama_context_params p) {
    return llama_new_context_with_model(m, p);
}
inline int32_t n_vocab(const llama_model * m) { return llama_n_vocab(m); }
inline int32_t n_ctx_train(const llama_model * m) { return llama_n_ctx_train(m); }
inline int32_t n_embd(const llama_model * m) { return llama_n_embd(m); }
inline int32_t n_layer(const llama_model * m) { return llama_n_layer(m); }
inline bool has_vocab(const llama_model * m) { return llama_vocab_type(m) != LLAMA_VOCAB_TYPE_NONE; }
inline llama_token bos(const llama_model * m) { return llama_token_bos(m); }
inline llama_token eos(const llama_model * m) { return llama_token_eos(m); }
inline bool add_bos(const llama_model * m) { return llama_add_bos_token(m); }
inline bool add_eos(const llama_model * m) { return llama_add_eos_token(m); }
inline bool is_eog(const llama_model * m, llama_token t) { return llama_token_is_eog(m, t); }
#endif

// llama_chat_apply_template took a model first until 2025-01; the template makes it superfluous.
inline int32_t apply_template(int32_t (*f)(const llama_model *, const char *, const llama_chat_message *, size_t, bool,
                                           char *, int32_t),
                              const char * tmpl, const llama_chat_message * chat, size_t n, bool add_prompt, char * buf,
                              int32_t size) {
    return f(nullptr, tmpl, chat, n, add_prompt, buf, size);
}
inline int32_t apply_template(int32_t (*f)(const char *, const llama_chat_message *, size_t, bool, char *, int32_t),
                              const char * tmpl, const llama_chat_message * chat, size_t n, bool add_prompt, char * buf,
                              int32_t size) {
    return f(tmpl, chat, n, add_prompt, buf, size);
}

inline void kv_clear(llama_context * ctx) {
#if defined(BN_MEMORY_API)
    llama_memory_clear(llama_get_memory(ctx), true);
#elif defined(BN_KV_SELF_API)
    llama_kv_self_clear(ctx);
#else
    llama_kv_cache_clear(ctx);
#endif
}

inline void set_mmap(llama_model_params & p, bool on) {
#ifdef BN_LOAD_MODE
    p.load_mode = on ? LLAMA_LOAD_MODE_MMAP : LLAMA_LOAD_MODE_NONE;
#else
    p.use_mmap = on;
#endif
}

inline void no_flash_attn(llama_context_params & p) {
#ifdef BN_FLASH_ATTN_TYPE
    p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
#else
    p.flash_attn = false;
#endif
}

// Whether it is on, or "auto".
inline const char * flash_attn(const llama_context_params & p) {
#ifdef BN_FLASH_ATTN_TYPE
    switch (p.flash_attn_type) {
    case LLAMA_FLASH_ATTN_TYPE_DISABLED: return "false";
    case LLAMA_FLASH_ATTN_TYPE_ENABLED: return "true";
    default: return "auto";
    }
#else
    return p.flash_attn ? "true" : "false";
#endif
}

inline void no_repacking(llama_model_params & p) {
#ifdef BN_EXTRA_BUFTS
    p.use_extra_bufts = false;
#else
    (void) p;
#endif
}

inline bool repacks(const llama_model_params & p) {
#ifdef BN_EXTRA_BUFTS
    return p.use_extra_bufts;
#else
    (void) p;
    return false;
#endif
}

} // namespace compat
