/* OUTER: rank-one updates by coincidences of row and column pulse trains, checked before any pulse. */
#include "cim_firmware.h"
#include "cim_pack.h"

#define DIFFERENTIAL 2u

struct outer {
    struct cim_region region;
    uint16_t amplitude[2]; /* SET, RESET */
    uint32_t width, count, columns;
    unsigned length, step; /* slots of a train; columns from one word's to the next */
    const uint8_t *row_words, *column_words;
};

static unsigned ones(uint32_t word) {
    unsigned count = 0;
    for (; word; word &= word - 1)
        count++;
    return count;
}

/* Pulses that update u gives to the cell of row word i and column word j; negative ones RESET. */
static int coincidences(const struct outer *o, uint32_t u, uint32_t i, uint32_t j) {
    unsigned bits = o->length + 1;
    uint32_t rows = o->region.rows;
    uint32_t row = cim_unpack_word(o->row_words, o->count * rows, bits, u * rows + i);
    uint32_t column =
        cim_unpack_word(o->column_words, o->count * o->columns, bits, u * o->columns + j);
    int pulses = (int)ones(row & column & ((1u << o->length) - 1));
    return (row ^ column) >> o->length ? -pulses : pulses;
}

static unsigned outer_cell(const struct outer *o, uint32_t i, uint32_t j) {
    return (o->region.row + i) * BOARD_COLUMNS + o->region.column + j * o->step;
}

static struct cim_refusal read_outer(struct cim_reader *in, struct outer *o) {
    o->amplitude[0] = cim_u16(in);
    o->amplitude[1] = cim_u16(in);
    o->width = cim_u32(in);
    cim_read_region(in, &o->region);
    unsigned flags = cim_u8(in);
    o->length = cim_u8(in);
    o->count = cim_u32(in);
    size_t size = cim_left(in);
    const uint8_t *words = cim_take(in, size);
    if (in->short_of)
        return CIM_BAD(CIM_DETAIL_LENGTH, 0, 0);
    CIM_RETURN_IF_REFUSED(cim_need(CIM_CAP_OUTER, CIM_DETAIL_OUTER));
    if (!cim_powered())
        return cim_unpowered(0);
    CIM_RETURN_IF_REFUSED(cim_check_region(&o->region, 0));
    o->step = flags & DIFFERENTIAL ? 2 : 1;
    if (o->region.columns % o->step || o->region.column % o->step)
        return CIM_BAD(CIM_DETAIL_REGION, 0, 0);
    o->columns = o->region.columns / o->step;
    if (!o->count || o->length < 1 || o->length > CIM_MAX_TRAIN)
        return CIM_BAD(CIM_DETAIL_COUNT, 0, CIM_MAX_TRAIN);
    /* No frame holds more words than it has bits; the products below stay within 64 bits. */
    uint64_t row_size = cim_packed_size((uint64_t)o->count * o->region.rows, o->length + 1);
    if (row_size + cim_packed_size((uint64_t)o->count * o->columns, o->length + 1) != size)
        return CIM_BAD(CIM_DETAIL_LENGTH, 0, 0);
    o->row_words = words;
    o->column_words = words + row_size;
    return CIM_OK;
}

static struct cim_refusal check_outer(const struct outer *o) {
    bool any[2] = {false, false};
    uint32_t most = 0, most_at = 0, worn_out = UINT32_MAX;
    for (uint32_t i = 0; i < o->region.rows; i++)
        for (uint32_t j = 0; j < o->columns; j++) {
            uint32_t pulses = 0, at = i * o->columns + j;
            for (uint32_t u = 0; u < o->count; u++) {
                int found = coincidences(o, u, i, j);
                any[0] |= found > 0;
                any[1] |= found < 0;
                pulses += (uint32_t)(found < 0 ? -found : found);
            }
            if (pulses > BOARD_PULSES_PER_COMMAND && !most) {
                most = pulses;
                most_at = at;
            }
            uint64_t spent = hal_cell_pulses(o->region.tile, outer_cell(o, i, j));
            if (spent + pulses > BOARD_LIFETIME_PULSES && worn_out == UINT32_MAX)
                worn_out = at;
        }
    if (most)
        return CIM_UNSAFE(CIM_DETAIL_COUNT, most_at, BOARD_PULSES_PER_COMMAND);
    for (unsigned way = 0; way < 2; way++)
        if (any[way] && (o->amplitude[way] < BOARD_AMPLITUDE_LOW ||
                         o->amplitude[way] > BOARD_AMPLITUDE_HIGH))
            return CIM_UNSAFE(CIM_DETAIL_AMPLITUDE, way, BOARD_AMPLITUDE_HIGH);
    if (o->width < BOARD_WIDTH_LOW || o->width > BOARD_WIDTH_HIGH)
        return CIM_UNSAFE(CIM_DETAIL_WIDTH, 0, BOARD_WIDTH_HIGH);
    if (BOARD_LIFETIME_PULSES && worn_out != UINT32_MAX)
        return CIM_UNSAFE(CIM_DETAIL_LIFETIME, worn_out, BOARD_LIFETIME_PULSES);
    return CIM_OK;
}

struct cim_refusal cim_outer(struct cim_reader *in, struct cim_writer *out) {
    struct outer o;
    CIM_RETURN_IF_REFUSED(read_outer(in, &o));
    CIM_RETURN_IF_REFUSED(check_outer(&o));
    uint32_t applied[2] = {0, 0}, past = 0;
    cim_journal_begin(cim_state.session, cim_state.sequence, o.region.rows * o.columns);
    for (uint32_t i = 0; i < o.region.rows; i++)
        for (uint32_t j = 0; j < o.columns; j++) {
            unsigned cell = outer_cell(&o, i, j);
            cim_journal_progress(i * o.columns + j);
            for (uint32_t u = 0; u < o.count; u++) {
                int pulses = coincidences(&o, u, i, j);
                if (pulses)
                    hal_pulse(o.region.tile, cell, pulses, o.amplitude[pulses < 0], o.width);
                applied[pulses < 0] += (uint32_t)(pulses < 0 ? -pulses : pulses);
            }
            past += BOARD_LIFETIME_SOFT &&
                    hal_cell_pulses(o.region.tile, cell) > BOARD_LIFETIME_SOFT;
        }
    cim_journal_commit();
    struct hal_counters *n = hal_counters();
    n->set_pulses += applied[0];
    n->reset_pulses += applied[1];
    n->pulse_width_ns += (uint64_t)(applied[0] + applied[1]) * o.width;
    cim_put(out, 4, applied[0]);
    cim_put(out, 4, applied[1]);
    cim_put(out, 4, past);
    return CIM_OK;
}
