/* The ideal device of whole steps (arithmetic in spec.yaml), one integer a cell.
 *
 * It answers as the emulator's device `ideal-steps` does, bit for bit. */
#include "ideal_array.h"

#include "cim_protocol.h"

#define CELLS (BOARD_ROWS * BOARD_COLUMNS)
#define READ_TOP ((1u << BOARD_ADC_BITS) - 1u)
#define LINES (BOARD_ROWS > BOARD_COLUMNS ? BOARD_ROWS : BOARD_COLUMNS)

/* 128 products of 8-bit codes and differences of 16-bit conductances fit 32 bits. */
#if BOARD_ROWS <= 128 && BOARD_COLUMNS <= 128
typedef int32_t model_sum;
#else
typedef int64_t model_sum;
#endif

struct model_chip *model_chip;
static bool supplies;

/* ---- making a chip --------------------------------------------------------------------------- */

static uint64_t splitmix(uint64_t value) {
    uint64_t z = value + CIM_GOLDEN_GAMMA;
    z = (z ^ z >> 30) * CIM_MIX_1;
    z = (z ^ z >> 27) * CIM_MIX_2;
    return z ^ z >> 31;
}

static uint64_t key_of(uint64_t seed, unsigned tile, unsigned stream) {
    return splitmix(splitmix(splitmix(seed) ^ tile) ^ (uint64_t)stream << 32);
}

/* low + u * span, rounded, for the 53-bit fraction u that the emulator draws. */
static uint16_t initial(uint64_t key, unsigned cell) {
    const uint32_t span = BOARD_INITIAL_HIGH - BOARD_INITIAL_LOW;
    uint64_t fraction = splitmix(key + cell * CIM_GOLDEN_GAMMA) >> 11;
    uint64_t low = (fraction & 0xFFFFFFFFu) * span;
    uint64_t high = (fraction >> 32) * span + (low >> 32);
    return (uint16_t)(BOARD_INITIAL_LOW + ((high + (1u << 20)) >> 21));
}

static uint64_t identity_of(uint64_t seed) {
    return splitmix(CIM_SPEC_HASH ^ seed ^ sizeof(struct model_chip));
}

bool model_holds(const struct model_chip *chip, uint64_t seed) {
    return chip->identity == identity_of(seed);
}

static void make(struct model_chip *chip, uint64_t seed) {
    uint8_t *bytes = (uint8_t *)chip;
    for (size_t i = 0; i < sizeof *chip; i++)
        bytes[i] = 0;
    chip->seed = seed;
    for (unsigned tile = 0; tile < BOARD_TILES; tile++) {
        uint64_t key = key_of(seed, tile, CIM_STREAM_INITIAL);
        for (unsigned cell = 0; cell < CELLS; cell++)
            chip->conductances[tile][cell] = initial(key, cell);
    }
    chip->identity = identity_of(seed);
}

void model_start(struct model_chip *chip, uint64_t seed) {
    if (!model_holds(chip, seed))
        make(chip, seed);
    chip->boots++;
    model_chip = chip;
}

/* ---- hal: words, counters, supplies ------------------------------------------------------------ */

int16_t hal_temperature(void) { return 2500; }
uint64_t hal_board_id(void) { return splitmix(model_chip->seed); }
uint32_t hal_nv_read(unsigned word) { return model_chip->nv[word]; }
void hal_nv_write(unsigned word, uint32_t value) { model_chip->nv[word] = value; }
struct hal_counters *hal_counters(void) { return &model_chip->counters; }
void hal_supplies(bool on) { supplies = on; }
bool hal_supplies_on(void) { return supplies; }

/* ---- hal: cells -------------------------------------------------------------------------------- */

uint32_t hal_cell_pulses(unsigned tile, unsigned cell) { return model_chip->pulses[tile][cell]; }

static void move(unsigned tile, unsigned cell, int steps) {
    int32_t g = model_chip->conductances[tile][cell] + steps * (int32_t)CIM_IDEAL_STEP;
    g = g < (int32_t)BOARD_TARGET_LOW ? (int32_t)BOARD_TARGET_LOW : g;
    g = g > (int32_t)BOARD_TARGET_HIGH ? (int32_t)BOARD_TARGET_HIGH : g;
    model_chip->conductances[tile][cell] = (uint16_t)g;
    model_chip->pulses[tile][cell] += (uint32_t)(steps < 0 ? -steps : steps);
}

uint16_t hal_read(const struct hal_slot *slot, unsigned tile, unsigned cell) {
    (void)slot;
    uint32_t g = model_chip->conductances[tile][cell];
    return (uint16_t)((2 * (uint64_t)g * READ_TOP + 65535u) / (2 * 65535u));
}

void hal_program(const struct hal_slot *slot, unsigned tile, unsigned cell, uint16_t target,
                 uint16_t tolerance, unsigned cycles, struct hal_programmed *result) {
    (void)slot;
    (void)cycles; /* the first one hits */
    model_before_cell();
    int32_t distance = (int32_t)target - model_chip->conductances[tile][cell];
    uint32_t size = (uint32_t)(distance < 0 ? -distance : distance);
    uint32_t pulses = size > tolerance ? (size + CIM_IDEAL_STEP / 2) / CIM_IDEAL_STEP : 0;
    move(tile, cell, distance < 0 ? -(int)pulses : (int)pulses);
    result->set_pulses = distance > 0 ? pulses : 0;
    result->reset_pulses = distance < 0 ? pulses : 0;
    result->reads = 1 + pulses;
    result->reading = model_chip->conductances[tile][cell];
    int32_t rest = (int32_t)target - result->reading;
    result->converged = (rest < 0 ? -rest : rest) <= tolerance;
}

uint32_t hal_worst_case_pulses(unsigned cycles) {
    (void)cycles;
    return (BOARD_TARGET_HIGH - BOARD_TARGET_LOW + CIM_IDEAL_STEP - 1) / CIM_IDEAL_STEP;
}

void hal_pulse(unsigned tile, unsigned cell, int count, unsigned amplitude_mV, uint32_t width_ns) {
    (void)amplitude_mV;
    (void)width_ns;
    model_before_cell();
    move(tile, cell, count);
}

uint32_t hal_program_width_ns(void) { return BOARD_PROGRAM_WIDTH_NS; }

void hal_load(unsigned tile, unsigned cell, uint16_t conductance) {
    model_before_cell();
    model_chip->conductances[tile][cell] = conductance;
}

/* ---- hal: products ----------------------------------------------------------------------------- */

/* round_half_even(sum * multiplier / 2^shift), saturated; adds 1 to *saturated where it was. */
static int32_t convert(int64_t sum, const struct hal_slot *slot, unsigned *saturated) {
    const int32_t low = -(1 << (BOARD_ADC_BITS - 1)), high = (1 << (BOARD_ADC_BITS - 1)) - 1;
    int64_t scaled = sum * slot->multiplier;
    int64_t code = scaled >> slot->shift;
    uint64_t rest = (uint64_t)scaled & ((1ull << slot->shift) - 1);
    uint64_t half = 1ull << (slot->shift - 1);
    code += rest > half || (rest == half && code & 1);
    if (code >= low && code <= high)
        return (int32_t)code;
    ++*saturated;
    return code < low ? low : high;
}

static void add_row(const struct hal_product *p, const uint16_t *row, model_sum code,
                    model_sum *totals) {
    if (p->differential)
        for (unsigned j = 0; j < p->columns / 2; j++)
            totals[j] += code * ((int32_t)row[2 * j] - row[2 * j + 1]);
    else
        for (unsigned j = 0; j < p->columns; j++)
            totals[j] += code * row[j];
}

static model_sum across_row(const struct hal_product *p, const uint16_t *row,
                            const int16_t *inputs) {
    model_sum total = 0;
    if (p->differential)
        for (unsigned j = 0; j < p->columns / 2; j++)
            total += inputs[j] * (model_sum)((int32_t)row[2 * j] - row[2 * j + 1]);
    else
        for (unsigned j = 0; j < p->columns; j++)
            total += inputs[j] * (model_sum)row[j];
    return total;
}

unsigned hal_multiply(const struct hal_product *p, const int16_t *inputs, int32_t *sums) {
    static model_sum totals[LINES];
    const uint16_t *first = model_chip->conductances[p->tile] + p->row * BOARD_COLUMNS + p->column;
    unsigned outputs = p->transposed ? p->rows : p->differential ? p->columns / 2 : p->columns;
    unsigned saturated = 0;
    for (unsigned j = 0; j < outputs; j++)
        totals[j] = 0;
    for (unsigned i = 0; i < p->rows; i++) {
        const uint16_t *row = first + i * BOARD_COLUMNS;
        if (p->transposed)
            totals[i] = across_row(p, row, inputs);
        else if (inputs[i])
            add_row(p, row, inputs[i], totals);
    }
    for (unsigned j = 0; j < outputs; j++)
        sums[j] += convert(totals[j], p->slot, &saturated);
    return saturated;
}
