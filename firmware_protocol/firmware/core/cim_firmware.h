/* The firmware: sessions, order, kept answers, lease, and what each command does.
 *
 * A port calls cim_power_up once, then cim_poll for ever. */
#ifndef CIM_FIRMWARE_H
#define CIM_FIRMWARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cim_board.h"
#include "cim_bytes.h"
#include "cim_protocol.h"
#include "hal.h"

/* ---- what a port calls -------------------------------------------------------------------- */

void cim_power_up(void);

/* Takes what has arrived, answers it, and watches the lease. Returns whether anything arrived. */
bool cim_poll(void);

/* ---- between the modules ------------------------------------------------------------------ */

/* Why a request is refused; status CIM_STATUS_OK means that it is not. */
struct cim_refusal {
    uint8_t status;
    uint16_t detail;
    uint32_t index;
    uint64_t limit;
};

struct cim_region {
    uint16_t tile, row, rows, column, columns;
};

/* Executes a request; the answer's payload goes to `out`. A refusal has changed nothing. */
struct cim_refusal cim_execute(unsigned opcode, struct cim_reader *in, struct cim_writer *out);

struct cim_refusal cim_vmm(struct cim_reader *in, struct cim_writer *out);
struct cim_refusal cim_outer(struct cim_reader *in, struct cim_writer *out);

/* The configuration slots, and what is known of the power. */
struct cim_state {
    struct hal_slot slots[BOARD_SLOTS];
    bool lapsed; /* the lease ran out since the last CONFIGURE or SAFE */
    uint32_t lease_ms;
    uint32_t boot_id;
    uint64_t corrupt_frames, duplicates, lapses;
    uint32_t session, sequence; /* of the request under way, for the journal */
};
extern struct cim_state cim_state;

bool cim_powered(void);
void cim_ground(void);

static inline struct cim_refusal cim_refused(unsigned status, unsigned detail, uint64_t index,
                                             uint64_t limit) {
    return (struct cim_refusal){(uint8_t)status, (uint16_t)detail, (uint32_t)index, limit};
}
#define CIM_OK cim_refused(CIM_STATUS_OK, CIM_DETAIL_NONE, 0, 0)
#define CIM_BAD(detail, index, limit) cim_refused(CIM_STATUS_BAD_REQUEST, detail, index, limit)
#define CIM_UNSAFE(detail, index, limit) cim_refused(CIM_STATUS_SAFETY, detail, index, limit)

#define CIM_RETURN_IF_REFUSED(call)                                                                \
    do {                                                                                           \
        struct cim_refusal refusal_ = (call);                                                      \
        if (refusal_.status != CIM_STATUS_OK)                                                      \
            return refusal_;                                                                       \
    } while (0)

/* The checks that several commands share. */
struct cim_refusal cim_check_slot(unsigned slot);
struct cim_refusal cim_unpowered(unsigned slot);
struct cim_refusal cim_check_region(const struct cim_region *region, uint32_t number);
struct cim_refusal cim_need(unsigned capability, unsigned detail);
void cim_read_region(struct cim_reader *in, struct cim_region *region);

/* ---- journal ------------------------------------------------------------------------------ */

struct cim_journal {
    uint64_t operations, number;
    uint32_t session, sequence, progress, in_doubt;
};

/* Before the first cell of a mutating command is touched, after each, and after the last. */
void cim_journal_begin(uint32_t session, uint32_t sequence, uint32_t cells);
void cim_journal_progress(uint32_t cells_done);
void cim_journal_commit(void);
struct cim_journal cim_journal_read(void);

#endif
