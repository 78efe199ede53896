/* What a board team fills in: copy this file, then fill in what is marked YOURS.
 *
 * It compiles and links as it is, and answers HELLO with a board whose supplies never come on. The
 * comments in hal.h say what each function owes; model/ideal_array.c and the ports beside it are
 * examples. `cimctl conformance` tells whether the result does what the specification says. */
#include "cim_firmware.h"

/* ---- bytes: your UART or USB endpoint ---------------------------------------------------------- */

size_t hal_receive(uint8_t *data, size_t room) {
    (void)data;
    (void)room;
    return 0; /* YOURS: what the receive buffer holds. Fill that buffer from an interrupt or by DMA: a
               * command may run for long while the host already sends the next one. */
}

void hal_send(const uint8_t *data, size_t size) {
    (void)data;
    (void)size; /* YOURS: send, and give up after a second or two when nobody takes it. */
}

/* ---- board ------------------------------------------------------------------------------------- */

uint32_t hal_milliseconds(void) { return 0; /* YOURS: a timer; the lease stands still without one */ }
uint64_t hal_board_id(void) { return 0; /* YOURS: the chip's serial number */ }
int16_t hal_temperature(void) { return INT16_MIN; /* YOURS: a sensor, in 0.01 degrees Celsius */ }
uint32_t hal_boot_id(void) { return 1; /* YOURS: random, or counted in non-volatile memory */ }

_Noreturn void hal_reboot(void) {
    for (;;)
        ; /* YOURS: reset, with the analog supplies at ground */
}

/* ---- non-volatile words and counters ------------------------------------------------------------ */

static uint32_t words[HAL_NV_WORDS]; /* YOURS: in FRAM, MRAM or battery-backed RAM */
uint32_t hal_nv_read(unsigned word) { return words[word]; }
void hal_nv_write(unsigned word, uint32_t value) { words[word] = value; }

struct hal_counters *hal_counters(void) {
    static struct hal_counters counters; /* YOURS: in RAM that a restart leaves alone */
    return &counters;
}

/* ---- analog supplies ----------------------------------------------------------------------------- */

void hal_supplies(bool on) { (void)on; /* YOURS: switch them; off must work from any state */ }
bool hal_supplies_on(void) { return false; /* YOURS: measure them, do not remember them */ }

/* ---- cells --------------------------------------------------------------------------------------- */

uint32_t hal_cell_pulses(unsigned tile, unsigned cell) {
    (void)tile;
    (void)cell;
    return 0; /* YOURS: pulses of its life, from non-volatile memory */
}

uint16_t hal_read(const struct hal_slot *slot, unsigned tile, unsigned cell) {
    (void)slot;
    (void)tile;
    (void)cell;
    return 0; /* YOURS: one conversion at the slot's read voltage and word line */
}

void hal_program(const struct hal_slot *slot, unsigned tile, unsigned cell, uint16_t target,
                 uint16_t tolerance, unsigned cycles, struct hal_programmed *result) {
    (void)slot;
    (void)tile;
    (void)cell;
    (void)target;
    (void)tolerance;
    (void)cycles;
    /* YOURS: write-verify: RESET to the lowest level, SET ramp, RESET ramp, `cycles` times at most;
     * add each pulse to the cell's count before it is given. */
    *result = (struct hal_programmed){.converged = false};
}

uint32_t hal_worst_case_pulses(unsigned cycles) {
    return cycles; /* YOURS: what hal_program gives at most; the lifetime budget is checked with it */
}

void hal_pulse(unsigned tile, unsigned cell, int count, unsigned amplitude_mV, uint32_t width_ns) {
    (void)tile;
    (void)cell;
    (void)count;
    (void)amplitude_mV;
    (void)width_ns; /* YOURS: count the pulses, then give them */
}

uint32_t hal_program_width_ns(void) { return BOARD_PROGRAM_WIDTH_NS; }

void hal_load(unsigned tile, unsigned cell, uint16_t conductance) {
    (void)tile;
    (void)cell;
    (void)conductance; /* Silicon cannot: leave LOAD out of the profile's capabilities. */
}

/* ---- products ------------------------------------------------------------------------------------ */

unsigned hal_multiply(const struct hal_product *product, const int16_t *inputs, int32_t *sums) {
    (void)product;
    (void)inputs;
    (void)sums;
    return 0; /* YOURS: inputs to the row DACs, convert each output, add its code to sums[i]; count the
               * conversions that ended at the end of the ADC's range */
}

/* ---- start --------------------------------------------------------------------------------------- */

int main(void) {
    cim_power_up();
    for (;;)
        cim_poll();
}
