/* The firmware on QEMU's machine `virt`: a 16550 UART, the machine timer, the test device's reset.
 *
 * The loader may put a seed at SEED_ADDRESS (-device loader); it is 0 otherwise. */
#include "cim_firmware.h"
#include "ideal_array.h"

#define UART 0x10000000u
#define UART_DATA (*(volatile uint8_t *)(UART + 0u))
#define UART_FIFO (*(volatile uint8_t *)(UART + 2u))
#define UART_INTERRUPTS (*(volatile uint8_t *)(UART + 1u))
#define UART_LINE (*(volatile uint8_t *)(UART + 3u))
#define UART_STATUS (*(volatile uint8_t *)(UART + 5u))
#define RECEIVED 0x01u
#define SENDABLE 0x20u
#define FIFO_ON 0xC7u /* cleared, trigger level 14 */
#define FIFO_SIZE 16u
#define WHEN_RECEIVED 0x01u
#define DIVISOR_OPEN 0x80u
#define EIGHT_BITS 0x03u

/* The interrupt controller; the UART is its source 10, the processor its context 0. */
#define PLIC 0x0C000000u
#define PLIC_UART_PRIORITY (*(volatile uint32_t *)(PLIC + 4u * UART_SOURCE))
#define PLIC_ENABLE (*(volatile uint32_t *)(PLIC + 0x2000u))
#define PLIC_CLAIM (*(volatile uint32_t *)(PLIC + 0x200004u))
#define UART_SOURCE 10u

#define TEST_DEVICE (*(volatile uint32_t *)0x00100000u)
#define RESET 0x7777u

#define TIMER_LOW (*(volatile uint32_t *)0x0200BFF8u)
#define TIMER_HIGH (*(volatile uint32_t *)0x0200BFFCu)
#define ALARM_LOW (*(volatile uint32_t *)0x02004000u)
#define ALARM_HIGH (*(volatile uint32_t *)0x02004004u)
#define TICKS_PER_MS 10000u

#define SEED_ADDRESS ((const volatile uint32_t *)0x80F00000u)
#define STALLED_MS 2000u
#define IDLE_MS 10u

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

/* Sleeps until a byte arrives, and not for long: the lease wants to be watched. Interrupts are off;
 * a pending one wakes the processor all the same. A processor that looks at the UART without a pause
 * keeps QEMU from filling it. */
static void await_bytes(void) {
    uint64_t until = ticks() + IDLE_MS * TICKS_PER_MS;
    ALARM_HIGH = UINT32_MAX;
    ALARM_LOW = (uint32_t)until;
    ALARM_HIGH = (uint32_t)(until >> 32);
    __asm__ volatile("wfi");
    uint32_t source = PLIC_CLAIM;
    if (source)
        PLIC_CLAIM = source;
}

size_t hal_receive(uint8_t *data, size_t room) {
    size_t size = 0;
    if (!(UART_STATUS & RECEIVED))
        await_bytes();
    while (size < room && UART_STATUS & RECEIVED)
        data[size++] = UART_DATA;
    return size;
}

/* An empty FIFO takes as many bytes as it has places. */
static bool await_empty(void) {
    uint32_t since = hal_milliseconds();
    while (!(UART_STATUS & SENDABLE))
        if (hal_milliseconds() - since > STALLED_MS)
            return false;
    return true;
}

void hal_send(const uint8_t *data, size_t size) {
    static unsigned room;
    while (size--) {
        if (!room) {
            if (!await_empty())
                return;
            room = FIFO_SIZE;
        }
        room--;
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

int main(void) {
    UART_LINE = DIVISOR_OPEN; /* the fastest line, so that few bytes do not wait for more */
    UART_DATA = 1;
    UART_INTERRUPTS = 0;
    UART_LINE = EIGHT_BITS;
    UART_FIFO = FIFO_ON;
    UART_INTERRUPTS = WHEN_RECEIVED;
    PLIC_UART_PRIORITY = 1;
    PLIC_ENABLE = 1u << UART_SOURCE;
    model_start(&chip, SEED_ADDRESS[0] | (uint64_t)SEED_ADDRESS[1] << 32);
    cim_power_up();
    for (;;)
        cim_poll();
}
