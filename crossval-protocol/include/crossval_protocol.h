/* The worker protocol of crossval, version 2, for engines in C99 and C++11 or later.
 *
 * An engine that speaks it can be compared with any other: `crossval run --candidate exec:./engine`. This header is
 * all that it needs: frames on standard input and output, a reader for the headers of requests, and a writer for each
 * answer of an engine without a tokenizer. What this header has no writer for goes out with crossval_send. The
 * protocol itself, with what each message means and which conversations there are, is documented in the Rust module of
 * that name (`cargo doc -p crossval --no-deps`); `examples/c/engine.c` is a whole engine.
 *
 *     crossval_worker worker;
 *     crossval_open(&worker);
 *     crossval_send_hello(&worker, &hello);
 *     while (crossval_receive(&worker)) {
 *         if (crossval_is(&worker, "load")) ...
 *         else crossval_send_error(&worker, "usage", "no answer to this request");
 *     }
 *
 * Each request but `quit`, which ends the loop, gets one answer.
 *
 * Errors: functions that read from a header return 0 if it does not hold what was asked for. Where the driver is gone
 * or no memory is left, so that there is nobody to tell or no way to, the program is ended with code 1. One thread at a
 * time may use a worker. Numbers are written in the locale "C", which is in force unless the program calls setlocale.
 *
 * Hosts: POSIX, little-endian.
 */
#ifndef CROSSVAL_PROTOCOL_H
#define CROSSVAL_PROTOCOL_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "payloads are little-endian, and this header copies them as they are"
#endif

/* The version spoken here. */
#define CROSSVAL_PROTOCOL_VERSION 2

/* Largest header and largest payload, bytes. */
#define CROSSVAL_MAX_HEADER ((size_t)16 << 20)
#define CROSSVAL_MAX_PAYLOAD ((size_t)64 << 20)

/* Pieces of a tap hold as many rows as fit this many bytes, at least one. Both engines must cut alike. */
#define CROSSVAL_TAP_FRAME_BYTES ((size_t)4 << 20)

/* Bytes that grow. `data` is followed by a NUL, which `len` does not count. */
typedef struct {
    char *data;
    size_t len;
    size_t room;
} crossval_bytes;

/* The pipes to the driver, and the last message that came. */
typedef struct {
    int in;
    int out;
    /* One JSON object, to be read with the functions below. */
    crossval_bytes header;
    /* Raw values; empty where a message has none. Aligned for any type. */
    crossval_bytes payload;
} crossval_worker;

/* Who the engine is. Lists end with NULL. */
typedef struct {
    /* Free text, both. */
    const char *engine;
    const char *version;
    /* Values of general.architecture that it runs. */
    const char *const *architectures;
    /* Taps that it offers: the values that it can send. "logits" alone is enough. */
    const char *const *taps;
    /* Names of the tensor types that it runs: "F32", "F16", ... */
    const char *const *dtypes;
    /* Whether it goes on with what the driver sends back, see crossval_send_tap. */
    int overwrite;
} crossval_hello;

/* The types of the weights behind a tap that is a matrix product. */
typedef struct {
    /* "q", "k", "v", "attn_proj", "ffn_gate", "ffn_up", "ffn_down" or "logits". */
    const char *tap;
    /* Names of types, ending with NULL. */
    const char *const *types;
} crossval_weights;

/* What a loaded model is. */
typedef struct {
    const char *architecture;
    /* general.name, or NULL. */
    const char *name;
    size_t n_layer;
    size_t n_embd;
    size_t n_ff;
    size_t n_head;
    size_t n_head_kv;
    size_t n_vocab;
    size_t n_ctx_train;
    /* Taps that the model has, whether the engine offers them or not; ends with NULL. */
    const char *const *taps;
    /* Of the taps that are matrix products, as far as the engine says: limits follow from the model's file. Ends with an
     * entry whose tap is NULL. */
    const crossval_weights *weight_types;
} crossval_facts;

/* --- Bytes -------------------------------------------------------------------------------------------------------- */

/* Ends the program: there is nobody left to answer to. */
static inline void crossval_give_up(const char *what) {
    fprintf(stderr, "crossval protocol: %s\n", what);
    exit(1);
}

/* Makes room for `more` bytes behind the first `len`, and the NUL. */
static inline void crossval_reserve(crossval_bytes *bytes, size_t more) {
    size_t need = bytes->len + more + 1;
    if (need > bytes->room) {
        size_t room = bytes->room * 2 > need ? bytes->room * 2 : need;
        char *data = (char *)realloc(bytes->data, room);
        if (data == NULL) {
            crossval_give_up("out of memory");
        }
        bytes->data = data;
        bytes->room = room;
    }
}

/* Appends bytes. */
static inline void crossval_put_bytes(crossval_bytes *to, const void *from, size_t len) {
    crossval_reserve(to, len);
    if (len > 0) {
        memcpy(to->data + to->len, from, len);
    }
    to->len += len;
    to->data[to->len] = '\0';
}

/* Appends text as it is. */
static inline void crossval_put(crossval_bytes *json, const char *text) {
    crossval_put_bytes(json, text, strlen(text));
}

/* Appends a JSON string, or null for NULL. The text is UTF-8. */
static inline void crossval_put_string(crossval_bytes *json, const char *text) {
    if (text == NULL) {
        crossval_put(json, "null");
        return;
    }
    crossval_put(json, "\"");
    for (; *text != '\0'; text++) {
        char escaped[8];
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') {
            snprintf(escaped, sizeof escaped, "\\%c", c);
        } else if (c < 0x20) {
            snprintf(escaped, sizeof escaped, "\\u%04x", c);
        } else {
            snprintf(escaped, sizeof escaped, "%c", c);
        }
        crossval_put(json, escaped);
    }
    crossval_put(json, "\"");
}

/* Appends a JSON array of strings; `list` ends with NULL. */
static inline void crossval_put_list(crossval_bytes *json, const char *const *list) {
    size_t i;
    crossval_put(json, "[");
    for (i = 0; list[i] != NULL; i++) {
        crossval_put(json, i > 0 ? "," : "");
        crossval_put_string(json, list[i]);
    }
    crossval_put(json, "]");
}

/* Appends a whole number. */
static inline void crossval_put_count(crossval_bytes *json, size_t count) {
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)count);
    crossval_put(json, text);
}

/* Appends a number, which must be finite: JSON has no other. */
static inline void crossval_put_number(crossval_bytes *json, double number) {
    char text[40];
    snprintf(text, sizeof text, "%.17g", number);
    crossval_put(json, text);
}

/* --- Frames ------------------------------------------------------------------------------------------------------- */

/* Reads `len` bytes; returns how many there were before the end of the pipe. */
static inline size_t crossval_read(int fd, void *to, size_t len) {
    size_t got = 0;
    while (got < len) {
        ssize_t n = read(fd, (char *)to + got, len - got);
        if (n == 0) {
            break;
        }
        if (n > 0) {
            got += (size_t)n;
        } else if (errno != EINTR) {
            crossval_give_up("cannot read requests");
        }
    }
    return got;
}

static inline void crossval_write(int fd, const void *from, size_t len) {
    size_t done = 0;
    while (done < len) {
        ssize_t n = write(fd, (const char *)from + done, len - done);
        if (n >= 0) {
            done += (size_t)n;
        } else if (errno != EINTR) {
            crossval_give_up("cannot write answers");
        }
    }
}

/* Keeps standard output to the protocol: whatever else prints there, a library's progress for one, goes to standard
 * error from now on, whose last lines are in the report should the engine fail. To be called before anything else. */
static inline void crossval_open(crossval_worker *worker) {
    memset(worker, 0, sizeof *worker);
    worker->in = dup(0);
    worker->out = dup(1);
    if (worker->in < 0 || worker->out < 0 || dup2(2, 1) < 0) {
        crossval_give_up("standard input, output and error must be open");
    }
}

/* Sends a message: a JSON object with a field "type", and `len` bytes of payload. */
static inline void crossval_send(crossval_worker *worker, const char *header, const void *payload, size_t len) {
    uint32_t lengths[2];
    size_t header_len = strlen(header);
    if (header_len > CROSSVAL_MAX_HEADER || len > CROSSVAL_MAX_PAYLOAD) {
        crossval_give_up("a message is over the cap");
    }
    lengths[0] = (uint32_t)header_len;
    lengths[1] = (uint32_t)len;
    crossval_write(worker->out, lengths, sizeof lengths);
    crossval_write(worker->out, header, header_len);
    crossval_write(worker->out, payload, len);
}

static inline int crossval_is(const crossval_worker *worker, const char *type);

/* Waits for the next request: its header and payload replace the last ones. Returns 0 if there is none: the driver
 * asked to quit, or closed the pipe, which is its way of ending an engine early. */
static inline int crossval_receive(crossval_worker *worker) {
    uint32_t lengths[2];
    crossval_bytes *parts[2];
    int i;
    parts[0] = &worker->header;
    parts[1] = &worker->payload;
    if (crossval_read(worker->in, lengths, sizeof lengths) < sizeof lengths) {
        return 0;
    }
    if (lengths[0] > CROSSVAL_MAX_HEADER || lengths[1] > CROSSVAL_MAX_PAYLOAD) {
        crossval_give_up("a request is over the cap");
    }
    for (i = 0; i < 2; i++) {
        parts[i]->len = 0;
        crossval_reserve(parts[i], lengths[i]);
        if (crossval_read(worker->in, parts[i]->data, lengths[i]) < lengths[i]) {
            return 0;
        }
        parts[i]->len = lengths[i];
        parts[i]->data[lengths[i]] = '\0';
    }
    return !crossval_is(worker, "quit");
}

/* --- Headers of requests ------------------------------------------------------------------------------------------ */

static inline const char *crossval_space(const char *json) {
    return json + strspn(json, " \t\r\n");
}

/* The end of the value that starts at `json`, which may lie within damaged text: then it is the end of the text. */
static inline const char *crossval_skip(const char *json) {
    int depth = 0, quoted = 0;
    for (; *json != '\0'; json++) {
        if (quoted) {
            if (*json == '\\' && json[1] != '\0') {
                json++;
            } else if (*json == '"') {
                quoted = 0;
            }
            continue;
        }
        if (depth == 0 && strchr(",]}", *json) != NULL) {
            return json;
        }
        quoted = *json == '"';
        depth += (*json == '[' || *json == '{') - (*json == ']' || *json == '}');
    }
    return json;
}

/* The value of a field of the header; NULL without one. */
static inline const char *crossval_find(const crossval_worker *worker, const char *key) {
    size_t len = strlen(key);
    const char *at = worker->header.data == NULL ? "" : worker->header.data;
    at = crossval_space(at);
    while (*at == '{' || *at == ',') {
        const char *name = crossval_space(at + 1), *value;
        if (*name != '"') {
            return NULL;
        }
        value = name + 1 + strcspn(name + 1, "\"");
        if (*value == '\0') {
            return NULL;
        }
        value = crossval_space(value + 1);
        if (*value != ':') {
            return NULL;
        }
        value = crossval_space(value + 1);
        if (strncmp(name + 1, key, len) == 0 && name[1 + len] == '"') {
            return value;
        }
        at = crossval_skip(value);
    }
    return NULL;
}

/* Four hexadecimal digits; -1 if they are none. */
static inline long crossval_hex(const char *digits) {
    long value = 0;
    int i;
    for (i = 0; i < 4; i++) {
        const char *all = "0123456789abcdef0123456789ABCDEF";
        const char *digit = digits[i] == '\0' ? NULL : strchr(all, digits[i]);
        if (digit == NULL) {
            return -1;
        }
        value = value * 16 + (digit - all) % 16;
    }
    return value;
}

/* Appends a character as UTF-8. */
static inline void crossval_put_char(crossval_bytes *text, unsigned long c) {
    unsigned char out[4];
    int n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4, i;
    for (i = n - 1; i > 0; i--, c >>= 6) {
        out[i] = (unsigned char)(0x80 | (c & 0x3F));
    }
    out[0] = (unsigned char)(n == 1 ? c : (0xF00u >> n & 0xF0) | c);
    crossval_put_bytes(text, out, (size_t)n);
}

/* Reads the JSON string at `json` into `text`; returns its end, or NULL if it is none. */
static inline const char *crossval_unquote(const char *json, crossval_bytes *text) {
    text->len = 0;
    crossval_put(text, "");
    if (*json++ != '"') {
        return NULL;
    }
    while (*json != '"') {
        const char *escapes = "\"\"\\\\//b\bf\fn\nr\rt\t", *escape;
        long unit;
        unsigned long c;
        if (*json == '\0') {
            return NULL;
        }
        if (*json != '\\') {
            crossval_put_bytes(text, json++, 1);
            continue;
        }
        json++;
        if (*json != 'u') {
            for (escape = escapes; *escape != '\0' && *escape != *json; escape += 2) {
            }
            if (*escape == '\0') {
                return NULL;
            }
            crossval_put_bytes(text, escape + 1, 1);
            json++;
            continue;
        }
        unit = crossval_hex(json + 1);
        if (unit < 0) {
            return NULL;
        }
        json += 5;
        c = (unsigned long)unit;
        if (unit >= 0xD800 && unit < 0xDC00 && json[0] == '\\' && json[1] == 'u') {
            long low = crossval_hex(json + 2);
            if (low >= 0xDC00 && low < 0xE000) {
                c = 0x10000 + ((c - 0xD800) << 10) + ((unsigned long)low - 0xDC00);
                json += 6;
            }
        }
        crossval_put_char(text, c);
    }
    return json + 1;
}

/* Reads a string of the header, such as `model` of `load`, into `text`, which starts out as zeros and is to be freed
 * with crossval_free, whatever this returns: whether there is one. */
static inline int crossval_string(const crossval_worker *worker, const char *key, crossval_bytes *text) {
    const char *value = crossval_find(worker, key);
    return value != NULL && crossval_unquote(value, text) != NULL;
}

static inline void crossval_free(crossval_bytes *bytes) {
    free(bytes->data);
    memset(bytes, 0, sizeof *bytes);
}

/* Reads a whole number of the header, such as `first_position` of `eval`. Returns whether there is one. */
static inline int crossval_count(const crossval_worker *worker, const char *key, size_t *count) {
    const char *value = crossval_find(worker, key);
    size_t number = 0;
    if (value == NULL || *value < '0' || *value > '9') {
        return 0;
    }
    for (; *value >= '0' && *value <= '9'; value++) {
        size_t digit = (size_t)(*value - '0');
        if (number > (SIZE_MAX - digit) / 10) {
            return 0;
        }
        number = number * 10 + digit;
    }
    *count = number;
    return *value != '.' && *value != 'e' && *value != 'E';
}

/* Whether a field of the header is true, such as `last_logits` of `eval`. */
static inline int crossval_flag(const crossval_worker *worker, const char *key) {
    const char *value = crossval_find(worker, key);
    return value != NULL && strncmp(value, "true", 4) == 0;
}

/* Whether a list of strings of the header holds `item`, such as "logits" in `taps` of `eval`. */
static inline int crossval_lists(const crossval_worker *worker, const char *key, const char *item) {
    const char *at = crossval_find(worker, key);
    crossval_bytes text = {NULL, 0, 0};
    int found = 0;
    if (at != NULL && *at == '[') {
        do {
            at = crossval_unquote(crossval_space(at + 1), &text);
            found = at != NULL && strcmp(text.data, item) == 0;
            at = at == NULL ? "" : crossval_space(at);
        } while (!found && *at == ',');
    }
    crossval_free(&text);
    return found;
}

/* Whether the request is of this type: "load", "configure", "eval", "generate", "usage", ... */
static inline int crossval_is(const crossval_worker *worker, const char *type) {
    crossval_bytes text = {NULL, 0, 0};
    int is = crossval_string(worker, "type", &text) && strcmp(text.data, type) == 0;
    crossval_free(&text);
    return is;
}

/* The payload as token IDs, which stay the worker's; NULL if it is no whole number of them. Of `eval` and `generate`
 * they are the batch and the prompt. */
static inline const uint32_t *crossval_tokens(const crossval_worker *worker, size_t *n) {
    *n = worker->payload.len / sizeof(uint32_t);
    return worker->payload.len % sizeof(uint32_t) == 0 ? (const uint32_t *)(const void *)worker->payload.data : NULL;
}

/* --- Answers ------------------------------------------------------------------------------------------------------ */

/* Sends a header that was put together, and frees it. */
static inline void crossval_finish(crossval_worker *worker, crossval_bytes *json, const void *payload, size_t len) {
    crossval_put(json, "}");
    crossval_send(worker, json->data, payload, len);
    crossval_free(json);
}

/* The first message of an engine. */
static inline void crossval_send_hello(crossval_worker *worker, const crossval_hello *hello) {
    crossval_bytes json = {NULL, 0, 0};
    crossval_put(&json, "{\"type\":\"hello\",\"protocol\":");
    crossval_put_count(&json, CROSSVAL_PROTOCOL_VERSION);
    crossval_put(&json, ",\"engine\":");
    crossval_put_string(&json, hello->engine);
    crossval_put(&json, ",\"version\":");
    crossval_put_string(&json, hello->version);
    crossval_put(&json, ",\"architectures\":");
    crossval_put_list(&json, hello->architectures);
    crossval_put(&json, ",\"taps\":");
    crossval_put_list(&json, hello->taps);
    crossval_put(&json, ",\"dtypes\":");
    crossval_put_list(&json, hello->dtypes);
    crossval_put(&json, hello->overwrite ? ",\"overwrite\":true" : ",\"overwrite\":false");
    crossval_put(&json, ",\"tokenizer\":false");
    crossval_finish(worker, &json, NULL, 0);
}

/* Refuses a request. `kind` is "bad_model", "usage" or "internal", `message` one sentence that names the thing. */
static inline void crossval_send_error(crossval_worker *worker, const char *kind, const char *message) {
    crossval_bytes json = {NULL, 0, 0};
    crossval_put(&json, "{\"type\":\"error\",\"kind\":");
    crossval_put_string(&json, kind);
    crossval_put(&json, ",\"message\":");
    crossval_put_string(&json, message);
    crossval_finish(worker, &json, NULL, 0);
}

/* Answers `load`: what the model is, and the milliseconds that loading took. */
static inline void crossval_send_loaded(crossval_worker *worker, const crossval_facts *facts, double load_ms) {
    crossval_bytes json = {NULL, 0, 0};
    const crossval_weights *weights;
    const char *names[7];
    size_t counts[7], i;
    names[0] = ",\"n_layer\":", counts[0] = facts->n_layer;
    names[1] = ",\"n_embd\":", counts[1] = facts->n_embd;
    names[2] = ",\"n_ff\":", counts[2] = facts->n_ff;
    names[3] = ",\"n_head\":", counts[3] = facts->n_head;
    names[4] = ",\"n_head_kv\":", counts[4] = facts->n_head_kv;
    names[5] = ",\"n_vocab\":", counts[5] = facts->n_vocab;
    names[6] = ",\"n_ctx_train\":", counts[6] = facts->n_ctx_train;
    crossval_put(&json, "{\"type\":\"loaded\",\"load_ms\":");
    crossval_put_number(&json, load_ms);
    crossval_put(&json, ",\"facts\":{\"architecture\":");
    crossval_put_string(&json, facts->architecture);
    crossval_put(&json, ",\"name\":");
    crossval_put_string(&json, facts->name);
    for (i = 0; i < 7; i++) {
        crossval_put(&json, names[i]);
        crossval_put_count(&json, counts[i]);
    }
    crossval_put(&json, ",\"taps\":");
    crossval_put_list(&json, facts->taps);
    crossval_put(&json, ",\"weight_types\":{");
    for (weights = facts->weight_types; weights->tap != NULL; weights++) {
        crossval_put(&json, weights == facts->weight_types ? "" : ",");
        crossval_put_string(&json, weights->tap);
        crossval_put(&json, ":");
        crossval_put_list(&json, weights->types);
    }
    crossval_put(&json, "}}");
    crossval_finish(worker, &json, NULL, 0);
}

/* Answers `configure`: every setting that the engine runs with, as key, value, key, value, ..., NULL. What differs from
 * what was asked for shows in the report. */
static inline void crossval_send_configured(crossval_worker *worker, const char *const *settings) {
    crossval_bytes json = {NULL, 0, 0};
    size_t i;
    crossval_put(&json, "{\"type\":\"configured\",\"settings\":{");
    for (i = 0; settings[i] != NULL; i += 2) {
        crossval_put(&json, i > 0 ? "," : "");
        crossval_put_string(&json, settings[i]);
        crossval_put(&json, ":");
        crossval_put_string(&json, settings[i + 1]);
    }
    crossval_put(&json, "}");
    crossval_finish(worker, &json, NULL, 0);
}

/* Sends the values of a tap, of all tokens of a batch, in pieces.
 *
 * `layer` counts from 0, and is -1 outside the layers; `first_position` is that of the first row; `values` are
 * `rows * width`, neither of them 0, of `value_bytes` bytes each: 4 (F32), for "k_cache" and "v_cache" 2 (F16). With
 * `overwrite`, which is what the request says, `values` holds afterwards what the engine must go on with, and the
 * messages that said so have replaced the request: read from it first what is needed later. */
static inline void crossval_send_tap(crossval_worker *worker, const char *tap, int layer, size_t first_position,
                                     size_t rows, size_t width, size_t value_bytes, void *values, int overwrite) {
    size_t row_bytes = width * value_bytes, sent;
    size_t most = row_bytes < CROSSVAL_TAP_FRAME_BYTES ? CROSSVAL_TAP_FRAME_BYTES / row_bytes : 1;
    for (sent = 0; sent < rows; sent += most) {
        crossval_bytes json = {NULL, 0, 0};
        char *piece = (char *)values + sent * row_bytes;
        size_t n = rows - sent < most ? rows - sent : most;
        crossval_put(&json, "{\"type\":\"tap\",\"tap\":");
        crossval_put_string(&json, tap);
        crossval_put(&json, ",\"layer\":");
        if (layer < 0) {
            crossval_put(&json, "null");
        } else {
            crossval_put_count(&json, (size_t)layer);
        }
        crossval_put(&json, ",\"first_position\":");
        crossval_put_count(&json, first_position + sent);
        crossval_put(&json, ",\"rows\":");
        crossval_put_count(&json, n);
        crossval_put(&json, ",\"width\":");
        crossval_put_count(&json, width);
        crossval_finish(worker, &json, piece, n * row_bytes);
        if (overwrite) {
            if (!crossval_receive(worker)) {
                exit(0);
            }
            if (crossval_is(worker, "overwrite") && worker->payload.len == n * row_bytes) {
                memcpy(piece, worker->payload.data, n * row_bytes);
            } else if (!crossval_is(worker, "keep")) {
                crossval_give_up("neither values to go on with nor the word to keep them");
            }
        }
    }
}

/* Answers `eval`, after its taps. `last_logits` are the last token's if the request asks for them, else NULL. */
static inline void crossval_send_evaluated(crossval_worker *worker, const float *last_logits, size_t n_vocab) {
    size_t len = last_logits == NULL ? 0 : n_vocab * sizeof *last_logits;
    crossval_send(worker, "{\"type\":\"evaluated\"}", last_logits, len);
}

/* Answers `generate`: `n` tokens, the milliseconds until the first was known, and those of each of the others. */
static inline void crossval_send_generated(crossval_worker *worker, const uint32_t *tokens, size_t n,
                                           double prefill_ms, const double *decode_ms) {
    crossval_bytes json = {NULL, 0, 0};
    size_t i;
    crossval_put(&json, "{\"type\":\"generated\",\"prefill_ms\":");
    crossval_put_number(&json, prefill_ms);
    crossval_put(&json, ",\"decode_ms\":[");
    for (i = 0; i + 1 < n; i++) {
        crossval_put(&json, i > 0 ? "," : "");
        crossval_put_number(&json, decode_ms[i]);
    }
    crossval_put(&json, "]");
    crossval_finish(worker, &json, tokens, n * sizeof *tokens);
}

/* Answers `usage`: what this process has used so far. */
static inline void crossval_send_usage(crossval_worker *worker) {
    crossval_bytes json = {NULL, 0, 0};
    struct rusage used;
    crossval_put(&json, "{\"type\":\"usage\"");
    if (getrusage(RUSAGE_SELF, &used) == 0) {
#ifdef __APPLE__
        size_t unit = 1;
#else
        size_t unit = 1024;
#endif
        crossval_put(&json, ",\"peak_rss_bytes\":");
        crossval_put_count(&json, (size_t)used.ru_maxrss * unit);
        crossval_put(&json, ",\"cpu_seconds\":");
        crossval_put_number(&json, (double)used.ru_utime.tv_sec + (double)used.ru_stime.tv_sec +
                                       1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec));
    }
    crossval_finish(worker, &json, NULL, 0);
}

#endif
