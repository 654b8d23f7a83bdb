/* An engine for `crossval run --candidate exec:./engine`: LLaMA in C99, written from the model's definition.
 *
 *     cc -std=c99 -O2 -I crossval-protocol/include examples/c/engine.c -o engine -lm
 *     crossval run --model stories260K.gguf --profile logits --candidate exec:./engine
 *
 * It shows the least that an engine needs: the messages of crossval_protocol.h, and a forward pass that offers one tap,
 * the logits. It takes no values from the other engine, so it is compared in cumulative mode. Runs GGUF files of the
 * architecture llama with F32 weights. No tokenizer: the other engine has one.
 */
#define _POSIX_C_SOURCE 200809L

#include <math.h>
#include <stdarg.h>
#include <time.h>

#include "crossval_protocol.h"

/* Why the last request was refused. */
static char refusal[512];

/* Says why; returns 0, for functions that return whether all went well. */
static int refuse(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(refusal, sizeof refusal, format, arguments);
    va_end(arguments);
    return 0;
}

/* --- GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md ---------------------------------------------- */

enum { U32 = 4, F32_VALUE = 6, STRING = 8, ARRAY = 9, N_KINDS = 13 };

/* Bytes of a value of metadata, by its kind; 0 for strings and arrays. */
static const size_t KIND_BYTES[N_KINDS] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/* A file in memory, and how far it has been read. */
typedef struct {
    const char *data;
    size_t len;
    size_t at;
    /* Whether something was to be read that the file does not hold. */
    int cut;
} Reader;

static const char *take(Reader *reader, uint64_t len) {
    if (len > reader->len - reader->at) {
        reader->cut = 1;
        reader->at = reader->len;
        return NULL;
    }
    reader->at += (size_t)len;
    return reader->data + (reader->at - (size_t)len);
}

static uint32_t take_u32(Reader *reader) {
    uint32_t value = 0;
    const char *bytes = take(reader, sizeof value);
    if (bytes != NULL) {
        memcpy(&value, bytes, sizeof value);
    }
    return value;
}

static uint64_t take_u64(Reader *reader) {
    uint64_t value = 0;
    const char *bytes = take(reader, sizeof value);
    if (bytes != NULL) {
        memcpy(&value, bytes, sizeof value);
    }
    return value;
}

/* A string of the file, which no NUL ends. */
typedef struct {
    const char *bytes;
    size_t len;
} Text;

static Text take_text(Reader *reader) {
    Text text;
    uint64_t len = take_u64(reader);
    text.bytes = take(reader, len);
    text.len = text.bytes == NULL ? 0 : (size_t)len;
    return text;
}

static int same(Text text, const char *other) {
    return text.len == strlen(other) && memcmp(text.bytes, other, text.len) == 0;
}

/* Passes over a value of metadata. Arrays of arrays are in no model's file. */
static void skip_value(Reader *reader, uint32_t kind) {
    if (kind == STRING) {
        take_text(reader);
    } else if (kind == ARRAY) {
        uint32_t of = take_u32(reader);
        uint64_t n = take_u64(reader);
        if (of == STRING) {
            while (n-- > 0 && !reader->cut) {
                take_text(reader);
            }
        } else if (of >= N_KINDS || KIND_BYTES[of] == 0 || n > reader->len) {
            reader->cut = 1;
        } else {
            take(reader, n * KIND_BYTES[of]);
        }
    } else if (kind < N_KINDS) {
        take(reader, KIND_BYTES[kind]);
    } else {
        reader->cut = 1;
    }
}

/* --- The model ---------------------------------------------------------------------------------------------------- */

typedef struct {
    const float *attn_norm, *q, *k, *v, *attn_output, *ffn_norm, *gate, *up, *down;
} Layer;

typedef struct {
    char *file;
    uint32_t n_layer, n_embd, n_ff, n_head, n_head_kv, n_vocab, n_ctx_train, head_dim;
    float eps, rope_base;
    Layer *layers;
    /* Matrices are rows of outputs: row t of the embedding is token t's. */
    const float *embedding, *output_norm, *output;
} Model;

/* Where a tensor lies. */
typedef struct {
    Text name;
    uint64_t shape[4];
    uint32_t type;
    uint64_t offset;
    int used;
} Tensor;

typedef struct {
    Tensor *all;
    size_t n;
    /* The data of all of them. */
    const char *data;
    size_t len;
} Tensors;

/* A matrix of `rows` rows of `columns` F32 values, or a vector as one row; `layer` is -1 outside the layers. */
static int find(Tensors *tensors, const float **to, const char *name, int layer, uint64_t columns, uint64_t rows) {
    char full[64];
    size_t i;
    if (layer < 0) {
        snprintf(full, sizeof full, "%s.weight", name);
    } else {
        snprintf(full, sizeof full, "blk.%d.%s.weight", layer, name);
    }
    for (i = 0; i < tensors->n; i++) {
        Tensor *tensor = &tensors->all[i];
        uint64_t most = tensors->len / sizeof(float);
        if (!same(tensor->name, full)) {
            continue;
        }
        if (tensor->type != 0) {
            return refuse("tensor %s is not of type F32", full);
        }
        if (tensor->shape[0] != columns || tensor->shape[1] != rows || tensor->shape[2] * tensor->shape[3] != 1) {
            return refuse("tensor %s is not %llu x %llu", full, (unsigned long long)columns, (unsigned long long)rows);
        }
        if (tensor->offset > tensors->len || tensor->offset % sizeof(float) != 0 || columns > most ||
            rows > most / columns || columns * rows * sizeof(float) > tensors->len - tensor->offset) {
            return refuse("tensor %s does not lie in the file", full);
        }
        tensor->used = 1;
        *to = (const float *)(const void *)(tensors->data + tensor->offset);
        return 1;
    }
    return refuse("tensor %s is missing", full);
}

/* Sizes as this engine can multiply them without a thought. */
static int fits(const char *key, uint32_t size) {
    return (size > 0 && size < 1u << 24) || refuse("llama.%s is %u", key, size);
}

/* Reads the metadata into the model; returns what general.alignment says. */
static int read_metadata(Reader *reader, uint64_t n_keys, Model *model, uint64_t *alignment) {
    uint32_t rope_dims = 0, key_length = 0, value_length = 0;
    float rope_factor = 1, rope_scale = 1, rope_magnitude = 1;
    struct {
        const char *key;
        uint32_t kind;
        void *to;
    } wanted[] = {
        {"llama.block_count", U32, &model->n_layer},
        {"llama.embedding_length", U32, &model->n_embd},
        {"llama.feed_forward_length", U32, &model->n_ff},
        {"llama.attention.head_count", U32, &model->n_head},
        {"llama.attention.head_count_kv", U32, &model->n_head_kv},
        {"llama.context_length", U32, &model->n_ctx_train},
        {"llama.attention.layer_norm_rms_epsilon", F32_VALUE, &model->eps},
        {"llama.rope.freq_base", F32_VALUE, &model->rope_base},
        {"llama.rope.dimension_count", U32, &rope_dims},
        {"llama.attention.key_length", U32, &key_length},
        {"llama.attention.value_length", U32, &value_length},
        {"llama.rope.scaling.factor", F32_VALUE, &rope_factor},
        {"llama.rope.scale_linear", F32_VALUE, &rope_scale},
        {"llama.rope.scaling.attn_factor", F32_VALUE, &rope_magnitude},
    };
    int is_llama = 0;
    uint64_t i;
    size_t j;
    model->rope_base = 10000;
    *alignment = 32;
    for (i = 0; i < n_keys && !reader->cut; i++) {
        Text key = take_text(reader);
        uint32_t kind = take_u32(reader);
        if (same(key, "general.architecture") && kind == STRING) {
            is_llama = same(take_text(reader), "llama");
            continue;
        }
        if (same(key, "general.alignment") && kind == U32) {
            *alignment = take_u32(reader);
            continue;
        }
        for (j = 0; j < sizeof wanted / sizeof *wanted && !same(key, wanted[j].key); j++) {
        }
        if (j == sizeof wanted / sizeof *wanted) {
            skip_value(reader, kind);
        } else if (kind == wanted[j].kind) {
            uint32_t bits = take_u32(reader);
            memcpy(wanted[j].to, &bits, sizeof bits);
        } else {
            return refuse("%s is of type %u", wanted[j].key, kind);
        }
    }
    if (reader->cut || *alignment == 0) {
        return refuse("the metadata is damaged");
    }
    if (!is_llama) {
        return refuse("the architecture is not llama");
    }
    model->n_head_kv = model->n_head_kv == 0 ? model->n_head : model->n_head_kv;
    if (!fits("block_count", model->n_layer) || !fits("embedding_length", model->n_embd) ||
        !fits("feed_forward_length", model->n_ff) || !fits("attention.head_count", model->n_head) ||
        !fits("attention.head_count_kv", model->n_head_kv) || !fits("context_length", model->n_ctx_train)) {
        return 0;
    }
    model->head_dim = model->n_embd / model->n_head;
    if (model->n_embd % model->n_head != 0 || model->n_head % model->n_head_kv != 0 || model->head_dim % 2 != 0) {
        return refuse("%u heads, %u for keys, of %u values", model->n_head, model->n_head_kv, model->n_embd);
    }
    if ((rope_dims != 0 && rope_dims != model->head_dim) || (key_length != 0 && key_length != model->head_dim) ||
        (value_length != 0 && value_length != model->head_dim) || rope_factor != 1 || rope_scale != 1 ||
        rope_magnitude != 1) {
        return refuse("partial or scaled RoPE, or heads of other sizes");
    }
    return (model->eps > 0 && model->rope_base > 0) || refuse("no eps, or no base of RoPE, above 0");
}

/* Reads where the tensors lie. */
static int read_tensors(Reader *reader, Tensors *tensors) {
    size_t i;
    uint32_t d;
    for (i = 0; i < tensors->n; i++) {
        Tensor *tensor = &tensors->all[i];
        uint32_t n_dims;
        tensor->name = take_text(reader);
        n_dims = take_u32(reader);
        if (n_dims > 4) {
            return refuse("a tensor of %u dimensions", n_dims);
        }
        for (d = 0; d < 4; d++) {
            tensor->shape[d] = d < n_dims ? take_u64(reader) : 1;
        }
        tensor->type = take_u32(reader);
        tensor->offset = take_u64(reader);
    }
    return !reader->cut || refuse("the list of tensors is cut short");
}

static int find_weights(Model *model, Tensors *tensors) {
    uint32_t embd = model->n_embd, ff = model->n_ff, kv = model->n_head_kv * model->head_dim;
    size_t i;
    for (i = 0; i < tensors->n; i++) {
        if (same(tensors->all[i].name, "token_embd.weight") && tensors->all[i].shape[1] < 1u << 24) {
            model->n_vocab = (uint32_t)tensors->all[i].shape[1];
        }
    }
    if (!find(tensors, &model->embedding, "token_embd", -1, embd, model->n_vocab) ||
        !find(tensors, &model->output_norm, "output_norm", -1, embd, 1)) {
        return 0;
    }
    for (i = 0; i < model->n_layer; i++) {
        Layer *layer = &model->layers[i];
        int at = (int)i;
        if (!find(tensors, &layer->attn_norm, "attn_norm", at, embd, 1) ||
            !find(tensors, &layer->q, "attn_q", at, embd, embd) || !find(tensors, &layer->k, "attn_k", at, embd, kv) ||
            !find(tensors, &layer->v, "attn_v", at, embd, kv) ||
            !find(tensors, &layer->attn_output, "attn_output", at, embd, embd) ||
            !find(tensors, &layer->ffn_norm, "ffn_norm", at, embd, 1) ||
            !find(tensors, &layer->gate, "ffn_gate", at, embd, ff) ||
            !find(tensors, &layer->up, "ffn_up", at, embd, ff) ||
            !find(tensors, &layer->down, "ffn_down", at, ff, embd)) {
            return 0;
        }
    }
    model->output = model->embedding;
    for (i = 0; i < tensors->n; i++) {
        Tensor *tensor = &tensors->all[i];
        if (same(tensor->name, "output.weight") &&
            !find(tensors, &model->output, "output", -1, embd, model->n_vocab)) {
            return 0;
        }
        if (!tensor->used) {
            return refuse("nothing is known of tensor %.*s", (int)(tensor->name.len < 200 ? tensor->name.len : 200),
                          tensor->name.bytes);
        }
    }
    return 1;
}

static void free_model(Model *model) {
    free(model->file);
    free(model->layers);
    memset(model, 0, sizeof *model);
}

/* The whole file; NULL if it cannot be read. */
static char *read_file(const char *path, size_t *len) {
    crossval_bytes bytes = {NULL, 0, 0};
    FILE *file = fopen(path, "rb");
    size_t n = 1;
    if (file == NULL) {
        refuse("%.200s: %s", path, strerror(errno));
        return NULL;
    }
    while (n > 0) {
        crossval_reserve(&bytes, (size_t)1 << 20);
        n = fread(bytes.data + bytes.len, 1, (size_t)1 << 20, file);
        bytes.len += n;
    }
    if (ferror(file)) {
        refuse("%.200s: %s", path, strerror(errno));
        crossval_free(&bytes);
    }
    fclose(file);
    *len = bytes.len;
    return bytes.data;
}

static int load(Model *model, const char *path) {
    Reader reader = {NULL, 0, 0, 0};
    Tensors tensors = {NULL, 0, NULL, 0};
    const char *magic;
    uint32_t version;
    uint64_t n_tensors, n_keys, alignment, start;
    int ok;
    free_model(model);
    model->file = read_file(path, &reader.len);
    if (model->file == NULL) {
        return 0;
    }
    reader.data = model->file;
    magic = take(&reader, 4);
    version = take_u32(&reader);
    n_tensors = take_u64(&reader);
    n_keys = take_u64(&reader);
    if (reader.cut || memcmp(magic, "GGUF", 4) != 0 || version < 2 || version > 3) {
        return refuse("%.200s is not a GGUF file of version 2 or 3", path);
    }
    if (!read_metadata(&reader, n_keys, model, &alignment)) {
        return 0;
    }
    /* Each takes more than one byte of the file. */
    tensors.n = n_tensors < reader.len ? (size_t)n_tensors : reader.len;
    tensors.all = (Tensor *)calloc(tensors.n + 1, sizeof *tensors.all);
    model->layers = (Layer *)calloc(model->n_layer, sizeof *model->layers);
    if (tensors.all == NULL || model->layers == NULL) {
        free(tensors.all);
        return refuse("out of memory");
    }
    ok = read_tensors(&reader, &tensors);
    start = (reader.at + alignment - 1) / alignment * alignment;
    tensors.data = reader.data + (start < reader.len ? start : reader.len);
    tensors.len = start < reader.len ? reader.len - (size_t)start : 0;
    ok = ok && (start % sizeof(float) == 0 || refuse("an alignment of %llu", (unsigned long long)alignment)) &&
         find_weights(model, &tensors);
    free(tensors.all);
    return ok;
}

/* --- The forward pass --------------------------------------------------------------------------------------------- */

/* A sequence: the KV cache, and how far it is filled. */
typedef struct {
    size_t n_ctx;
    size_t position;
    /* Per layer and position, F16 values, held in F32. */
    float *keys, *values;
    /* One token's values. */
    float *x, *h, *q, *attn, *gate, *up, *scores;
} Session;

static void free_session(Session *session) {
    free(session->keys);
    free(session->x);
    memset(session, 0, sizeof *session);
}

static int configure(Session *session, const Model *model, size_t n_ctx) {
    size_t kv = model->n_head_kv * model->head_dim, embd = model->n_embd, ff = model->n_ff;
    free_session(session);
    if (n_ctx > SIZE_MAX / sizeof(float) / 2 / model->n_layer / kv) {
        return refuse("a context of %llu tokens", (unsigned long long)n_ctx);
    }
    session->keys = (float *)calloc(2 * n_ctx * model->n_layer * kv, sizeof(float));
    session->x = (float *)calloc(4 * embd + 2 * ff + n_ctx, sizeof(float));
    if (session->keys == NULL || session->x == NULL) {
        free_session(session);
        return refuse("no memory for a context of %llu tokens", (unsigned long long)n_ctx);
    }
    session->n_ctx = n_ctx;
    session->values = session->keys + n_ctx * model->n_layer * kv;
    session->h = session->x + embd;
    session->q = session->h + embd;
    session->attn = session->q + embd;
    session->gate = session->attn + embd;
    session->up = session->gate + ff;
    session->scores = session->up + ff;
    return 1;
}

/* The nearest F16, ties to even: multiples of 2^(e - 11) below 2^e, of 2^-24 at least. */
static float to_f16(float x) {
    int e, step;
    float rounded;
    if (!isfinite(x)) {
        return x;
    }
    frexpf(x, &e);
    step = e - 11 > -24 ? e - 11 : -24;
    rounded = ldexpf(rintf(ldexpf(x, -step)), step);
    return fabsf(rounded) > 65504 ? copysignf(INFINITY, rounded) : rounded;
}

static void norm(const float *x, const float *gamma, size_t n, float eps, float *out) {
    double sum = 0, scale;
    size_t i;
    for (i = 0; i < n; i++) {
        sum += (double)x[i] * x[i];
    }
    scale = 1 / sqrt(sum / (double)n + eps);
    for (i = 0; i < n; i++) {
        out[i] = (float)(x[i] * scale * gamma[i]);
    }
}

static double dot(const float *a, const float *b, size_t n) {
    double sum = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        sum += (double)a[i] * b[i];
    }
    return sum;
}

static void multiply(const float *matrix, const float *x, size_t columns, size_t rows, float *out) {
    size_t i;
    for (i = 0; i < rows; i++) {
        out[i] = (float)dot(matrix + i * columns, x, columns);
    }
}

/* Turns the values 2i and 2i + 1 of each head by position * base^(-2i / head_dim). Angles are carried from pair to pair
 * in F32, as ggml does. */
static void rotate(const Model *model, float *x, size_t n_heads, size_t position) {
    size_t dim = model->head_dim, head, i;
    float factor = powf(model->rope_base, -2.0f / (float)dim);
    for (head = 0; head < n_heads; head++, x += dim) {
        float angle = (float)position;
        for (i = 0; i < dim; i += 2, angle *= factor) {
            double low = x[i], high = x[i + 1], c = cos(angle), s = sin(angle);
            x[i] = (float)(low * c - high * s);
            x[i + 1] = (float)(low * s + high * c);
        }
    }
}

/* Attention of one token to those up to its own: `keys` and `values` are the layer's, from position 0 on. */
static void attend(const Model *model, Session *session, const float *keys, const float *values) {
    size_t dim = model->head_dim, kv = model->n_head_kv * dim, n = session->position + 1;
    size_t group = model->n_head / model->n_head_kv, head, i, t;
    for (head = 0; head < model->n_head; head++) {
        float *q = session->q + head * dim, *out = session->attn + head * dim;
        size_t at = head / group * dim;
        double largest = -INFINITY, total = 0;
        for (i = 0; i < dim; i++) {
            q[i] = to_f16(q[i]);
        }
        for (t = 0; t < n; t++) {
            session->scores[t] = (float)(dot(q, keys + t * kv + at, dim) / sqrt((double)dim));
            largest = fmax(largest, session->scores[t]);
        }
        for (t = 0; t < n; t++) {
            session->scores[t] = (float)exp(session->scores[t] - largest);
            total += session->scores[t];
        }
        for (i = 0; i < dim; i++) {
            double sum = 0;
            for (t = 0; t < n; t++) {
                sum += (double)session->scores[t] * values[t * kv + at + i];
            }
            out[i] = (float)(sum / total);
        }
    }
}

/* Evaluates the next token of the sequence; `logits` holds the model's n_vocab of them, or is NULL. */
static void evaluate(const Model *model, Session *session, uint32_t token, float *logits) {
    size_t embd = model->n_embd, ff = model->n_ff, kv = model->n_head_kv * model->head_dim, layer, i;
    float *x = session->x, *h = session->h;
    memcpy(x, model->embedding + (size_t)token * embd, embd * sizeof *x);
    for (layer = 0; layer < model->n_layer; layer++) {
        const Layer *w = &model->layers[layer];
        float *keys = session->keys + layer * session->n_ctx * kv, *key = keys + session->position * kv;
        float *values = session->values + layer * session->n_ctx * kv, *value = values + session->position * kv;
        norm(x, w->attn_norm, embd, model->eps, h);
        multiply(w->q, h, embd, embd, session->q);
        multiply(w->k, h, embd, kv, key);
        multiply(w->v, h, embd, kv, value);
        rotate(model, session->q, model->n_head, session->position);
        rotate(model, key, model->n_head_kv, session->position);
        for (i = 0; i < kv; i++) {
            key[i] = to_f16(key[i]);
            value[i] = to_f16(value[i]);
        }
        attend(model, session, keys, values);
        multiply(w->attn_output, session->attn, embd, embd, h);
        for (i = 0; i < embd; i++) {
            x[i] += h[i];
        }
        norm(x, w->ffn_norm, embd, model->eps, h);
        multiply(w->gate, h, embd, ff, session->gate);
        multiply(w->up, h, embd, ff, session->up);
        for (i = 0; i < ff; i++) {
            double gate = session->gate[i];
            session->gate[i] = (float)(gate / (1 + exp(-gate)) * session->up[i]);
        }
        multiply(w->down, session->gate, ff, embd, h);
        for (i = 0; i < embd; i++) {
            x[i] += h[i];
        }
    }
    session->position++;
    if (logits != NULL) {
        norm(x, model->output_norm, embd, model->eps, h);
        multiply(model->output, h, embd, model->n_vocab, logits);
    }
}

/* --- The protocol ------------------------------------------------------------------------------------------------- */

static const char *const ARCHITECTURES[] = {"llama", NULL};
static const char *const OFFERED[] = {"logits", NULL};
static const char *const TYPES[] = {"F32", NULL};

/* All that a LLaMA has, though this engine offers but one. */
static const char *const TAPS[] = {
    "embd",       "attn_norm", "q",         "k",       "v",        "q_rope",   "k_rope", "k_cache", "v_cache",
    "attn_probs", "attn_out",  "attn_proj", "ffn_inp", "ffn_norm", "ffn_gate", "ffn_up", "ffn_act", "ffn_down",
    "layer_out",  "final_norm", "logits",   NULL,
};

static const crossval_weights WEIGHTS[] = {
    {"q", TYPES},        {"k", TYPES},      {"v", TYPES},        {"attn_proj", TYPES},
    {"ffn_gate", TYPES}, {"ffn_up", TYPES}, {"ffn_down", TYPES}, {"logits", TYPES},
    {NULL, NULL},
};

static double now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static int on_load(crossval_worker *worker, Model *model, Session *session) {
    crossval_bytes path = {NULL, 0, 0};
    crossval_facts facts;
    double start = now_ms();
    int ok;
    free_session(session);
    ok = crossval_string(worker, "model", &path) ? load(model, path.data) : refuse("no model is named");
    crossval_free(&path);
    if (!ok) {
        free_model(model);
        return 0;
    }
    memset(&facts, 0, sizeof facts);
    facts.architecture = ARCHITECTURES[0];
    facts.n_layer = model->n_layer;
    facts.n_embd = model->n_embd;
    facts.n_ff = model->n_ff;
    facts.n_head = model->n_head;
    facts.n_head_kv = model->n_head_kv;
    facts.n_vocab = model->n_vocab;
    facts.n_ctx_train = model->n_ctx_train;
    facts.taps = TAPS;
    facts.weight_types = WEIGHTS;
    crossval_send_loaded(worker, &facts, now_ms() - start);
    return 1;
}

static int on_configure(crossval_worker *worker, const Model *model, Session *session) {
    const char *settings[] = {"n_ctx", NULL, "threads", "1", "kv_cache", "F16", NULL};
    char text[24];
    size_t n_ctx;
    if (model->file == NULL) {
        return refuse("no model is loaded");
    }
    if (!crossval_count(worker, "n_ctx", &n_ctx)) {
        return refuse("no n_ctx");
    }
    if (!configure(session, model, n_ctx)) {
        return 0;
    }
    snprintf(text, sizeof text, "%llu", (unsigned long long)n_ctx);
    settings[1] = text;
    crossval_send_configured(worker, settings);
    return 1;
}

/* Whether these tokens can follow at `first`; 0 clears the sequence. */
static int may_follow(const Model *model, Session *session, size_t first, const uint32_t *tokens, size_t n) {
    size_t i;
    if (session->keys == NULL) {
        return refuse("the engine is not configured");
    }
    if (tokens == NULL || n == 0) {
        return refuse("there are no tokens");
    }
    session->position = first == 0 ? 0 : session->position;
    if (first != session->position || n > session->n_ctx - first) {
        return refuse("%llu tokens at position %llu, the sequence is at %llu of %llu", (unsigned long long)n,
                      (unsigned long long)first, (unsigned long long)session->position,
                      (unsigned long long)session->n_ctx);
    }
    for (i = 0; i < n; i++) {
        if (tokens[i] >= model->n_vocab) {
            return refuse("token %u of a vocabulary of %u", tokens[i], model->n_vocab);
        }
    }
    return 1;
}

static int on_eval(crossval_worker *worker, const Model *model, Session *session) {
    size_t seq_id, first, n, i;
    const uint32_t *tokens = crossval_tokens(worker, &n);
    int all = crossval_lists(worker, "taps", "logits");
    int last = crossval_flag(worker, "last_logits");
    float *logits;
    if (!crossval_count(worker, "seq_id", &seq_id) || seq_id != 0) {
        return refuse("only sequence 0 is there");
    }
    if (!crossval_count(worker, "first_position", &first)) {
        return refuse("no first_position");
    }
    if (!may_follow(model, session, first, tokens, n)) {
        return 0;
    }
    logits = (float *)calloc((all ? n : 1) * model->n_vocab, sizeof *logits);
    if (logits == NULL) {
        return refuse("no memory for the logits");
    }
    for (i = 0; i < n; i++) {
        float *row = logits + (all ? i * model->n_vocab : 0);
        evaluate(model, session, tokens[i], all || (last && i + 1 == n) ? row : NULL);
    }
    if (all) {
        crossval_send_tap(worker, "logits", -1, first, n, model->n_vocab, sizeof *logits, logits, 0);
    }
    crossval_send_evaluated(worker, last ? logits + (all ? (n - 1) * model->n_vocab : 0) : NULL, model->n_vocab);
    free(logits);
    return 1;
}

/* The most likely token, the first of equals. */
static uint32_t greedy(const float *logits, uint32_t n_vocab) {
    uint32_t best = 0, i;
    for (i = 1; i < n_vocab; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}

static int on_generate(crossval_worker *worker, const Model *model, Session *session) {
    size_t n, n_predict, i;
    const uint32_t *prompt = crossval_tokens(worker, &n);
    double start = now_ms(), prefill_ms, *decode_ms;
    uint32_t *tokens;
    float *logits;
    int ok;
    if (!may_follow(model, session, 0, prompt, n)) {
        return 0;
    }
    /* The last one is not evaluated. */
    if (!crossval_count(worker, "n_predict", &n_predict) || n_predict > session->n_ctx - n + 1) {
        return refuse("so many tokens do not fit a context of %llu", (unsigned long long)session->n_ctx);
    }
    logits = (float *)calloc(model->n_vocab, sizeof *logits);
    tokens = (uint32_t *)calloc(n_predict + 1, sizeof *tokens);
    decode_ms = (double *)calloc(n_predict + 1, sizeof *decode_ms);
    ok = (logits != NULL && tokens != NULL && decode_ms != NULL) || refuse("no memory for so many tokens");
    if (ok) {
        for (i = 0; i < n; i++) {
            evaluate(model, session, prompt[i], i + 1 == n ? logits : NULL);
        }
        tokens[0] = greedy(logits, model->n_vocab);
        prefill_ms = now_ms() - start;
        for (i = 1; i < n_predict; i++) {
            start = now_ms();
            evaluate(model, session, tokens[i - 1], logits);
            tokens[i] = greedy(logits, model->n_vocab);
            decode_ms[i - 1] = now_ms() - start;
        }
        crossval_send_generated(worker, tokens, n_predict, prefill_ms, decode_ms);
    }
    free(logits);
    free(tokens);
    free(decode_ms);
    return ok;
}

int main(void) {
    static crossval_worker worker;
    static const crossval_hello hello = {"c", "1", ARCHITECTURES, OFFERED, TYPES, 0};
    Model model;
    Session session;
    memset(&model, 0, sizeof model);
    memset(&session, 0, sizeof session);
    crossval_open(&worker);
    crossval_send_hello(&worker, &hello);
    while (crossval_receive(&worker)) {
        int loading = crossval_is(&worker, "load"), ok = 1;
        if (loading) {
            ok = on_load(&worker, &model, &session);
        } else if (crossval_is(&worker, "configure")) {
            ok = on_configure(&worker, &model, &session);
        } else if (crossval_is(&worker, "eval")) {
            ok = on_eval(&worker, &model, &session);
        } else if (crossval_is(&worker, "generate")) {
            ok = on_generate(&worker, &model, &session);
        } else if (crossval_is(&worker, "usage")) {
            crossval_send_usage(&worker);
        } else {
            ok = refuse("no answer to this request");
        }
        if (!ok) {
            crossval_send_error(&worker, loading ? "bad_model" : "usage", refusal);
        }
    }
    free_session(&session);
    free_model(&model);
    crossval_free(&worker.header);
    crossval_free(&worker.payload);
    return 0;
}
