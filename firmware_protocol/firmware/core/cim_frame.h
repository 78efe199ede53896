/* Frames on a byte stream: COBS(header, payload XOR 0x55, CRC-32), then a zero byte. */
#ifndef CIM_FRAME_H
#define CIM_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cim_header {
    uint8_t flags, opcode, status;
    uint32_t session, sequence, length;
};

/* Decodes byte by byte, in place; resynchronises at the next delimiter after any garbage. */
struct cim_decoder {
    uint8_t *buffer; /* room for header, payload and CRC */
    size_t room;
    size_t size;   /* decoded so far */
    unsigned code; /* block length of the block under way, 0 before the first */
    unsigned left; /* bytes of it still to come */
    bool overflow;
    bool started;
};

enum cim_event { CIM_NOTHING, CIM_FRAME, CIM_CORRUPT };

/* Takes one byte. On CIM_FRAME `header` is filled and the payload, unmasked, lies at *payload. */
enum cim_event cim_decode(struct cim_decoder *d, uint8_t byte, struct cim_header *header,
                          const uint8_t **payload);

/* Sends one frame through hal_send. */
void cim_encode(const struct cim_header *header, const uint8_t *payload);

#endif
