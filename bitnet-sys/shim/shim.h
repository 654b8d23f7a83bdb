/* The C ABI between BitNet.cpp or llama.cpp and bitnet_sys: one generation of names over every generation of llama.h.
 *
 * Functions that can fail say so in their return value and leave the reason in bn_last_error() (per thread).
 * No C++ exception leaves this interface. A GGML_ASSERT still aborts the process. */
#ifndef BITNET_SYS_SHIM_H
#define BITNET_SYS_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bn_model bn_model;
typedef struct bn_context bn_context;

/* Reason of the last failure on this thread; never NULL, valid until the next call on this thread. */
const char *bn_last_error(void);

/* A fragment of log text (UTF-8 as a rule, not always a whole line). `severity` is 2 for the library's errors, 1 for its
 * warnings, else 0. */
typedef void (*bn_log_fn)(const char *text, int32_t severity, void *user_data);
/* Initialises the library and routes its log. To be called once, before anything else. */
bool bn_init(bn_log_fn log, void *user_data);
/* CPU features that the library was compiled for, in its own words. */
const char *bn_system_info(void);
/* Whether the library repacks weights at load, and its flash attention ("auto", "false", "true"), unless it is told
 * otherwise. */
bool bn_repacks(void);
const char *bn_flash_attn(void);

typedef struct bn_model_options {
    bool vocab_only;
    bool use_mmap;
    bool repack; /* false: leave all weights as they are in the file; true: as the library does by itself */
} bn_model_options;

typedef struct bn_model_facts {
    int32_t n_vocab;
    int32_t n_ctx_train;
    int32_t n_embd;
    int32_t n_layer;
    bool has_vocab; /* false: the model has no tokenizer */
    bool add_bos;
    bool add_eos;
    int32_t bos; /* -1: none */
    int32_t eos;
    uint64_t n_params;
    uint64_t size; /* bytes of all tensors */
} bn_model_facts;

bn_model *bn_model_load(const char *path, bn_model_options options);
void bn_model_free(bn_model *model);
void bn_model_get_facts(const bn_model *model, bn_model_facts *facts);
/* Length of the description, like snprintf; -1 on failure. */
int32_t bn_model_desc(const bn_model *model, char *buf, size_t size);
int32_t bn_model_meta_count(const bn_model *model);
/* Both return the length without the final NUL, like snprintf; -1 if there is no such entry. */
int32_t bn_model_meta_key(const bn_model *model, int32_t i, char *buf, size_t size);
int32_t bn_model_meta_value(const bn_model *model, int32_t i, char *buf, size_t size);

/* The tokenizer functions write to a buffer and return the count; where the buffer is too small they write nothing
 * that counts and return minus the count that is needed. BN_FAILED is an error (see bn_last_error). */
#define BN_FAILED INT32_MIN
int32_t bn_tokenize(const bn_model *model, const char *text, int32_t len, int32_t *tokens, int32_t max,
                    bool add_special, bool parse_special);
int32_t bn_detokenize(const bn_model *model, const int32_t *tokens, int32_t n, char *buf, int32_t size,
                      bool remove_special, bool unparse_special);
int32_t bn_token_to_piece(const bn_model *model, int32_t token, char *buf, int32_t size, bool special);
bool bn_token_is_eog(const bn_model *model, int32_t token);

/* The conversation by the hard-coded rendering that the library chooses by what the template contains; it runs no
 * template. Returns the length and writes at most `size` bytes, without a final NUL; -1 if it knows no such template;
 * BN_FAILED as above. All strings end with NUL. */
int32_t bn_chat_apply_template(const char *tmpl, const char *const *roles, const char *const *contents, size_t n,
                               bool add_generation_prompt, char *buf, int32_t size);

/* A tensor of the compute graph. Pointers are valid during the callback only. */
typedef struct bn_tensor {
    const void *id; /* another for every tensor of a graph */
    const char *name;
    const char *op; /* NONE for what no node computes: weights, inputs, caches */
    const char *type_name;
    int64_t shape[4];  /* elements; shape[0] is the fastest dimension */
    size_t strides[4]; /* bytes */
    void *data;        /* NULL while asking, and if the data does not lie in host memory */
    size_t n_bytes;    /* from the first byte of the first element to the last byte of the last */
} bn_tensor;

#define BN_MAX_SOURCES 10
/* One node, just evaluated (or about to be). */
typedef struct bn_node {
    bn_tensor tensor;
    int32_t n_sources;
    bn_tensor sources[BN_MAX_SOURCES]; /* in the library's order, without the empty places */
} bn_node;

typedef enum bn_answer { BN_SKIP = 0, BN_TAKE = 1, BN_STOP = 2 } bn_answer;
/* Called twice per node: with `ask` before it is evaluated (BN_TAKE: call again with the data), then, if so asked,
 * with the data (anything but BN_STOP goes on), before anything is computed from it: what is written there is what the
 * evaluation goes on with. BN_STOP ends the evaluation. Must not unwind. */
typedef bn_answer (*bn_node_fn)(const bn_node *node, bool ask, void *user_data);

typedef struct bn_context_options {
    uint32_t n_ctx;
    uint32_t n_batch;
    uint32_t n_ubatch;
    int32_t n_threads;
    bool flash_attn; /* false: without; true: as the library does by itself */
    bool observe; /* install the node callback; without it the graph runs as one piece */
} bn_context_options;

bn_context *bn_context_new(bn_model *model, bn_context_options options);
void bn_context_free(bn_context *context);
/* What the library made of the sizes that were asked for. */
uint32_t bn_context_n_ctx(const bn_context *context);
uint32_t bn_context_n_batch(const bn_context *context);
uint32_t bn_context_n_ubatch(const bn_context *context);

typedef enum bn_logits { BN_LOGITS_NONE = 0, BN_LOGITS_LAST = 1, BN_LOGITS_ALL = 2 } bn_logits;
typedef enum bn_status {
    BN_OK = 0,
    BN_STOPPED = 1,    /* the callback said BN_STOP */
    BN_KV_FULL = 2,    /* no room in the KV cache */
    BN_DECODE_FAILED = 3
} bn_status;
/* Evaluates n tokens at positions first .. first + n of sequence 0. `observer` may be NULL. */
bn_status bn_decode(bn_context *context, const int32_t *tokens, int32_t n, int32_t first, bn_logits logits,
                    bn_node_fn observer, void *user_data);
/* Logits of token i of the last batch, n_vocab values; NULL if they were not asked for. */
const float *bn_logits_row(bn_context *context, int32_t i);
void bn_kv_clear(bn_context *context);

/* Quantises n activations as the library does before its ternary products, to n codes, their scale and their sum; false
 * if it has no such products. */
bool bn_quantize_i8(const float *x, int8_t *codes, int64_t n, float *scale, int32_t *sum);

#ifdef __cplusplus
}
#endif
#endif
