#include "cim_frame.h"

#include "cim_bytes.h"
#include "cim_protocol.h"
#include "hal.h"

#define OVERHEAD (CIM_HEADER_FIXED_SIZE + CIM_CRC_SIZE)
#define FULL_BLOCK 0xFFu

/* Half a byte at a time: sixteen words of table instead of 256, at two look-ups a byte. */
static uint32_t crc_of(uint32_t crc, const uint8_t *data, size_t size) {
    static const uint32_t table[16] = {
        0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC, 0x76DC4190, 0x6B6B51F4,
        0x4DB26158, 0x5005713C, 0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C,
        0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C,
    };
    crc = ~crc;
    while (size--) {
        crc ^= *data++;
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

static uint32_t seed_of(unsigned opcode) { return opcode == CIM_OP_HELLO ? 0 : CIM_CRC_SEED; }

static enum cim_event finished(struct cim_decoder *d, struct cim_header *header,
                               const uint8_t **payload) {
    if (d->overflow || d->left || d->size < OVERHEAD)
        return CIM_CORRUPT;
    struct cim_reader r = {d->buffer, d->size, 0, false};
    uint8_t version = cim_u8(&r);
    header->flags = cim_u8(&r);
    header->opcode = cim_u8(&r);
    header->status = cim_u8(&r);
    header->session = cim_u32(&r);
    header->sequence = cim_u32(&r);
    header->length = cim_u32(&r);
    if (header->length != d->size - OVERHEAD)
        return CIM_CORRUPT;
    uint8_t *masked = d->buffer + CIM_HEADER_FIXED_SIZE;
    struct cim_reader end = {masked + header->length, CIM_CRC_SIZE, 0, false};
    if (crc_of(seed_of(header->opcode), d->buffer, d->size - CIM_CRC_SIZE) != cim_u32(&end))
        return CIM_CORRUPT;
    if (version != CIM_VERSION && header->opcode != CIM_OP_HELLO)
        return CIM_CORRUPT;
    for (uint32_t i = 0; i < header->length; i++)
        masked[i] ^= CIM_PAYLOAD_XOR;
    *payload = masked;
    return CIM_FRAME;
}

static void keep(struct cim_decoder *d, uint8_t byte) {
    if (d->size < d->room)
        d->buffer[d->size++] = byte;
    else
        d->overflow = true;
}

enum cim_event cim_decode(struct cim_decoder *d, uint8_t byte, struct cim_header *header,
                          const uint8_t **payload) {
    if (byte == CIM_DELIMITER) {
        enum cim_event event = d->started ? finished(d, header, payload) : CIM_NOTHING;
        d->size = 0;
        d->code = d->left = 0;
        d->overflow = d->started = false;
        return event;
    }
    d->started = true;
    if (d->left) {
        d->left--;
        keep(d, byte);
        return CIM_NOTHING;
    }
    /* The start of a block; the one before it stood for a zero unless it was full. */
    if (d->code && d->code != FULL_BLOCK)
        keep(d, 0);
    d->code = byte;
    d->left = byte - 1u;
    return CIM_NOTHING;
}

/* Stuffs on the way out, a block of at most 254 bytes at a time. */
struct stuffer {
    uint8_t block[FULL_BLOCK];
    unsigned size; /* bytes in the block, its length byte included */
};

static void flush(struct stuffer *s) {
    s->block[0] = (uint8_t)s->size;
    hal_send(s->block, s->size);
    s->size = 1;
}

static void stuff(struct stuffer *s, uint8_t byte) {
    if (s->size == FULL_BLOCK)
        flush(s);
    if (byte)
        s->block[s->size++] = byte;
    else
        flush(s);
}

void cim_encode(const struct cim_header *h, const uint8_t *payload) {
    uint8_t head[CIM_HEADER_FIXED_SIZE];
    struct cim_writer w = {head, sizeof head, 0, false};
    cim_put(&w, 1, CIM_VERSION);
    cim_put(&w, 1, h->flags);
    cim_put(&w, 1, h->opcode);
    cim_put(&w, 1, h->status);
    cim_put(&w, 4, h->session);
    cim_put(&w, 4, h->sequence);
    cim_put(&w, 4, h->length);

    struct stuffer s = {.size = 1};
    uint32_t crc = crc_of(seed_of(h->opcode), head, sizeof head);
    for (size_t i = 0; i < sizeof head; i++)
        stuff(&s, head[i]);
    for (uint32_t i = 0; i < h->length; i++) {
        uint8_t masked = payload[i] ^ CIM_PAYLOAD_XOR;
        crc = crc_of(crc, &masked, 1);
        stuff(&s, masked);
    }
    for (unsigned i = 0; i < CIM_CRC_SIZE; i++, crc >>= 8)
        stuff(&s, (uint8_t)crc);
    flush(&s);
    static const uint8_t delimiter = CIM_DELIMITER;
    hal_send(&delimiter, 1);
}
