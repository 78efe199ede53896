/* Sessions, order, kept answers and the lease. */
#include "cim_firmware.h"

#include "cim_frame.h"

#define HELLO_OPEN 1u
#define FIRMWARE_NAME "cimctl reference firmware"
#define HELLO_ROOM 256u

/* An answer that is kept for a duplicate of its request. */
struct kept {
    struct cim_header header;
    uint8_t payload[BOARD_MAX_PAYLOAD];
};

struct cim_state cim_state;

static uint32_t session, expected, lease_renewed;
static struct kept answers[BOARD_WINDOW];
static uint8_t received[CIM_HEADER_FIXED_SIZE + BOARD_MAX_PAYLOAD + CIM_CRC_SIZE];
static struct cim_decoder decoder;
static const uint8_t description[] = BOARD_DESCRIPTION;

_Static_assert(BOARD_MAX_PAYLOAD >= CIM_MIN_PAYLOAD, "the specification's smallest payload fits");
_Static_assert(CIM_HELLO_RESPONSE_FIXED_SIZE + sizeof BOARD_MODEL + sizeof FIRMWARE_NAME +
                       sizeof description <= HELLO_ROOM,
               "HELLO's answer fits its buffer");
_Static_assert(sizeof description == CIM_DESCRIPTION_FIXED_SIZE, "built for this specification");

void cim_power_up(void) {
    cim_ground();
    cim_state = (struct cim_state){.boot_id = hal_boot_id(), .lease_ms = BOARD_LEASE};
    session = 0;
    expected = 1;
    for (unsigned i = 0; i < BOARD_WINDOW; i++)
        answers[i].header = (struct cim_header){0};
    decoder = (struct cim_decoder){.buffer = received, .room = sizeof received};
    /* An answer that the restart cut in two ends here. */
    static const uint8_t delimiter = CIM_DELIMITER;
    hal_send(&delimiter, 1);
}

/* ---- supplies and lease -------------------------------------------------------------------- */

bool cim_powered(void) {
    for (unsigned i = 0; i < BOARD_SLOTS; i++)
        if (cim_state.slots[i].filled)
            return true;
    return false;
}

void cim_ground(void) {
    for (unsigned i = 0; i < BOARD_SLOTS; i++)
        cim_state.slots[i].filled = false;
    hal_supplies(false);
}

static void watch_lease(void) {
    if (!BOARD_LEASE || !cim_powered())
        return;
    if (hal_milliseconds() - lease_renewed > cim_state.lease_ms) {
        cim_ground();
        cim_state.lapsed = true;
        cim_state.lapses++;
    }
}

/* ---- answers ------------------------------------------------------------------------------- */

static struct cim_header answer_to(const struct cim_header *request) {
    struct cim_header answer = *request;
    answer.flags = CIM_FLAG_RESPONSE;
    answer.status = CIM_STATUS_OK;
    return answer;
}

static void put_refusal(struct cim_writer *out, const struct cim_refusal *refusal) {
    out->at = 0;
    out->full = false;
    cim_put(out, 2, refusal->detail);
    cim_put(out, 4, refusal->index);
    cim_put(out, 8, refusal->limit);
}

/* Executes a request; its answer's header is complete afterwards. */
static void execute(const struct cim_header *request, const uint8_t *payload,
                    struct cim_header *answer, uint8_t *room, size_t size) {
    struct cim_reader in = {payload, request->length, 0, false};
    struct cim_writer out = {room, size, 0, false};
    cim_state.session = request->session;
    cim_state.sequence = request->sequence;
    struct cim_refusal refusal = cim_execute(request->opcode, &in, &out);
    if (out.full)
        refusal = cim_refused(CIM_STATUS_DEVICE_FAULT, CIM_DETAIL_ANSWER_SIZE, 0, size);
    *answer = answer_to(request);
    answer->status = refusal.status;
    if (refusal.status != CIM_STATUS_OK)
        put_refusal(&out, &refusal);
    answer->length = (uint32_t)out.at;
}

static void refuse(const struct cim_header *request, struct cim_refusal refusal) {
    uint8_t payload[CIM_REFUSAL_FIXED_SIZE];
    struct cim_writer out = {payload, sizeof payload, 0, false};
    put_refusal(&out, &refusal);
    struct cim_header answer = answer_to(request);
    answer.status = refusal.status;
    answer.length = (uint32_t)out.at;
    cim_encode(&answer, payload);
}

/* ---- sessions ------------------------------------------------------------------------------ */

static void open_session(uint32_t number) {
    session = number;
    expected = 1;
    for (unsigned i = 0; i < BOARD_WINDOW; i++)
        answers[i].header.sequence = 0;
    cim_state.lease_ms = BOARD_LEASE;
    lease_renewed = hal_milliseconds();
}

static void hello(const struct cim_header *request, const uint8_t *payload) {
    struct cim_reader in = {payload, request->length, 0, false};
    uint8_t version = cim_u8(&in);
    uint64_t hash = cim_u64(&in);
    uint8_t flags = cim_u8(&in);
    if (!cim_done(&in)) {
        refuse(request, CIM_BAD(CIM_DETAIL_LENGTH, 0, 0));
        return;
    }
    bool same = version == CIM_VERSION && hash == CIM_SPEC_HASH;
    if (same && flags & HELLO_OPEN && request->session != session)
        open_session(request->session);
    uint8_t room[HELLO_ROOM];
    struct cim_writer out = {room, sizeof room, 0, false};
    cim_put(&out, 1, CIM_VERSION);
    cim_put(&out, 8, CIM_SPEC_HASH);
    cim_put(&out, 8, hal_board_id());
    cim_put(&out, 4, cim_state.boot_id);
    cim_put_text(&out, BOARD_MODEL);
    cim_put_text(&out, FIRMWARE_NAME);
    cim_put_bytes(&out, description, sizeof description);
    struct cim_header answer = answer_to(request);
    answer.status = same ? CIM_STATUS_OK : CIM_STATUS_SPEC_MISMATCH;
    answer.length = (uint32_t)out.at;
    cim_encode(&answer, room);
}

/* ---- order --------------------------------------------------------------------------------- */

/* LEASE and JOURNAL change nothing that order matters to, and may be repeated at will. */
static bool unordered(unsigned opcode) {
    return opcode == CIM_OP_LEASE || opcode == CIM_OP_JOURNAL;
}

static void answer_unordered(const struct cim_header *request, const uint8_t *payload) {
    uint8_t room[CIM_JOURNAL_RESPONSE_FIXED_SIZE];
    struct cim_header answer;
    execute(request, payload, &answer, room, sizeof room);
    cim_encode(&answer, room);
}

static void answer_in_order(const struct cim_header *request, const uint8_t *payload) {
    struct kept *slot = &answers[request->sequence % BOARD_WINDOW];
    if (unordered(request->opcode)) {
        struct cim_writer out = {slot->payload, sizeof slot->payload, 0, false};
        struct cim_refusal refusal = CIM_BAD(CIM_DETAIL_ORDER, 0, 0);
        slot->header = answer_to(request);
        slot->header.status = refusal.status;
        put_refusal(&out, &refusal);
        slot->header.length = (uint32_t)out.at;
    } else {
        execute(request, payload, &slot->header, slot->payload, sizeof slot->payload);
    }
    expected++;
    cim_encode(&slot->header, slot->payload);
    if (request->opcode == CIM_OP_REBOOT && slot->header.status == CIM_STATUS_OK)
        hal_reboot();
}

static void answer_in_session(const struct cim_header *request, const uint8_t *payload) {
    const struct kept *slot = &answers[request->sequence % BOARD_WINDOW];
    if (request->sequence == 0) {
        if (unordered(request->opcode))
            answer_unordered(request, payload);
        else
            refuse(request, CIM_BAD(CIM_DETAIL_ORDER, 0, 0));
    } else if (slot->header.sequence == request->sequence) {
        cim_state.duplicates++;
        cim_encode(&slot->header, slot->payload);
    } else if (request->sequence < expected) {
        refuse(request, cim_refused(CIM_STATUS_STALE, 0, 0, 0));
    } else if (request->sequence > expected) {
        refuse(request, cim_refused(CIM_STATUS_RETRY, 0, 0, 0));
    } else {
        answer_in_order(request, payload);
    }
}

static void answer(const struct cim_header *request, const uint8_t *payload) {
    if (request->opcode == CIM_OP_HELLO) {
        hello(request, payload);
    } else if (request->opcode == CIM_OP_JOURNAL && request->sequence == 0) {
        answer_unordered(request, payload);
    } else if (request->session != session || !session) {
        refuse(request, cim_refused(CIM_STATUS_NO_SESSION, 0, 0, 0));
    } else {
        answer_in_session(request, payload);
        lease_renewed = hal_milliseconds();
    }
}

bool cim_poll(void) {
    uint8_t chunk[64];
    size_t size = hal_receive(chunk, sizeof chunk);
    watch_lease();
    for (size_t i = 0; i < size; i++) {
        struct cim_header request;
        const uint8_t *payload;
        enum cim_event event = cim_decode(&decoder, chunk[i], &request, &payload);
        if (event == CIM_CORRUPT)
            cim_state.corrupt_frames++;
        else if (event == CIM_FRAME && !(request.flags & CIM_FLAG_RESPONSE))
            answer(&request, payload);
    }
    return size > 0;
}
