/* The firmware on QEMU's machine `virt`: a 16550 UART, the machine timer, the test device's reset.
 *
 * The loader may put a seed at SEED_ADDRESS (-device loader); it is 0 otherwise. */
#include "cim_firmware.h"
#include "ideal_array.h"

#define UART 0x10000000u
#define UART_DATA (*(volatile uint8_t *)(UART + 0u))
#define UART_FIFO (*(volatile uint8_t *)(UART + 2u))
#define UART_STATUS (*(volatile uint8_t *)(UART + 5u))
#define RECEIVED 0x01u
#define SENDABLE 0x20u
#define FIFO_ON 0xC7u

#define TEST_DEVICE (*(volatile uint32_t *)0x00100000u)
#define RESET 0x7777u

#define TIMER_LOW (*(volatile uint32_t *)0x0200BFF8u)
#define TIMER_HIGH (*(volatile uint32_t *)0x0200BFFCu)
#define TICKS_PER_MS 10000u

#define SEED_ADDRESS ((const volatile uint32_t *)0x80F00000u)
#define STALLED_MS 2000u
#define IDLE_TURNS 3000u

static struct model_chip chip __attribute__((section(".model")));

static uint64_t ticks(void) {
    uint32_t high, low;
    do {
        high = TIMER_HIGH;
        low = TIMER_LOW;
    } while (high != TIMER_HIGH);
    return (uint64_t)high << 32 | low;
}

uint32_t hal_milliseconds(void) { return (uint32_t)(ticks() / TICKS_PER_MS); }

size_t hal_receive(uint8_t *data, size_t room) {
    size_t size = 0;
    while (size < room && UART_STATUS & RECEIVED)
        data[size++] = UART_DATA;
    /* Looking at the UART without a pause keeps QEMU from filling it. */
    if (!size)
        for (volatile unsigned i = 0; i < IDLE_TURNS; i++)
            ;
    return size;
}

void hal_send(const uint8_t *data, size_t size) {
    while (size--) {
        if (!(UART_STATUS & SENDABLE)) {
            uint32_t since = hal_milliseconds();
            while (!(UART_STATUS & SENDABLE))
                if (hal_milliseconds() - since > STALLED_MS)
                    return;
        }
        UART_DATA = *data++;
    }
}

/* The timer goes on through a restart; with the count of boots it never gives a number twice. */
uint32_t hal_boot_id(void) { return ((uint32_t)ticks() << 8) + model_chip->boots; }

_Noreturn void hal_reboot(void) {
    /* What was sent last must have left the UART before it is reset. */
    uint32_t since = hal_milliseconds();
    while (hal_milliseconds() - since < 20)
        ;
    TEST_DEVICE = RESET;
    for (;;)
        ;
}

void model_before_cell(void) {}

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

int main(void) {
    UART_FIFO = FIFO_ON;
    model_start(&chip, SEED_ADDRESS[0] | (uint64_t)SEED_ADDRESS[1] << 32);
    cim_power_up();
    for (;;)
        cim_poll();
}
