/* What each command does: everything is checked before anything changes. */
#include "cim_firmware.h"

#define CELLS (BOARD_ROWS * BOARD_COLUMNS)
#define READ_TOP ((1u << BOARD_ADC_BITS) - 1u)

/* ---- checks -------------------------------------------------------------------------------- */

struct cim_refusal cim_need(unsigned capability, unsigned detail) {
    if (BOARD_CAPABILITIES & capability)
        return CIM_OK;
    return cim_refused(CIM_STATUS_UNSUPPORTED, detail, 0, 0);
}

struct cim_refusal cim_unpowered(unsigned slot) {
    return CIM_UNSAFE(cim_state.lapsed ? CIM_DETAIL_LEASE : CIM_DETAIL_SLOT_EMPTY, slot, 0);
}

struct cim_refusal cim_check_slot(unsigned slot) {
    if (slot >= BOARD_SLOTS)
        return CIM_BAD(CIM_DETAIL_SLOT, slot, BOARD_SLOTS);
    return cim_state.slots[slot].filled ? CIM_OK : cim_unpowered(slot);
}

struct cim_refusal cim_check_region(const struct cim_region *r, uint32_t number) {
    if (r->tile >= BOARD_TILES)
        return CIM_BAD(CIM_DETAIL_TILE, number, BOARD_TILES);
    if (!r->rows || !r->columns || r->row + r->rows > BOARD_ROWS ||
        r->column + r->columns > BOARD_COLUMNS)
        return CIM_BAD(CIM_DETAIL_REGION, number, 0);
    return CIM_OK;
}

void cim_read_region(struct cim_reader *in, struct cim_region *r) {
    r->tile = cim_u16(in);
    r->row = cim_u16(in);
    r->rows = cim_u16(in);
    r->column = cim_u16(in);
    r->columns = cim_u16(in);
}

#define RETURN_UNLESS_DONE(in)                                                                     \
    do {                                                                                           \
        if (!cim_done(in))                                                                         \
            return CIM_BAD(CIM_DETAIL_LENGTH, 0, 0);                                               \
    } while (0)

/* ---- the cells that a mutating command names ------------------------------------------------- */

struct cells {
    struct cim_region region;
    const uint8_t *indices; /* count of them, 16 bits each; none: all cells of the region */
    const uint8_t *values;  /* 16 bits each */
    uint32_t named, count;
};

/* The list of indices and the values behind it, to the end of the payload. */
static bool read_cells(struct cim_reader *in, struct cells *c, bool with_indices) {
    c->named = with_indices ? cim_u32(in) : 0;
    if (c->named > cim_left(in) / 2)
        return false;
    c->indices = cim_take(in, (size_t)c->named * 2);
    size_t rest = cim_left(in);
    c->values = cim_take(in, rest);
    c->count = (uint32_t)(rest / 2);
    return !in->short_of && rest % 2 == 0;
}

/* The cell of the i-th value. */
static unsigned cell_of(const struct cells *c, uint32_t i) {
    unsigned within = c->named ? cim_u16_at(c->indices, i) : i;
    unsigned row = c->region.row + within / c->region.columns;
    return row * BOARD_COLUMNS + c->region.column + within % c->region.columns;
}

static struct cim_refusal check_cells(const struct cells *c) {
    static uint8_t seen[(CELLS + 7) / 8];
    CIM_RETURN_IF_REFUSED(cim_check_region(&c->region, 0));
    uint32_t size = (uint32_t)c->region.rows * c->region.columns;
    uint32_t wanted = c->named ? c->named : size;
    if (c->count != wanted || !c->count)
        return CIM_BAD(CIM_DETAIL_COUNT, c->count, wanted);
    for (uint32_t i = 0; i < c->named; i++)
        if (cim_u16_at(c->indices, i) >= size)
            return CIM_BAD(CIM_DETAIL_INDEX, i, 0);
    for (unsigned i = 0; i < sizeof seen; i++)
        seen[i] = 0;
    for (uint32_t i = 0; i < c->named; i++) {
        unsigned within = cim_u16_at(c->indices, i);
        if (seen[within / 8] >> (within % 8) & 1)
            return CIM_BAD(CIM_DETAIL_INDEX, 0, 0);
        seen[within / 8] |= (uint8_t)(1u << (within % 8));
    }
    return CIM_OK;
}

static struct cim_refusal check_targets(const struct cells *c) {
    for (uint32_t i = 0; i < c->count; i++) {
        uint16_t target = cim_u16_at(c->values, i);
        if (target < BOARD_TARGET_LOW || target > BOARD_TARGET_HIGH)
            return CIM_BAD(CIM_DETAIL_TARGET, i, 0);
    }
    return CIM_OK;
}

static uint32_t wanted_pulses(const struct cells *c, uint32_t i) {
    int count = (int16_t)cim_u16_at(c->values, i);
    return (uint32_t)(count < 0 ? -count : count);
}

/* `each` pulses more to every cell, or the counts in the values where it is 0. */
static struct cim_refusal check_lifetime(const struct cells *c, uint32_t each) {
    if (!BOARD_LIFETIME_PULSES)
        return CIM_OK;
    for (uint32_t i = 0; i < c->count; i++) {
        uint64_t spent = hal_cell_pulses(c->region.tile, cell_of(c, i));
        if (spent + (each ? each : wanted_pulses(c, i)) > BOARD_LIFETIME_PULSES)
            return CIM_UNSAFE(CIM_DETAIL_LIFETIME, i, BOARD_LIFETIME_PULSES);
    }
    return CIM_OK;
}

static uint32_t worn(const struct cells *c) {
    uint32_t count = 0;
    if (BOARD_LIFETIME_SOFT)
        for (uint32_t i = 0; i < c->count; i++)
            count += hal_cell_pulses(c->region.tile, cell_of(c, i)) > BOARD_LIFETIME_SOFT;
    return count;
}

/* ---- state --------------------------------------------------------------------------------- */

/* Rounded half to even, as everywhere in the arithmetic. */
static uint64_t divided(uint64_t value, uint64_t by) {
    uint64_t whole = value / by, rest = value % by;
    return whole + (2 * rest > by || (2 * rest == by && whole & 1));
}

static struct cim_refusal status(struct cim_reader *in, struct cim_writer *out) {
    RETURN_UNLESS_DONE(in);
    const struct hal_counters *n = hal_counters();
    uint64_t pulses = n->set_pulses + n->reset_pulses;
    uint64_t time = (n->steps * BOARD_STEP_NS + pulses * BOARD_PULSE_NS + n->pulse_width_ns) *
                        BOARD_COLUMNS_PER_ADC +
                    n->verify_reads * BOARD_STEP_NS;
    uint64_t energy = (n->tile_operations * BOARD_TILE_OPERATION_PJ + pulses * BOARD_PULSE_PJ) *
                          BOARD_COLUMNS +
                      n->verify_reads * BOARD_TILE_OPERATION_PJ;
    const uint64_t values[] = {
        cim_journal_read().operations,
        divided(time, BOARD_COLUMNS_PER_ADC),
        divided(energy, BOARD_COLUMNS),
        n->vectors, n->steps, n->tile_operations, n->conversions, n->saturations,
        n->reads, n->writes, n->set_pulses, n->reset_pulses,
        cim_state.corrupt_frames, cim_state.duplicates, cim_state.lapses,
        0, /* waited: this firmware has no WAIT */
    };
    cim_put(out, 1, hal_supplies_on());
    cim_put(out, 4, cim_state.boot_id);
    for (unsigned i = 0; i < sizeof values / sizeof *values; i++)
        cim_put(out, 8, values[i]);
    cim_put(out, 2, (uint16_t)hal_temperature());
    return CIM_OK;
}

/* multiplier / 2^shift within the settable range, which is in units of 2^-40. */
static bool gain_allowed(uint32_t multiplier, unsigned shift) {
    if (shift <= 40) {
        uint64_t gain = (uint64_t)multiplier << (40 - shift);
        return gain >= BOARD_GAIN_LOW && gain <= BOARD_GAIN_HIGH;
    }
    unsigned more = shift - 40;
    return multiplier >= (uint64_t)BOARD_GAIN_LOW << more &&
           multiplier <= (uint64_t)BOARD_GAIN_HIGH << more;
}

static struct cim_refusal configure(struct cim_reader *in) {
    uint8_t slot = cim_u8(in);
    uint16_t voltage = cim_u16(in), word_line = cim_u16(in);
    uint32_t multiplier = cim_u32(in);
    uint8_t shift = cim_u8(in);
    RETURN_UNLESS_DONE(in);
    if (slot >= BOARD_SLOTS)
        return CIM_BAD(CIM_DETAIL_SLOT, slot, BOARD_SLOTS);
    if (voltage > BOARD_READ_VOLTAGE_LIMIT)
        return CIM_UNSAFE(CIM_DETAIL_READ_VOLTAGE, slot, BOARD_READ_VOLTAGE_LIMIT);
    if (shift < 1 || shift > 48 || multiplier < 1 || multiplier > 65535 ||
        !gain_allowed(multiplier, shift))
        return CIM_BAD(CIM_DETAIL_GAIN, slot, 0);
    cim_state.slots[slot] =
        (struct hal_slot){voltage, word_line, (uint16_t)multiplier, shift, true};
    cim_state.lapsed = false;
    hal_supplies(true);
    return CIM_OK;
}

static struct cim_refusal safe(struct cim_reader *in, struct cim_writer *out) {
    RETURN_UNLESS_DONE(in);
    cim_ground();
    cim_state.lapsed = false;
    cim_put(out, 1, hal_supplies_on());
    return CIM_OK;
}

static struct cim_refusal lease(struct cim_reader *in, struct cim_writer *out) {
    uint32_t duration = cim_u32(in);
    RETURN_UNLESS_DONE(in);
    if (duration < 1 || duration > BOARD_LEASE)
        return CIM_UNSAFE(CIM_DETAIL_LEASE, 0, BOARD_LEASE);
    cim_state.lease_ms = duration;
    cim_put(out, 1, hal_supplies_on());
    return CIM_OK;
}

static struct cim_refusal journal(struct cim_reader *in, struct cim_writer *out) {
    uint32_t nonce = cim_u32(in);
    RETURN_UNLESS_DONE(in);
    struct cim_journal j = cim_journal_read();
    cim_put(out, 4, nonce);
    cim_put(out, 4, cim_state.boot_id);
    cim_put(out, 8, j.operations);
    cim_put(out, 8, j.number);
    cim_put(out, 4, j.session);
    cim_put(out, 4, j.sequence);
    cim_put(out, 4, j.progress);
    cim_put(out, 4, j.in_doubt);
    return CIM_OK;
}

static struct cim_refusal ping(struct cim_reader *in, struct cim_writer *out) {
    size_t size = cim_left(in);
    cim_put_bytes(out, cim_take(in, size), size);
    return CIM_OK;
}

/* ---- cells --------------------------------------------------------------------------------- */

/* round_half_even(total * 65535 / (top * samples)) */
static uint16_t mean_reading(uint32_t total, unsigned samples) {
    return (uint16_t)divided((uint64_t)total * 65535u, (uint64_t)READ_TOP * samples);
}

static struct cim_refusal read(struct cim_reader *in, struct cim_writer *out) {
    struct cells c = {.named = 0};
    uint8_t slot = cim_u8(in), samples = cim_u8(in);
    cim_u8(in); /* more parts follow: it moves noise along, and silicon has its own */
    cim_read_region(in, &c.region);
    RETURN_UNLESS_DONE(in);
    CIM_RETURN_IF_REFUSED(cim_check_slot(slot));
    CIM_RETURN_IF_REFUSED(cim_check_region(&c.region, 0));
    uint32_t size = (uint32_t)c.region.rows * c.region.columns;
    if (!samples)
        return CIM_BAD(CIM_DETAIL_COUNT, 0, 0);
    if (2 * size > BOARD_MAX_PAYLOAD)
        return CIM_BAD(CIM_DETAIL_ANSWER_SIZE, 0, 0);
    for (uint32_t i = 0; i < size; i++) {
        uint32_t total = 0;
        for (unsigned k = 0; k < samples; k++)
            total += hal_read(&cim_state.slots[slot], c.region.tile, cell_of(&c, i));
        cim_put(out, 2, mean_reading(total, samples));
    }
    struct hal_counters *n = hal_counters();
    n->steps += (uint32_t)c.region.rows * samples;
    n->tile_operations += (uint32_t)c.region.rows * samples;
    n->reads += size * samples;
    return CIM_OK;
}

static struct cim_refusal program(struct cim_reader *in, struct cim_writer *out) {
    struct cells c;
    uint8_t slot = cim_u8(in), cycles = cim_u8(in);
    uint16_t tolerance = cim_u16(in);
    uint8_t read_back = cim_u8(in);
    cim_read_region(in, &c.region);
    if (!read_cells(in, &c, true))
        return CIM_BAD(CIM_DETAIL_LENGTH, 0, 0);
    CIM_RETURN_IF_REFUSED(cim_check_slot(slot));
    CIM_RETURN_IF_REFUSED(check_cells(&c));
    if (cycles < 1 || cycles > BOARD_CYCLES_LIMIT)
        return CIM_BAD(CIM_DETAIL_CYCLES, 0, BOARD_CYCLES_LIMIT);
    CIM_RETURN_IF_REFUSED(check_targets(&c));
    CIM_RETURN_IF_REFUSED(check_lifetime(&c, hal_worst_case_pulses(cycles)));

    struct hal_counters *n = hal_counters();
    uint32_t sets = 0, resets = 0, unconverged = 0;
    uint8_t *head = cim_place(out, CIM_PROGRAM_RESPONSE_FIXED_SIZE);
    cim_journal_begin(cim_state.session, cim_state.sequence, c.count);
    for (uint32_t i = 0; i < c.count; i++) {
        struct hal_programmed p;
        cim_journal_progress(i);
        hal_program(&cim_state.slots[slot], c.region.tile, cell_of(&c, i),
                    cim_u16_at(c.values, i), tolerance, cycles, &p);
        sets += p.set_pulses;
        resets += p.reset_pulses;
        unconverged += !p.converged;
        n->reads += p.reads;
        n->verify_reads += p.reads;
        if (read_back)
            cim_put(out, 2, p.reading);
    }
    cim_journal_commit();
    n->writes += c.count;
    n->set_pulses += sets;
    n->reset_pulses += resets;
    n->pulse_width_ns += (uint64_t)(sets + resets) * hal_program_width_ns();
    struct cim_writer front = {head, CIM_PROGRAM_RESPONSE_FIXED_SIZE, 0, false};
    cim_put(&front, 4, sets);
    cim_put(&front, 4, resets);
    cim_put(&front, 4, unconverged);
    cim_put(&front, 4, worn(&c));
    return CIM_OK;
}

static struct cim_refusal check_pulses(const struct cells *c, uint16_t set, uint16_t reset,
                                       uint32_t width) {
    bool any_set = false, any_reset = false;
    for (uint32_t i = 0; i < c->count; i++) {
        int count = (int16_t)cim_u16_at(c->values, i);
        if (wanted_pulses(c, i) > BOARD_PULSES_PER_COMMAND)
            return CIM_UNSAFE(CIM_DETAIL_COUNT, i, BOARD_PULSES_PER_COMMAND);
        any_set |= count > 0;
        any_reset |= count < 0;
    }
    if (any_set && (set < BOARD_AMPLITUDE_LOW || set > BOARD_AMPLITUDE_HIGH))
        return CIM_UNSAFE(CIM_DETAIL_AMPLITUDE, 0, BOARD_AMPLITUDE_HIGH);
    if (any_reset && (reset < BOARD_AMPLITUDE_LOW || reset > BOARD_AMPLITUDE_HIGH))
        return CIM_UNSAFE(CIM_DETAIL_AMPLITUDE, 1, BOARD_AMPLITUDE_HIGH);
    if (width < BOARD_WIDTH_LOW || width > BOARD_WIDTH_HIGH)
        return CIM_UNSAFE(CIM_DETAIL_WIDTH, 0, BOARD_WIDTH_HIGH);
    return check_lifetime(c, 0);
}

static struct cim_refusal pulse(struct cim_reader *in, struct cim_writer *out) {
    struct cells c;
    uint16_t set = cim_u16(in), reset = cim_u16(in);
    uint32_t width = cim_u32(in), sets = 0, resets = 0;
    cim_read_region(in, &c.region);
    if (!read_cells(in, &c, true))
        return CIM_BAD(CIM_DETAIL_LENGTH, 0, 0);
    if (!cim_powered())
        return cim_unpowered(0);
    CIM_RETURN_IF_REFUSED(check_cells(&c));
    CIM_RETURN_IF_REFUSED(check_pulses(&c, set, reset, width));
    cim_journal_begin(cim_state.session, cim_state.sequence, c.count);
    for (uint32_t i = 0; i < c.count; i++) {
        int count = (int16_t)cim_u16_at(c.values, i);
        cim_journal_progress(i);
        if (count)
            hal_pulse(c.region.tile, cell_of(&c, i), count, count > 0 ? set : reset, width);
        if (count > 0)
            sets += wanted_pulses(&c, i);
        else
            resets += wanted_pulses(&c, i);
    }
    cim_journal_commit();
    struct hal_counters *n = hal_counters();
    n->set_pulses += sets;
    n->reset_pulses += resets;
    n->pulse_width_ns += (uint64_t)(sets + resets) * width;
    cim_put(out, 4, sets);
    cim_put(out, 4, resets);
    cim_put(out, 4, worn(&c));
    return CIM_OK;
}

static struct cim_refusal wear(struct cim_reader *in, struct cim_writer *out) {
    struct cells c = {.named = 0};
    cim_read_region(in, &c.region);
    RETURN_UNLESS_DONE(in);
    CIM_RETURN_IF_REFUSED(cim_check_region(&c.region, 0));
    uint32_t size = (uint32_t)c.region.rows * c.region.columns;
    if (4 * size > BOARD_MAX_PAYLOAD)
        return CIM_BAD(CIM_DETAIL_ANSWER_SIZE, 0, 0);
    for (uint32_t i = 0; i < size; i++)
        cim_put(out, 4, hal_cell_pulses(c.region.tile, cell_of(&c, i)));
    return CIM_OK;
}

static struct cim_refusal load(struct cim_reader *in) {
    struct cells c;
    cim_read_region(in, &c.region);
    if (!read_cells(in, &c, false))
        return CIM_BAD(CIM_DETAIL_LENGTH, 0, 0);
    CIM_RETURN_IF_REFUSED(cim_need(CIM_CAP_LOAD, CIM_DETAIL_LOAD));
    CIM_RETURN_IF_REFUSED(check_cells(&c));
    CIM_RETURN_IF_REFUSED(check_targets(&c));
    cim_journal_begin(cim_state.session, cim_state.sequence, c.count);
    for (uint32_t i = 0; i < c.count; i++) {
        cim_journal_progress(i);
        hal_load(c.region.tile, cell_of(&c, i), cim_u16_at(c.values, i));
    }
    cim_journal_commit();
    return CIM_OK;
}

/* Time cannot be advanced here; a request of the right shape is told so. */
static struct cim_refusal no_wait(struct cim_reader *in) {
    if (cim_left(in) != CIM_WAIT_REQUEST_FIXED_SIZE)
        return CIM_BAD(CIM_DETAIL_LENGTH, 0, 0);
    return cim_refused(CIM_STATUS_UNSUPPORTED, CIM_DETAIL_WAIT, 0, 0);
}

/* Silicon gives no snapshots; a request of the right shape is told so. */
static struct cim_refusal no_snapshot(struct cim_reader *in, size_t fixed, bool open_end) {
    bool right = open_end ? cim_left(in) >= fixed : cim_left(in) == fixed;
    if (!right)
        return CIM_BAD(CIM_DETAIL_LENGTH, 0, 0);
    return cim_refused(CIM_STATUS_UNSUPPORTED, CIM_DETAIL_SNAPSHOT, 0, 0);
}

struct cim_refusal cim_execute(unsigned opcode, struct cim_reader *in, struct cim_writer *out) {
    switch (opcode) {
    case CIM_OP_PING:
        return ping(in, out);
    case CIM_OP_STATUS:
        return status(in, out);
    case CIM_OP_CONFIGURE:
        return configure(in);
    case CIM_OP_SAFE:
        return safe(in, out);
    case CIM_OP_LEASE:
        return lease(in, out);
    case CIM_OP_JOURNAL:
        return journal(in, out);
    case CIM_OP_REBOOT:
        RETURN_UNLESS_DONE(in);
        return CIM_OK;
    case CIM_OP_READ:
        return read(in, out);
    case CIM_OP_PROGRAM:
        return program(in, out);
    case CIM_OP_PULSE:
        return pulse(in, out);
    case CIM_OP_OUTER:
        return cim_outer(in, out);
    case CIM_OP_WEAR:
        return wear(in, out);
    case CIM_OP_VMM:
        return cim_vmm(in, out);
    case CIM_OP_SNAPSHOT:
        return no_snapshot(in, CIM_SNAPSHOT_REQUEST_FIXED_SIZE, false);
    case CIM_OP_RESTORE:
        return no_snapshot(in, CIM_RESTORE_REQUEST_FIXED_SIZE, true);
    case CIM_OP_LOAD:
        return load(in);
    case CIM_OP_WAIT:
        return no_wait(in);
    default:
        return cim_refused(CIM_STATUS_UNSUPPORTED, CIM_DETAIL_OPCODE, 0, 0);
    }
}
