/* Codes packed at their own width, in planes: whole low bytes first, then single bits. */
#ifndef CIM_PACK_H
#define CIM_PACK_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes that `count` codes of `bits` bits take. */
static inline uint64_t cim_packed_size(uint64_t count, unsigned bits) {
    return count * (bits / 8) + (uint64_t)(bits % 8) * ((count + 7) / 8);
}

/* Code number `at` of `count` codes of up to 8 bits. */
static inline int16_t cim_unpack(const uint8_t *data, uint32_t count, unsigned bits, bool is_signed,
                                 uint32_t at) {
    if (bits == 8)
        return is_signed ? (int8_t)data[at] : data[at];
    uint32_t plane = count / 8 + (count % 8 != 0);
    unsigned code = 0;
    for (unsigned i = 0; i < bits; i++)
        code |= (data[i * plane + at / 8] >> (at % 8) & 1u) << i;
    if (is_signed && code >> (bits - 1))
        return (int16_t)((int)code - (1 << bits));
    return (int16_t)code;
}

/* Word number `at` of `count` words of up to 32 bits. */
static inline uint32_t cim_unpack_word(const uint8_t *data, uint32_t count, unsigned bits,
                                       uint32_t at) {
    uint32_t word = 0, plane = count / 8 + (count % 8 != 0);
    for (unsigned i = 0; i < bits / 8; i++)
        word |= (uint32_t)data[i * count + at] << (8 * i);
    data += bits / 8 * count;
    for (unsigned i = 0; i < bits % 8; i++)
        word |= (uint32_t)(data[i * plane + at / 8] >> (at % 8) & 1u) << (bits / 8 * 8 + i);
    return word;
}

/* Writes code number `at` of `count`; bit planes must be zero before. */
static inline void cim_pack(uint8_t *data, uint32_t count, unsigned bits, uint32_t at, int32_t code) {
    unsigned whole = bits / 8;
    for (unsigned i = 0; i < whole; i++)
        data[i * count + at] = (uint8_t)((uint32_t)code >> (8 * i));
    uint32_t plane = count / 8 + (count % 8 != 0);
    uint8_t *planes = data + whole * count;
    for (unsigned i = 0; i < bits % 8; i++)
        planes[i * plane + at / 8] |=
            (uint8_t)(((uint32_t)code >> (8 * whole + i) & 1u) << (at % 8));
}

#endif
