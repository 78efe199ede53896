/* What a compiler calls without being asked, for a firmware without a C library. Leave this file out
 * where there is one. */
#include <stddef.h>
#include <stdint.h>

void *memset(void *to, int value, size_t size);
void *memcpy(void *restrict to, const void *restrict from, size_t size);

void *memset(void *to, int value, size_t size) {
    uint8_t *at = to;
    while (size--)
        *at++ = (uint8_t)value;
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t size) {
    uint8_t *at = to;
    const uint8_t *source = from;
    while (size--)
        *at++ = *source++;
    return to;
}
