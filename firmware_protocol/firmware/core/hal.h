/* The hardware-abstraction layer: all that the firmware asks of a board.
 *
 * A board team fills in hal_template.c; the array model and the two ports beside it are examples.
 * Nothing here blocks for longer than it says, and nothing allocates. */
#ifndef CIM_HAL_H
#define CIM_HAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- bytes ------------------------------------------------------------------------------- */

/* What has arrived, at most `room` bytes, without waiting; 0 when nothing has. */
size_t hal_receive(uint8_t *data, size_t room);

/* Sends all of it. Must give up after a bounded time when the host takes nothing: a firmware that
 * waits for ever hangs when the cable is pulled. The frame is then lost, and so must be what has
 * arrived and was not handed out: each request of a host that has gone would renew its lease. */
void hal_send(const uint8_t *data, size_t size);

/* ---- board ------------------------------------------------------------------------------- */

/* Milliseconds since some moment, wrapping around; the lease runs on it. */
uint32_t hal_milliseconds(void);

/* Serial number of the chip. */
uint64_t hal_board_id(void);

/* Temperature of the chip in 0.01 degrees Celsius; INT16_MIN where it is not known. */
int16_t hal_temperature(void);

/* Another number at each power-up, as good as random. */
uint32_t hal_boot_id(void);

/* Restarts as after a power loss; does not return. */
_Noreturn void hal_reboot(void);

/* ---- non-volatile words ------------------------------------------------------------------ */

/* Words that survive a power loss, each written whole or not at all; zero on a new chip.
 * Fast ones (FRAM, MRAM, battery-backed) are wanted: programming writes one word a cell. */
#define HAL_NV_WORDS 13u
uint32_t hal_nv_read(unsigned word);
void hal_nv_write(unsigned word, uint32_t value);

/* Counters of the chip's life. They may be kept in RAM that a restart leaves alone and saved now and
 * then: they are for bookkeeping; what exactly-once needs is in the words above. */
struct hal_counters {
    uint64_t vectors, steps, tile_operations, conversions, saturations;
    uint64_t reads, verify_reads, writes, set_pulses, reset_pulses, pulse_width_ns;
};
struct hal_counters *hal_counters(void);

/* ---- analog supplies --------------------------------------------------------------------- */

struct hal_slot {
    uint16_t read_voltage_mV; /* voltage of an input pulse */
    uint16_t word_line;       /* DAC code of the word lines */
    uint16_t multiplier;      /* gain of the ADC: multiplier / 2^shift codes a unit of the sum */
    uint8_t shift;
    bool filled;
};

/* On before the first analog operation after CONFIGURE, to ground for SAFE, a lost lease, a restart. */
void hal_supplies(bool on);

/* The supplies as measured, not as asked for. */
bool hal_supplies_on(void);

/* ---- cells ------------------------------------------------------------------------------- */

/* A cell is its tile and row * columns + column. Conductances are 16-bit, 65535 the full scale. */

/* Pulses that the cell got in its life; it must survive a power loss. */
uint32_t hal_cell_pulses(unsigned tile, unsigned cell);

/* One conversion of a single cell: 0 to 2^bits - 1 over the full scale. */
uint16_t hal_read(const struct hal_slot *slot, unsigned tile, unsigned cell);

struct hal_programmed {
    uint32_t set_pulses, reset_pulses; /* spent on the cell */
    uint32_t reads;                    /* verifying readings */
    bool converged;                    /* within the tolerance at the end */
    uint16_t reading;                  /* conductance read afterwards */
};

/* Write-verifies one cell. Limits have been checked. */
void hal_program(const struct hal_slot *slot, unsigned tile, unsigned cell, uint16_t target,
                 uint16_t tolerance, unsigned cycles, struct hal_programmed *result);

/* The most pulses that hal_program gives to one cell in so many cycles. */
uint32_t hal_worst_case_pulses(unsigned cycles);

/* `count` SET pulses, or RESET pulses where negative. Limits have been checked. */
void hal_pulse(unsigned tile, unsigned cell, int count, unsigned amplitude_mV, uint32_t width_ns);

/* Width of a programming pulse, for the counters. */
uint32_t hal_program_width_ns(void);

/* Sets a conductance as it is. Only models can (capability LOAD); silicon leaves it empty. */
void hal_load(unsigned tile, unsigned cell, uint16_t conductance);

/* ---- products ---------------------------------------------------------------------------- */

struct hal_product {
    const struct hal_slot *slot;
    unsigned tile, row, rows, column, columns;
    bool transposed;   /* inputs at the columns, outputs at the rows */
    bool differential; /* columns are pairs: even minus odd */
};

/* One vector through one region: `inputs` holds a code a row, or a column (pair) when transposed;
 * `sums` gets the signed ADC code of each output added. Returns how many conversions saturated. */
unsigned hal_multiply(const struct hal_product *product, const int16_t *inputs, int32_t *sums);

#endif
