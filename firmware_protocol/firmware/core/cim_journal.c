/* The journal of mutating commands, in non-volatile words.
 *
 * Two entries take turns; one word says which is valid, so that an entry is replaced whole or not at
 * all, wherever the power fails. The operation counter is not a word of its own: it is the number of
 * the valid entry, less one until that entry is done. */
#include "cim_firmware.h"

enum { CURRENT = 0, ENTRY = 1 };
enum { NUMBER_LOW, NUMBER_HIGH, SESSION, SEQUENCE, CELLS, DONE_CELLS, ENTRY_WORDS };
#define COMPLETE 0xFFFFFFFFu

_Static_assert(ENTRY + 2 * ENTRY_WORDS <= HAL_NV_WORDS, "the journal fits the non-volatile words");

static unsigned word(unsigned entry, unsigned field) { return ENTRY + entry * ENTRY_WORDS + field; }

static uint32_t get(unsigned field) { return hal_nv_read(word(hal_nv_read(CURRENT) & 1, field)); }

static uint64_t number(void) { return get(NUMBER_LOW) | (uint64_t)get(NUMBER_HIGH) << 32; }

static uint64_t operations(void) {
    uint64_t last = number();
    return last && get(DONE_CELLS) != COMPLETE ? last - 1 : last;
}

void cim_journal_begin(uint32_t session, uint32_t sequence, uint32_t cells) {
    uint64_t next = operations() + 1;
    unsigned other = ~hal_nv_read(CURRENT) & 1;
    hal_nv_write(word(other, NUMBER_LOW), (uint32_t)next);
    hal_nv_write(word(other, NUMBER_HIGH), (uint32_t)(next >> 32));
    hal_nv_write(word(other, SESSION), session);
    hal_nv_write(word(other, SEQUENCE), sequence);
    hal_nv_write(word(other, CELLS), cells);
    hal_nv_write(word(other, DONE_CELLS), 0);
    hal_nv_write(CURRENT, other);
}

void cim_journal_progress(uint32_t cells_done) {
    hal_nv_write(word(hal_nv_read(CURRENT) & 1, DONE_CELLS), cells_done);
}

void cim_journal_commit(void) { cim_journal_progress(COMPLETE); }

struct cim_journal cim_journal_read(void) {
    uint32_t cells = get(CELLS), done = get(DONE_CELLS);
    bool complete = done == COMPLETE;
    return (struct cim_journal){
        .operations = operations(),
        .number = number(),
        .session = get(SESSION),
        .sequence = get(SEQUENCE),
        .progress = complete ? cells : done,
        .in_doubt = complete || done >= cells ? 0 : 1,
    };
}
