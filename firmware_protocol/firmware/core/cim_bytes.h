/* Reading and writing little-endian payloads, with a length check at every step. */
#ifndef CIM_BYTES_H
#define CIM_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cim_reader {
    const uint8_t *data;
    size_t size, at;
    bool short_of; /* a read went past the end: its value was 0 */
};

static inline const uint8_t *cim_take(struct cim_reader *r, size_t size) {
    if (r->short_of || size > r->size - r->at) {
        r->short_of = true;
        return NULL;
    }
    const uint8_t *piece = r->data + r->at;
    r->at += size;
    return piece;
}

static inline uint64_t cim_unsigned(struct cim_reader *r, size_t size) {
    const uint8_t *piece = cim_take(r, size);
    uint64_t value = 0;
    if (piece)
        while (size--)
            value = value << 8 | piece[size];
    return value;
}

static inline uint8_t cim_u8(struct cim_reader *r) { return (uint8_t)cim_unsigned(r, 1); }
static inline uint16_t cim_u16(struct cim_reader *r) { return (uint16_t)cim_unsigned(r, 2); }
static inline uint32_t cim_u32(struct cim_reader *r) { return (uint32_t)cim_unsigned(r, 4); }
static inline uint64_t cim_u64(struct cim_reader *r) { return cim_unsigned(r, 8); }

static inline size_t cim_left(const struct cim_reader *r) { return r->size - r->at; }

/* Everything was read, and nothing too much. */
static inline bool cim_done(const struct cim_reader *r) { return !r->short_of && r->at == r->size; }

static inline uint16_t cim_u16_at(const uint8_t *data, size_t index) {
    return (uint16_t)(data[2 * index] | data[2 * index + 1] << 8);
}

/* An answer under construction; what does not fit is not written, and said. */
struct cim_writer {
    uint8_t *data;
    size_t room, at;
    bool full;
};

static inline uint8_t *cim_place(struct cim_writer *w, size_t size) {
    if (w->full || size > w->room - w->at) {
        w->full = true;
        return NULL;
    }
    uint8_t *piece = w->data + w->at;
    w->at += size;
    return piece;
}

static inline void cim_put(struct cim_writer *w, size_t size, uint64_t value) {
    uint8_t *piece = cim_place(w, size);
    if (piece)
        for (size_t i = 0; i < size; i++, value >>= 8)
            piece[i] = (uint8_t)value;
}

static inline void cim_put_bytes(struct cim_writer *w, const uint8_t *data, size_t size) {
    uint8_t *piece = cim_place(w, size);
    if (piece)
        for (size_t i = 0; i < size; i++)
            piece[i] = data[i];
}

/* A length byte and the text. */
static inline void cim_put_text(struct cim_writer *w, const char *text) {
    size_t size = 0;
    while (text[size] && size < 255)
        size++;
    cim_put(w, 1, size);
    cim_put_bytes(w, (const uint8_t *)text, size);
}

#endif
