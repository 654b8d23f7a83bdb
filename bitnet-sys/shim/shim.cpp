#include "shim.h"

#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "ggml.h"
#include "llama_compat.h"

// Of ggml's own headers, which are not installed; llama.cpp has none.
extern "C" void quantize_row_i8_s(const float * x, void * y, int64_t n, float * scale, int32_t * sum) __attribute__((weak));

struct bn_model {
    llama_model * llama;
};

struct bn_context {
    llama_context * llama = nullptr;
    // Set for the time of one bn_decode.
    bn_node_fn observer = nullptr;
    void * user_data = nullptr;
    bool stopped = false;
};

namespace {

thread_local std::string last_error;
bn_log_fn log_fn = nullptr;
void * log_user_data = nullptr;
// Errors logged on this thread: llama_decode reports success over a graph that failed to compute, and only logs it.
thread_local int errors_logged = 0;

void on_log(ggml_log_level level, const char * text, void *) {
    const bool is_error = level == GGML_LOG_LEVEL_ERROR;
    if (is_error) {
        errors_logged++;
    }
    if (log_fn != nullptr && text != nullptr) {
        log_fn(text, is_error ? 2 : level == GGML_LOG_LEVEL_WARN ? 1 : 0, log_user_data);
    }
}

// Runs f, turning an exception into last_error and `failed`.
template <typename T, typename F> T guarded(T failed, F f) {
    try {
        return f();
    } catch (const std::exception & e) {
        last_error = e.what();
    } catch (...) {
        last_error = "unknown C++ exception";
    }
    return failed;
}

bn_tensor described(const ggml_tensor * t, bool with_data) {
    bn_tensor tensor = {};
    tensor.id = t;
    tensor.name = t->name;
    tensor.op = ggml_op_desc(t);
    tensor.type_name = ggml_type_name(t->type);
    for (int i = 0; i < 4; i++) {
        tensor.shape[i] = t->ne[i];
        tensor.strides[i] = t->nb[i];
    }
    if (with_data) {
        const ggml_backend_buffer_t buffer = t->view_src != nullptr ? t->view_src->buffer : t->buffer;
        if (buffer != nullptr && ggml_backend_buffer_is_host(buffer)) {
            tensor.data = t->data;
            tensor.n_bytes = ggml_nelements(t) == 0 ? 0 : ggml_nbytes(t);
        }
    }
    return tensor;
}

bool on_node(ggml_tensor * t, bool ask, void * user_data) {
    bn_context * c = static_cast<bn_context *>(user_data);
    if (c->observer == nullptr || c->stopped) {
        return false;
    }
    bn_node node = {};
    node.tensor = described(t, !ask);
    for (const ggml_tensor * source : t->src) {
        if (source != nullptr && node.n_sources < BN_MAX_SOURCES) {
            node.sources[node.n_sources++] = described(source, !ask);
        }
    }
    const bn_answer answer = c->observer(&node, ask, c->user_data);
    if (answer == BN_STOP) {
        // The scheduler leaves its loop only when the callback for the data says so: ask for the data, then refuse.
        c->stopped = true;
        return ask;
    }
    return ask ? answer == BN_TAKE : true;
}

bool aborted(void * user_data) { return static_cast<bn_context *>(user_data)->stopped; }

} // namespace

const char * bn_last_error(void) { return last_error.c_str(); }

bool bn_init(bn_log_fn log, void * user_data) {
    return guarded(false, [&] {
        log_fn = log;
        log_user_data = user_data;
        llama_log_set(on_log, nullptr);
        llama_backend_init();
        return true;
    });
}

const char * bn_system_info(void) {
    return guarded("", [] { return llama_print_system_info(); });
}

bool bn_repacks(void) { return compat::repacks(llama_model_default_params()); }

const char * bn_flash_attn(void) { return compat::flash_attn(llama_context_default_params()); }

bn_model * bn_model_load(const char * path, bn_model_options options) {
    return guarded<bn_model *>(nullptr, [&]() -> bn_model * {
        last_error = "the library refused the file";
        llama_model_params params = llama_model_default_params();
        params.n_gpu_layers = 0;
        params.vocab_only = options.vocab_only;
        compat::set_mmap(params, options.use_mmap);
        if (!options.repack) {
            compat::no_repacking(params);
        }
        std::unique_ptr<bn_model> model(new bn_model{nullptr});
        model->llama = compat::load(path, params);
        return model->llama != nullptr ? model.release() : nullptr;
    });
}

void bn_model_free(bn_model * model) {
    guarded(false, [&] {
        compat::free_model(model->llama);
        return true;
    });
    delete model;
}

void bn_model_get_facts(const bn_model * model, bn_model_facts * facts) {
    const llama_model * m = model->llama;
    facts->n_vocab = compat::n_vocab(m);
    facts->n_ctx_train = compat::n_ctx_train(m);
    facts->n_embd = compat::n_embd(m);
    facts->n_layer = compat::n_layer(m);
    facts->has_vocab = compat::has_vocab(m);
    facts->bos = -1;
    facts->eos = -1;
    facts->add_bos = false;
    facts->add_eos = false;
    if (facts->has_vocab) {
        facts->bos = compat::bos(m);
        facts->eos = compat::eos(m);
        facts->add_bos = compat::add_bos(m);
        facts->add_eos = compat::add_eos(m);
    }
    facts->n_params = llama_model_n_params(m);
    facts->size = llama_model_size(m);
}

int32_t bn_model_desc(const bn_model * model, char * buf, size_t size) {
    return llama_model_desc(model->llama, buf, size);
}

int32_t bn_model_meta_count(const bn_model * model) { return llama_model_meta_count(model->llama); }

int32_t bn_model_meta_key(const bn_model * model, int32_t i, char * buf, size_t size) {
    return llama_model_meta_key_by_index(model->llama, i, buf, size);
}

int32_t bn_model_meta_value(const bn_model * model, int32_t i, char * buf, size_t size) {
    return llama_model_meta_val_str_by_index(model->llama, i, buf, size);
}

int32_t bn_tokenize(const bn_model * model, const char * text, int32_t len, int32_t * tokens, int32_t max,
                    bool add_special, bool parse_special) {
    return guarded(BN_FAILED, [&] {
        return llama_tokenize(compat::vocab(model->llama), text, len, tokens, max, add_special, parse_special);
    });
}

int32_t bn_detokenize(const bn_model * model, const int32_t * tokens, int32_t n, char * buf, int32_t size,
                      bool remove_special, bool unparse_special) {
    return guarded(BN_FAILED, [&] {
        return llama_detokenize(compat::vocab(model->llama), tokens, n, buf, size, remove_special, unparse_special);
    });
}

int32_t bn_token_to_piece(const bn_model * model, int32_t token, char * buf, int32_t size, bool special) {
    return guarded(BN_FAILED, [&] {
        return llama_token_to_piece(compat::vocab(model->llama), token, buf, size, 0, special);
    });
}

bool bn_token_is_eog(const bn_model * model, int32_t token) {
    return guarded(false, [&] { return compat::is_eog(model->llama, token); });
}

int32_t bn_chat_apply_template(const char * tmpl, const char * const * roles, const char * const * contents, size_t n,
                               bool add_generation_prompt, char * buf, int32_t size) {
    return guarded(BN_FAILED, [&] {
        std::vector<llama_chat_message> chat(n);
        for (size_t i = 0; i < n; i++) {
            chat[i] = {roles[i], contents[i]};
        }
        return compat::apply_template(&llama_chat_apply_template, tmpl, chat.data(), n, add_generation_prompt, buf,
                                      size);
    });
}

bn_context * bn_context_new(bn_model * model, bn_context_options options) {
    return guarded<bn_context *>(nullptr, [&]() -> bn_context * {
        last_error = "the library could not make a context";
        std::unique_ptr<bn_context> context(new bn_context);
        llama_context_params params = llama_context_default_params();
        params.n_ctx = options.n_ctx;
        params.n_batch = options.n_batch;
        params.n_ubatch = options.n_ubatch;
        params.n_seq_max = 1;
        params.n_threads = options.n_threads;
        params.n_threads_batch = options.n_threads;
        params.type_k = GGML_TYPE_F16;
        params.type_v = GGML_TYPE_F16;
        params.no_perf = false;
        if (!options.flash_attn) {
            compat::no_flash_attn(params);
        }
        if (options.observe) {
            params.cb_eval = on_node;
            params.cb_eval_user_data = context.get();
            params.abort_callback = aborted;
            params.abort_callback_data = context.get();
        }
        context->llama = compat::new_context(model->llama, params);
        return context->llama != nullptr ? context.release() : nullptr;
    });
}

void bn_context_free(bn_context * context) {
    guarded(false, [&] {
        llama_free(context->llama);
        return true;
    });
    delete context;
}

uint32_t bn_context_n_ctx(const bn_context * context) { return llama_n_ctx(context->llama); }
uint32_t bn_context_n_batch(const bn_context * context) { return llama_n_batch(context->llama); }
uint32_t bn_context_n_ubatch(const bn_context * context) { return llama_n_ubatch(context->llama); }

bn_status bn_decode(bn_context * context, const int32_t * tokens, int32_t n, int32_t first, bn_logits logits,
                    bn_node_fn observer, void * user_data) {
    const bn_status status = guarded(BN_DECODE_FAILED, [&] {
        // The batch borrows these; llama_batch_init would own memory that only llama_batch_free may release.
        std::vector<llama_token> ids(tokens, tokens + n);
        std::vector<llama_pos> positions(n);
        std::vector<int32_t> n_seq_ids(n, 1);
        llama_seq_id sequence = 0;
        std::vector<llama_seq_id *> seq_ids(n, &sequence);
        std::vector<int8_t> wanted(n, logits == BN_LOGITS_ALL);
        for (int32_t i = 0; i < n; i++) {
            positions[i] = first + i;
        }
        if (logits == BN_LOGITS_LAST) {
            wanted.back() = 1;
        }
        llama_batch batch = {};
        batch.n_tokens = n;
        batch.token = ids.data();
        batch.pos = positions.data();
        batch.n_seq_id = n_seq_ids.data();
        batch.seq_id = seq_ids.data();
        batch.logits = wanted.data();

        context->observer = observer;
        context->user_data = user_data;
        context->stopped = false;
        errors_logged = 0;
        const int32_t rc = llama_decode(context->llama, batch);
        llama_synchronize(context->llama);
        if (context->stopped) {
            return BN_STOPPED;
        }
        if (rc == 1) {
            last_error = "no room in the KV cache";
            return BN_KV_FULL;
        }
        if (rc != 0 || errors_logged > 0) {
            last_error = "llama_decode returned " + std::to_string(rc);
            return BN_DECODE_FAILED;
        }
        return BN_OK;
    });
    context->observer = nullptr;
    context->user_data = nullptr;
    return status;
}

const float * bn_logits_row(bn_context * context, int32_t i) {
    return guarded<const float *>(nullptr, [&] { return llama_get_logits_ith(context->llama, i); });
}

void bn_kv_clear(bn_context * context) {
    guarded(false, [&] {
        compat::kv_clear(context->llama);
        return true;
    });
}

bool bn_quantize_i8(const float * x, int8_t * codes, int64_t n, float * scale, int32_t * sum) {
    if (quantize_row_i8_s == nullptr) {
        return false;
    }
    quantize_row_i8_s(x, codes, n, scale, sum);
    return true;
}
