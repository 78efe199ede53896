/* The firmware under a coverage-guided fuzzer, with the array model of a small chip behind it.
 *
 * The first byte of an input says how the others are read: as bytes of the line, or as records
 * (kind, opcode, size, payload) that are framed here, so that mutations reach the commands. After
 * every frame the firmware is held against a second account of what the specification promises,
 * which shares no code with it. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cim_firmware.h"
#include "ideal_array.h"

/* Coverage leads the fuzzer through the firmware, not through this file. */
#pragma clang attribute push(__attribute__((no_sanitize("coverage"))), apply_to = function)

#define SEED 7u
#define FIRST_SESSION 0xC0FFEEu /* of the golden frames */
#define CELLS (BOARD_ROWS * BOARD_COLUMNS)
#define HEAD CIM_HEADER_FIXED_SIZE
#define OVERHEAD (HEAD + CIM_CRC_SIZE)
#define LARGEST 511u /* payload of a record: more than the firmware takes */
#define LINE_ROOM (OVERHEAD + LARGEST + 8u)
#define MOST_RECORDS 64u

#define PROMISE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, #condition);        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

struct line {
    uint8_t bytes[LINE_ROOM];
    size_t size;
    bool overflow;
};

struct message {
    uint8_t version, flags, opcode, status;
    uint32_t session, sequence, length;
    uint32_t lie; /* added to the length that the header states */
    uint8_t payload[LARGEST];
};

/* What the board must know by now. */
static struct {
    uint32_t session, expected, lease_ms, renewed;
    bool filled[BOARD_SLOTS], lapsed;
    uint64_t corrupt, duplicates, lapses;
    struct line kept[BOARD_WINDOW];
    uint32_t kept_sequence[BOARD_WINDOW];
    struct line open; /* bytes since the last delimiter */
} known;

/* The world around the board. */
static struct {
    uint32_t now, drift, boots, sessions;
    unsigned cut; /* the power fails at this event; 0: not */
    const uint8_t *line;
    size_t left;
    struct line sent, last;
} world;

/* What a frame found. */
static struct {
    uint32_t pulses[BOARD_TILES][CELLS];
    uint16_t conductances[BOARD_TILES][CELLS];
    struct hal_counters counters;
    struct hal_slot slots[BOARD_SLOTS];
    struct cim_journal journal;
} before;

static struct model_chip fresh, chip;
static jmp_buf restart;
static uint32_t crc_table[256];
enum { SERVED, POWER_CUT, REBOOTED };

/* ---- frames ------------------------------------------------------------------------------------ */

static void fill_crc_table(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++)
            value = value & 1 ? value >> 1 ^ 0xEDB88320u : value >> 1;
        crc_table[i] = value;
    }
}

static uint32_t crc_of(const uint8_t *data, size_t size, unsigned opcode) {
    uint32_t crc = ~(opcode == CIM_OP_HELLO ? 0 : CIM_CRC_SEED);
    for (size_t i = 0; i < size; i++)
        crc = crc >> 8 ^ crc_table[(crc ^ data[i]) & 255];
    return ~crc;
}

static uint64_t number_at(const uint8_t *data, size_t size) {
    uint64_t value = 0;
    while (size--)
        value = value << 8 | data[size];
    return value;
}

static void number_to(uint8_t *data, size_t size, uint64_t value) {
    for (size_t i = 0; i < size; i++, value >>= 8)
        data[i] = (uint8_t)value;
}

static void stuff(const uint8_t *body, size_t size, struct line *line) {
    size_t length_at = 0;
    line->size = 1;
    for (size_t i = 0; i < size; i++) {
        if (line->size - length_at == 255) {
            line->bytes[length_at] = 255;
            length_at = line->size++;
        }
        if (body[i]) {
            line->bytes[line->size++] = body[i];
        } else {
            line->bytes[length_at] = (uint8_t)(line->size - length_at);
            length_at = line->size++;
        }
    }
    line->bytes[length_at] = (uint8_t)(line->size - length_at);
    line->bytes[line->size++] = CIM_DELIMITER;
}

static void encode(const struct message *m, struct line *line) {
    uint8_t body[OVERHEAD + LARGEST];
    size_t size = m->length;
    const uint8_t head[] = {m->version, m->flags, m->opcode, m->status};
    memcpy(body, head, sizeof head);
    number_to(body + CIM_HEADER_SESSION, 4, m->session);
    number_to(body + CIM_HEADER_SEQUENCE, 4, m->sequence);
    number_to(body + CIM_HEADER_LENGTH, 4, m->length + m->lie);
    for (size_t i = 0; i < size; i++)
        body[HEAD + i] = m->payload[i] ^ CIM_PAYLOAD_XOR;
    number_to(body + HEAD + size, 4, crc_of(body, HEAD + size, m->opcode));
    stuff(body, OVERHEAD + size, line);
}

/* Returns the size of the body, or 0. */
static size_t unstuff(const uint8_t *bytes, size_t size, uint8_t *body, size_t room) {
    size_t at = 0, used = 0;
    while (at < size) {
        size_t length = bytes[at];
        if (length > size - at || used + length > room)
            return 0;
        memcpy(body + used, bytes + at + 1, length - 1);
        used += length - 1;
        at += length;
        if (length < 255 && at < size)
            body[used++] = 0;
    }
    return used;
}

/* A frame without its delimiter, which must be of a size that the board takes. */
static bool decode(const uint8_t *bytes, size_t size, struct message *m) {
    uint8_t body[OVERHEAD + BOARD_MAX_PAYLOAD + 1];
    size_t used = unstuff(bytes, size, body, sizeof body);
    if (used < OVERHEAD || used > OVERHEAD + BOARD_MAX_PAYLOAD)
        return false;
    m->version = body[CIM_HEADER_VERSION];
    m->flags = body[CIM_HEADER_FLAGS];
    m->opcode = body[CIM_HEADER_OPCODE];
    m->status = body[CIM_HEADER_STATUS];
    m->session = (uint32_t)number_at(body + CIM_HEADER_SESSION, 4);
    m->sequence = (uint32_t)number_at(body + CIM_HEADER_SEQUENCE, 4);
    m->length = (uint32_t)number_at(body + CIM_HEADER_LENGTH, 4);
    if (m->length != used - OVERHEAD || (m->version != CIM_VERSION && m->opcode != CIM_OP_HELLO))
        return false;
    for (size_t i = 0; i < m->length; i++)
        m->payload[i] = body[HEAD + i] ^ CIM_PAYLOAD_XOR;
    return number_at(body + used - 4, 4) == crc_of(body, used - 4, m->opcode);
}

/* ---- hal --------------------------------------------------------------------------------------- */

/* Whatever may come between two of these, the power may fail there. */
static void event(void) {
    if (world.cut && !--world.cut)
        longjmp(restart, POWER_CUT);
}

static bool any_filled(void) {
    for (unsigned i = 0; i < BOARD_SLOTS; i++)
        if (known.filled[i])
            return true;
    return false;
}

static void empty_slots(void) {
    for (unsigned i = 0; i < BOARD_SLOTS; i++)
        known.filled[i] = before.slots[i].filled = false;
}

size_t hal_receive(uint8_t *data, size_t room) {
    size_t size = world.left < room ? world.left : room;
    memcpy(data, world.line, size);
    world.line += size;
    world.left -= size;
    world.now += world.drift;
    if (any_filled() && world.now - known.renewed > known.lease_ms) {
        empty_slots();
        known.lapsed = true;
        known.lapses++;
    }
    return size;
}

void hal_send(const uint8_t *data, size_t size) {
    PROMISE(size <= sizeof world.sent.bytes - world.sent.size);
    event();
    memcpy(world.sent.bytes + world.sent.size, data, size);
    world.sent.size += size;
}

uint32_t hal_milliseconds(void) { return world.now; }
uint32_t hal_boot_id(void) { return world.boots; }
_Noreturn void hal_reboot(void) { longjmp(restart, REBOOTED); }
void model_before_cell(void) { event(); }

/* The linker puts these two in the way of the firmware's calls (--wrap). */
void __real_hal_nv_write(unsigned word, uint32_t value);
void __wrap_hal_nv_write(unsigned word, uint32_t value);
struct cim_refusal __real_cim_execute(unsigned opcode, struct cim_reader *in,
                                      struct cim_writer *out);
struct cim_refusal __wrap_cim_execute(unsigned opcode, struct cim_reader *in,
                                      struct cim_writer *out);

void __wrap_hal_nv_write(unsigned word, uint32_t value) {
    event();
    __real_hal_nv_write(word, value);
}

/* The payload lies in a larger buffer of the firmware, as does the answer. Moved to where nothing
 * follows, one byte too far is seen. */
struct cim_refusal __wrap_cim_execute(unsigned opcode, struct cim_reader *in,
                                      struct cim_writer *out) {
    static uint8_t payload[BOARD_MAX_PAYLOAD], answer[BOARD_MAX_PAYLOAD];
    struct cim_reader exact_in = *in;
    struct cim_writer exact_out = *out;
    exact_in.data = memcpy(payload + sizeof payload - in->size, in->data, in->size);
    exact_out.data = answer + sizeof answer - out->room;
    struct cim_refusal refusal = __real_cim_execute(opcode, &exact_in, &exact_out);
    PROMISE(exact_out.at <= out->room);
    memcpy(out->data, exact_out.data, exact_out.at);
    out->at = exact_out.at;
    out->full = exact_out.full;
    return refusal;
}

/* ---- what mutating commands do ----------------------------------------------------------------- */

struct asked {
    unsigned opcode, tile;
    uint16_t tolerance;
    uint32_t count;
    uint16_t cells[CELLS], values[CELLS];
    /* of OUTER */
    const uint8_t *row_words, *column_words;
    uint32_t updates, rows, columns;
    unsigned length;
};

static bool mutating(unsigned opcode) {
    return opcode == CIM_OP_PROGRAM || opcode == CIM_OP_PULSE || opcode == CIM_OP_OUTER ||
           opcode == CIM_OP_LOAD;
}

/* Bit `bit` of word `at` of `count`: whole low bytes come first, then planes of single bits. */
static unsigned packed_bit(const uint8_t *words, uint32_t count, unsigned bits, uint32_t at,
                           unsigned bit) {
    unsigned bytes = bits / 8;
    if (bit < 8 * bytes)
        return words[bit / 8 * count + at] >> bit % 8 & 1;
    return words[bytes * count + (bit - 8 * bytes) * ((count + 7) / 8) + at / 8] >> at % 8 & 1;
}

static uint64_t packed_bytes(uint64_t count, unsigned bits) {
    return count * (bits / 8) + bits % 8 * ((count + 7) / 8);
}

/* Slot by slot, as the specification has it. */
static int coinciding(const struct asked *a, uint32_t update, uint32_t row, uint32_t column) {
    uint32_t rows = a->updates * a->rows, columns = a->updates * a->columns;
    uint32_t i = update * a->rows + row, j = update * a->columns + column;
    int pulses = 0;
    for (unsigned slot = 0; slot < a->length; slot++)
        pulses += packed_bit(a->row_words, rows, a->length + 1, i, slot) &
                  packed_bit(a->column_words, columns, a->length + 1, j, slot);
    bool agree = packed_bit(a->row_words, rows, a->length + 1, i, a->length) ==
                 packed_bit(a->column_words, columns, a->length + 1, j, a->length);
    return agree ? pulses : -pulses;
}

/* The cells that an OUTER names; false where it cannot be carried out. */
static bool read_outer(const struct message *q, struct asked *a) {
    const uint8_t *p = q->payload, *region = p + CIM_OUTER_REQUEST_REGION;
    if (q->length < CIM_OUTER_REQUEST_FIXED_SIZE)
        return false;
    unsigned row = (unsigned)number_at(region + CIM_REGION_ROW, 2);
    unsigned column = (unsigned)number_at(region + CIM_REGION_COLUMN, 2);
    unsigned step = p[CIM_OUTER_REQUEST_FLAGS] & 2 ? 2 : 1;
    unsigned wide = (unsigned)number_at(region + CIM_REGION_COLUMNS, 2);
    a->opcode = q->opcode;
    a->tile = (unsigned)number_at(region + CIM_REGION_TILE, 2);
    a->rows = (unsigned)number_at(region + CIM_REGION_ROWS, 2);
    a->columns = wide / step;
    a->length = p[CIM_OUTER_REQUEST_LENGTH];
    a->updates = (uint32_t)number_at(p + CIM_OUTER_REQUEST_COUNT, 4);
    if (a->tile >= BOARD_TILES || row + a->rows > BOARD_ROWS || column + wide > BOARD_COLUMNS ||
        wide % step || column % step || !a->length || a->length > 31 || !a->updates)
        return false;
    uint64_t room = q->length - CIM_OUTER_REQUEST_FIXED_SIZE;
    uint64_t first = packed_bytes((uint64_t)a->updates * a->rows, a->length + 1);
    if (first + packed_bytes((uint64_t)a->updates * a->columns, a->length + 1) != room)
        return false;
    a->row_words = p + CIM_OUTER_REQUEST_FIXED_SIZE;
    a->column_words = a->row_words + first;
    a->count = a->rows * a->columns;
    for (uint32_t i = 0; i < a->count; i++)
        a->cells[i] = (uint16_t)((row + i / a->columns) * BOARD_COLUMNS + column +
                                 i % a->columns * step);
    return a->count > 0;
}

/* The cells and values that a mutating request names; false where it cannot be carried out. */
static bool read_asked(const struct message *q, struct asked *a) {
    if (q->opcode == CIM_OP_OUTER)
        return read_outer(q, a);
    size_t at = q->opcode == CIM_OP_PROGRAM ? CIM_PROGRAM_REQUEST_REGION
                : q->opcode == CIM_OP_PULSE ? CIM_PULSE_REQUEST_REGION
                                            : 0;
    const uint8_t *p = q->payload + at;
    if (!mutating(q->opcode) || q->length < at + CIM_REGION_FIXED_SIZE + 2)
        return false;
    unsigned row = (unsigned)number_at(p + CIM_REGION_ROW, 2);
    unsigned column = (unsigned)number_at(p + CIM_REGION_COLUMN, 2);
    unsigned rows = (unsigned)number_at(p + CIM_REGION_ROWS, 2);
    unsigned columns = (unsigned)number_at(p + CIM_REGION_COLUMNS, 2);
    at += CIM_REGION_FIXED_SIZE;
    uint32_t named = 0;
    if (q->opcode != CIM_OP_LOAD) {
        named = (uint32_t)number_at(q->payload + at, 4);
        at += 4;
    }
    a->opcode = q->opcode;
    a->tile = (unsigned)number_at(p + CIM_REGION_TILE, 2);
    a->tolerance = (uint16_t)number_at(q->payload + CIM_PROGRAM_REQUEST_TOLERANCE, 2);
    a->count = named ? named : rows * columns;
    if (a->tile >= BOARD_TILES || row + rows > BOARD_ROWS || column + columns > BOARD_COLUMNS ||
        a->count > CELLS || q->length != at + 2 * named + 2 * a->count)
        return false;
    for (uint32_t i = 0; i < a->count; i++) {
        unsigned within = named ? (unsigned)number_at(q->payload + at + 2 * i, 2) : i;
        if (within >= rows * columns)
            return false;
        a->cells[i] =
            (uint16_t)((row + within / columns) * BOARD_COLUMNS + column + within % columns);
        a->values[i] = (uint16_t)number_at(q->payload + at + 2 * named + 2 * i, 2);
    }
    return true;
}

static void expect_steps(int steps, uint16_t *conductance, uint32_t *pulses) {
    int moved = *conductance + 64 * steps;
    int low = BOARD_TARGET_LOW, high = BOARD_TARGET_HIGH;
    *conductance = (uint16_t)(moved < low ? low : moved > high ? high : moved);
    *pulses += (uint32_t)abs(steps);
}

/* The first updates of a cell, as many as are asked for. */
static void expect_updates(const struct asked *a, uint32_t i, uint32_t updates,
                           uint16_t *conductance, uint32_t *pulses) {
    for (uint32_t u = 0; u < updates; u++)
        expect_steps(coinciding(a, u, i / a->columns, i % a->columns), conductance, pulses);
}

/* The ideal device of the specification. */
static void expect_cell(const struct asked *a, uint32_t i, uint16_t *conductance,
                        uint32_t *pulses) {
    int steps = (int16_t)a->values[i];
    if (a->opcode == CIM_OP_LOAD) {
        *conductance = a->values[i];
        return;
    }
    if (a->opcode == CIM_OP_OUTER) {
        expect_updates(a, i, a->updates, conductance, pulses);
        return;
    }
    if (a->opcode == CIM_OP_PROGRAM) {
        int distance = a->values[i] - *conductance;
        int whole = (abs(distance) + 32) / 64;
        steps = abs(distance) <= a->tolerance ? 0 : distance < 0 ? -whole : whole;
    }
    expect_steps(steps, conductance, pulses);
}

/* How many updates the cell in doubt has had: as many as its pulses say. */
static uint32_t updates_done(const struct asked *a, uint32_t i, uint32_t pulses, uint32_t found) {
    uint32_t updates = 0;
    while (updates < a->updates && pulses < found)
        pulses += (uint32_t)abs(coinciding(a, updates++, i / a->columns, i % a->columns));
    return updates;
}

/* Carries the request out on the account of the cells: `done` of them, and as much of the next as
 * the board did, which must be all or nothing; of an OUTER, whole updates. */
static void expect_cells(const struct asked *a, uint32_t done, uint32_t in_doubt) {
    PROMISE(in_doubt <= 1 && done + in_doubt <= a->count);
    for (uint32_t i = 0; i < done + in_doubt; i++) {
        unsigned cell = a->cells[i];
        uint16_t *conductance = &before.conductances[a->tile][cell];
        uint32_t *pulses = &before.pulses[a->tile][cell];
        bool untouched = *conductance == chip.conductances[a->tile][cell] &&
                         *pulses == chip.pulses[a->tile][cell];
        if (i < done || (!untouched && a->opcode != CIM_OP_OUTER))
            expect_cell(a, i, conductance, pulses);
        else if (!untouched)
            expect_updates(a, i, updates_done(a, i, *pulses, chip.pulses[a->tile][cell]),
                           conductance, pulses);
    }
}

/* ---- checks ------------------------------------------------------------------------------------ */

static void look(void) {
    memcpy(before.pulses, chip.pulses, sizeof chip.pulses);
    memcpy(before.conductances, chip.conductances, sizeof chip.conductances);
    memcpy(before.slots, cim_state.slots, sizeof cim_state.slots);
    before.counters = chip.counters;
    before.journal = cim_journal_read();
}

static void check_cells(void) {
    PROMISE(!memcmp(before.pulses, chip.pulses, sizeof chip.pulses));
    PROMISE(!memcmp(before.conductances, chip.conductances, sizeof chip.conductances));
}

static bool same_journal(const struct cim_journal *a, const struct cim_journal *b) {
    return a->operations == b->operations && a->number == b->number && a->session == b->session &&
           a->sequence == b->sequence && a->progress == b->progress && a->in_doubt == b->in_doubt;
}

static void check_journal_stayed(void) {
    struct cim_journal now = cim_journal_read();
    PROMISE(same_journal(&before.journal, &now));
}

static bool same_slots(void) {
    bool same = true;
    for (unsigned i = 0; i < BOARD_SLOTS; i++) {
        const struct hal_slot *a = &before.slots[i], *b = &cim_state.slots[i];
        same &= a->read_voltage_mV == b->read_voltage_mV && a->word_line == b->word_line &&
                a->multiplier == b->multiplier && a->shift == b->shift && a->filled == b->filled;
    }
    return same;
}

/* As a refused request, a duplicate, or garbage must leave it. */
static void check_nothing_changed(void) {
    check_cells();
    check_journal_stayed();
    PROMISE(!memcmp(&before.counters, &chip.counters, sizeof chip.counters));
    PROMISE(same_slots());
}

/* What holds at any time between two frames. */
static void check_always(void) {
    for (unsigned tile = 0; tile < BOARD_TILES; tile++)
        for (unsigned cell = 0; cell < CELLS; cell++) {
            PROMISE(chip.conductances[tile][cell] >= BOARD_TARGET_LOW);
            PROMISE(chip.conductances[tile][cell] <= BOARD_TARGET_HIGH);
            PROMISE(chip.pulses[tile][cell] <= BOARD_LIFETIME_PULSES);
        }
    for (unsigned i = 0; i < BOARD_SLOTS; i++)
        PROMISE(cim_state.slots[i].filled == known.filled[i]);
    PROMISE(hal_supplies_on() == any_filled());
    PROMISE(cim_state.lease_ms == known.lease_ms);
    PROMISE(cim_state.corrupt_frames == known.corrupt);
    PROMISE(cim_state.duplicates == known.duplicates);
    PROMISE(cim_state.lapses == known.lapses);
}

static void check_refusal(const struct message *a) {
    PROMISE(a->length == CIM_REFUSAL_FIXED_SIZE && a->status != CIM_STATUS_DEVICE_FAULT);
    unsigned detail = (unsigned)number_at(a->payload + CIM_REFUSAL_DETAIL, 2);
    if (a->opcode != CIM_OP_LEASE) {
        PROMISE(detail != CIM_DETAIL_LEASE || known.lapsed);
        PROMISE(detail != CIM_DETAIL_SLOT_EMPTY || !known.lapsed);
    }
    check_nothing_changed();
}

static void refused_with(const struct message *a, unsigned status) {
    PROMISE(a->status == status);
    check_refusal(a);
}

static uint32_t total_pulses(void) {
    uint32_t total = 0;
    for (unsigned tile = 0; tile < BOARD_TILES; tile++)
        for (unsigned cell = 0; cell < CELLS; cell++)
            total += before.pulses[tile][cell];
    return total;
}

static void check_mutated(const struct message *q, const struct message *a) {
    static struct asked asked;
    uint32_t pulses = total_pulses();
    PROMISE(read_asked(q, &asked));
    expect_cells(&asked, asked.count, 0);
    pulses = total_pulses() - pulses;
    PROMISE(q->opcode == CIM_OP_LOAD ? !a->length
                                     : pulses == number_at(a->payload, 4) +
                                                     number_at(a->payload + 4, 4));
    struct cim_journal now = cim_journal_read();
    PROMISE(now.operations == before.journal.operations + 1 && now.number == now.operations);
    PROMISE(now.session == q->session && now.sequence == q->sequence);
    PROMISE(now.progress == asked.count && !now.in_doubt);
}

static void check_read(const struct message *q, const struct message *a) {
    const uint8_t *region = q->payload + CIM_READ_REQUEST_REGION;
    uint64_t cells =
        number_at(region + CIM_REGION_ROWS, 2) * number_at(region + CIM_REGION_COLUMNS, 2);
    PROMISE(a->length == 2 * cells);
}

static void check_journal_answer(const struct message *q, const struct message *a) {
    const struct cim_journal *j = &before.journal;
    const uint8_t *p = a->payload;
    PROMISE(a->length == CIM_JOURNAL_RESPONSE_FIXED_SIZE);
    PROMISE(!memcmp(p + CIM_JOURNAL_RESPONSE_NONCE, q->payload + CIM_JOURNAL_REQUEST_NONCE, 4));
    PROMISE(number_at(p + CIM_JOURNAL_RESPONSE_BOOT_ID, 4) == world.boots);
    PROMISE(number_at(p + CIM_JOURNAL_RESPONSE_OPERATIONS, 8) == j->operations);
    PROMISE(number_at(p + CIM_JOURNAL_RESPONSE_NUMBER, 8) == j->number);
    PROMISE(number_at(p + CIM_JOURNAL_RESPONSE_SESSION, 4) == j->session);
    PROMISE(number_at(p + CIM_JOURNAL_RESPONSE_SEQUENCE, 4) == j->sequence);
    PROMISE(number_at(p + CIM_JOURNAL_RESPONSE_PROGRESS, 4) == j->progress);
    PROMISE(number_at(p + CIM_JOURNAL_RESPONSE_IN_DOUBT, 4) == j->in_doubt);
}

static void check_configured(unsigned slot) {
    PROMISE(slot < BOARD_SLOTS);
    known.filled[slot] = true;
    known.lapsed = false;
    before.slots[slot] = cim_state.slots[slot];
}

static void check_done(const struct message *q, const struct message *a) {
    switch (q->opcode) {
    case CIM_OP_PING:
        PROMISE(a->length == q->length && !memcmp(a->payload, q->payload, q->length));
        break;
    case CIM_OP_CONFIGURE:
        check_configured(q->payload[0]);
        break;
    case CIM_OP_SAFE:
        PROMISE(a->length == 1 && !a->payload[0]);
        empty_slots();
        known.lapsed = false;
        break;
    case CIM_OP_LEASE:
        known.lease_ms = (uint32_t)number_at(q->payload, 4);
        PROMISE(known.lease_ms && known.lease_ms <= BOARD_LEASE);
        break;
    case CIM_OP_STATUS:
        PROMISE(number_at(a->payload + CIM_STATUS_RESPONSE_OPERATIONS, 8) ==
                before.journal.operations);
        break;
    case CIM_OP_JOURNAL:
        check_journal_answer(q, a);
        break;
    case CIM_OP_READ:
        check_read(q, a);
        break;
    default:
        break;
    }
}

static void check_executed(const struct message *q, const struct message *a) {
    if (a->status != CIM_STATUS_OK) {
        check_refusal(a);
        return;
    }
    if (mutating(q->opcode))
        check_mutated(q, a);
    else
        check_journal_stayed();
    check_cells();
    check_done(q, a);
    PROMISE(same_slots());
}

static void forget_answers(void) {
    for (unsigned i = 0; i < BOARD_WINDOW; i++)
        known.kept_sequence[i] = 0;
}

static void check_hello(const struct message *q, const struct message *a) {
    if (q->length != CIM_HELLO_REQUEST_FIXED_SIZE) {
        refused_with(a, CIM_STATUS_BAD_REQUEST);
        return;
    }
    bool same = q->payload[0] == CIM_VERSION && number_at(q->payload + 1, 8) == CIM_SPEC_HASH;
    PROMISE(a->status == (same ? CIM_STATUS_OK : CIM_STATUS_SPEC_MISMATCH));
    PROMISE(number_at(a->payload + CIM_HELLO_RESPONSE_BOOT_ID, 4) == world.boots);
    size_t at = CIM_HELLO_RESPONSE_FIXED_SIZE;
    for (int texts = 0; texts < 2; texts++)
        at += 1u + a->payload[at];
    PROMISE(a->length == at + CIM_DESCRIPTION_FIXED_SIZE);
    check_nothing_changed();
    if (!same || !(q->payload[CIM_HELLO_REQUEST_FLAGS] & 1) || q->session == known.session)
        return;
    known.session = q->session;
    known.expected = 1;
    known.lease_ms = BOARD_LEASE;
    known.renewed = world.now;
    forget_answers();
}

static void check_in_order(const struct message *q, const struct message *a) {
    unsigned slot = q->sequence % BOARD_WINDOW;
    if (q->opcode == CIM_OP_LEASE || q->opcode == CIM_OP_JOURNAL)
        refused_with(a, CIM_STATUS_BAD_REQUEST);
    else
        check_executed(q, a);
    known.kept[slot] = world.sent;
    known.kept_sequence[slot] = q->sequence;
    known.expected++;
}

static void check_duplicate(unsigned slot) {
    PROMISE(world.sent.size == known.kept[slot].size);
    PROMISE(!memcmp(world.sent.bytes, known.kept[slot].bytes, world.sent.size));
    known.duplicates++;
    check_nothing_changed();
}

static void check_in_session(const struct message *q, const struct message *a) {
    unsigned slot = q->sequence % BOARD_WINDOW;
    if (!q->sequence && q->opcode == CIM_OP_LEASE)
        check_executed(q, a);
    else if (!q->sequence)
        refused_with(a, CIM_STATUS_BAD_REQUEST);
    else if (known.kept_sequence[slot] == q->sequence)
        check_duplicate(slot);
    else if (q->sequence != known.expected)
        refused_with(a, q->sequence < known.expected ? CIM_STATUS_STALE : CIM_STATUS_RETRY);
    else
        check_in_order(q, a);
    known.renewed = world.now;
}

static void check_answer(const struct message *q, const struct message *a) {
    /* A sequence number that is used twice gets the first request's answer, whatever that was. */
    uint64_t duplicates = known.duplicates;
    if (q->opcode == CIM_OP_HELLO)
        check_hello(q, a);
    else if (q->opcode == CIM_OP_JOURNAL && !q->sequence)
        check_executed(q, a);
    else if (!known.session || q->session != known.session)
        refused_with(a, CIM_STATUS_NO_SESSION);
    else
        check_in_session(q, a);
    PROMISE(a->opcode == q->opcode || known.duplicates > duplicates);
}

/* One whole frame was sent, and it answers the request. */
static void read_answer(const struct message *q, struct message *a) {
    const struct line *sent = &world.sent;
    PROMISE(sent->size && memchr(sent->bytes, CIM_DELIMITER, sent->size) ==
                              sent->bytes + sent->size - 1);
    PROMISE(decode(sent->bytes, sent->size - 1, a));
    PROMISE(a->version == CIM_VERSION && a->flags == CIM_FLAG_RESPONSE);
    PROMISE(a->session == q->session && a->sequence == q->sequence);
}

/* ---- the line ---------------------------------------------------------------------------------- */

static void power_up(void) {
    world.boots++;
    world.cut = 0;
    known.session = 0;
    known.expected = 1;
    known.lease_ms = BOARD_LEASE;
    known.corrupt = known.duplicates = known.lapses = 0;
    known.lapsed = false;
    known.open.size = 0;
    known.open.overflow = false;
    forget_answers();
    empty_slots();
    model_start(&chip, SEED);
    cim_power_up();
    check_always();
}

/* Lets the board take everything, or find that nothing has come. */
static int serve(const uint8_t *bytes, size_t size) {
    world.line = bytes;
    world.left = size;
    world.sent.size = 0;
    switch (setjmp(restart)) {
    case SERVED:
        do
            cim_poll();
        while (world.left);
        return SERVED;
    case POWER_CUT:
        return POWER_CUT;
    default:
        return REBOOTED;
    }
}

/* What the journal says of the command that the power cut short. */
static void check_cut(const struct message *q) {
    static struct asked asked;
    struct cim_journal old = before.journal, now = cim_journal_read();
    bool named = q && now.session == q->session && now.sequence == q->sequence &&
                 now.number == old.operations + 1;
    if (same_journal(&old, &now)) {
        /* A session number that is used twice makes two commands look like one. */
        if (!named)
            check_cells();
        return;
    }
    PROMISE(named && read_asked(q, &asked));
    bool whole = now.number <= now.operations;
    PROMISE(now.operations == old.operations + whole);
    PROMISE(!whole || (now.progress == asked.count && !now.in_doubt));
    expect_cells(&asked, now.progress, now.in_doubt);
    check_cells();
}

static void lose_power(void) {
    look();
    power_up();
    check_cells();
    check_journal_stayed();
}

/* Sends bytes that end a frame, or do not; `q` is the request in them, where there is one. */
static void exchange(const uint8_t *bytes, size_t size, const struct message *q) {
    static struct message a;
    bool restarts = false;
    look();
    int outcome = serve(bytes, size);
    if (outcome == POWER_CUT) {
        power_up();
        check_cut(q);
        return;
    }
    world.cut = 0;
    if (q && !(q->flags & CIM_FLAG_RESPONSE)) {
        read_answer(q, &a);
        check_answer(q, &a);
        restarts = a.opcode == CIM_OP_REBOOT && a.status == CIM_STATUS_OK;
    } else {
        PROMISE(!world.sent.size);
        check_nothing_changed();
    }
    PROMISE(restarts == (outcome == REBOOTED));
    if (restarts)
        lose_power();
    check_always();
}

static void keep_open(const uint8_t *bytes, size_t size) {
    struct line *open = &known.open;
    open->overflow |= size > sizeof open->bytes - open->size;
    if (open->overflow)
        size = 0;
    memcpy(open->bytes + open->size, bytes, size);
    open->size += size;
}

/* Any bytes, delimiter by delimiter. */
static void feed(const uint8_t *bytes, size_t size) {
    static struct message q;
    while (size) {
        const uint8_t *end = memchr(bytes, CIM_DELIMITER, size);
        size_t piece = end ? (size_t)(end - bytes) + 1 : size;
        keep_open(bytes, end ? piece - 1 : piece);
        struct line *open = &known.open;
        bool frame = end && (open->size || open->overflow);
        bool good = frame && !open->overflow && decode(open->bytes, open->size, &q);
        known.corrupt += frame && !good;
        if (end) {
            open->size = 0;
            open->overflow = false;
        }
        exchange(bytes, piece, good ? &q : NULL);
        bytes += piece;
        size -= piece;
    }
}

static void send(const struct message *m) {
    encode(m, &world.last);
    feed(world.last.bytes, world.last.size);
}

/* ---- records ----------------------------------------------------------------------------------- */

/* The low half of a record's kind; what is not named here is NEXT. The high half says how much. */
enum {
    NEXT,
    DUPLICATE = 5, /* the last frame once more */
    EARLY,         /* sequence number too high */
    EARLIER,       /* another request under an older number */
    FOREIGN,       /* another session */
    HELLO,         /* the opcode's bits say what is wrong with it */
    OUTSIDE,       /* sequence number 0 */
    TIME,
    CUT,        /* the power fails within the next frame, after as many events as the opcode says */
    POWER_LOSS, /* now */
    HEADER,     /* the payload's first bytes go into the header */
    DAMAGED,
};
enum { NOT_OPEN = 1, OTHER_HASH = 2, OTHER_VERSION = 4, SAME_SESSION = 8, OTHER_HEADER = 16 };

static struct message next_message(unsigned opcode, const uint8_t *payload, size_t size) {
    struct message m = {.version = CIM_VERSION, .opcode = (uint8_t)opcode};
    m.session = known.session;
    m.sequence = known.expected;
    m.length = (uint32_t)size;
    memcpy(m.payload, payload, size);
    return m;
}

static void say_hello(unsigned wrong) {
    uint8_t payload[CIM_HELLO_REQUEST_FIXED_SIZE];
    payload[0] = CIM_VERSION ^ (wrong & OTHER_VERSION);
    number_to(payload + CIM_HELLO_REQUEST_SPEC_HASH, 8, CIM_SPEC_HASH ^ (wrong & OTHER_HASH));
    payload[CIM_HELLO_REQUEST_FLAGS] = !(wrong & NOT_OPEN);
    struct message m = next_message(CIM_OP_HELLO, payload, sizeof payload);
    m.version ^= (uint8_t)(wrong & OTHER_HEADER);
    m.sequence = 0;
    if (!known.session || !(wrong & SAME_SESSION))
        m.session = FIRST_SESSION + world.sessions++;
    send(&m);
}

static void configure_first_slot(void) {
    uint8_t payload[CIM_CONFIGURE_REQUEST_FIXED_SIZE] = {0};
    unsigned shift = 40;
    while (((uint64_t)BOARD_GAIN_LOW >> (40 - shift)) + 1 > 65535)
        shift--;
    number_to(payload + CIM_CONFIGURE_REQUEST_MULTIPLIER, 4, (BOARD_GAIN_LOW >> (40 - shift)) + 1);
    payload[CIM_CONFIGURE_REQUEST_SHIFT] = (uint8_t)shift;
    struct message m = next_message(CIM_OP_CONFIGURE, payload, sizeof payload);
    send(&m);
    PROMISE(known.filled[0]);
}

static void pass_time(unsigned amount, unsigned exponent) {
    if (amount & 0x80) {
        world.drift = amount & 0x7F;
        return;
    }
    world.now += amount << exponent;
    exchange((const uint8_t *)"", 0, NULL);
}

static void send_damaged(struct message *m, unsigned where) {
    encode(m, &world.last);
    world.last.bytes[where * 37 % world.last.size] ^= (uint8_t)(1u << (where & 7));
    feed(world.last.bytes, world.last.size);
}

static void with_header(struct message *m) {
    const uint8_t *p = m->payload;
    if (m->length < 4)
        return;
    m->flags = p[0];
    m->version ^= p[1];
    m->status = p[2];
    m->lie = p[3] < 128 ? p[3] : p[3] - 256u;
}

static void send_record(unsigned kind, unsigned much, struct message *m) {
    if (kind == EARLY)
        m->sequence += 1 + much;
    else if (kind == EARLIER)
        m->sequence -= 1 + much;
    else if (kind == FOREIGN)
        m->session ^= 1 + much;
    else if (kind == OUTSIDE)
        m->sequence = 0;
    else if (kind == HEADER)
        with_header(m);
    if (kind == DAMAGED)
        send_damaged(m, much);
    else
        send(m);
}

/* Returns how many bytes of payload were used. */
static size_t run_record(unsigned kind, unsigned opcode, const uint8_t *payload, size_t size) {
    unsigned much = kind >> 4;
    switch (kind & 15) {
    case DUPLICATE:
        feed(world.last.bytes, world.last.size);
        return 0;
    case HELLO:
        say_hello(opcode);
        return 0;
    case TIME:
        pass_time(opcode, much);
        return 0;
    case CUT:
        world.cut = 1 + opcode;
        return 0;
    case POWER_LOSS:
        lose_power();
        return 0;
    default: {
        struct message m = next_message(opcode, payload, size);
        send_record(kind & 15, much, &m);
        return size;
    }
    }
}

static void run_records(const uint8_t *data, size_t size) {
    for (unsigned i = 0; i < MOST_RECORDS && size >= 4; i++) {
        size_t wanted = number_at(data + 2, 2) % (LARGEST + 1), left = size - 4;
        size_t used = 4 + run_record(data[0], data[1], data + 4, wanted < left ? wanted : left);
        data += used;
        size -= used;
    }
}

/* ---- inputs ------------------------------------------------------------------------------------ */

int LLVMFuzzerInitialize(int *count, char ***arguments);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *count, char ***arguments) {
    (void)count;
    (void)arguments;
    fill_crc_table();
    model_start(&fresh, SEED);
    return 0;
}

enum { RAW = 1, NO_SESSION = 2, NO_SLOT = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size)
        return 0;
    memset(&known, 0, sizeof known);
    memset(&world, 0, sizeof world);
    chip = fresh;
    world.now = 0u - 1000u; /* the clock wraps around */
    power_up();
    if (!(data[0] & NO_SESSION))
        say_hello(0);
    if (!(data[0] & (NO_SESSION | NO_SLOT)))
        configure_first_slot();
    if (data[0] & RAW)
        feed(data + 1, size - 1);
    else
        run_records(data + 1, size - 1);
    return 0;
}

#pragma clang attribute pop
