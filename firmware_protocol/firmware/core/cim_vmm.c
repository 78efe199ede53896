/* VMM: checks the request, feeds vectors or unrolled images to the arrays, adds row blocks. */
#include "cim_firmware.h"
#include "cim_pack.h"

#define TRANSPOSED 1u
#define DIFFERENTIAL 2u
#define SIGNED 4u
#define GROUPS 8u
#define TERNARY 16u
#define LINES (BOARD_ROWS > BOARD_COLUMNS ? BOARD_ROWS : BOARD_COLUMNS)

#ifndef BOARD_UNROLLED_LIMIT
#define BOARD_UNROLLED_LIMIT CIM_UNROLLED_LIMIT
#endif

struct window {
    uint32_t channels, height, width;
    uint32_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x;
    uint32_t pad_top, pad_bottom, pad_left, pad_right;
    uint32_t out_height, out_width;
    bool images; /* not all zero */
};

/* A request, checked step by step. Blocks of inputs and outputs are counted in its own direction. */
struct vmm {
    uint8_t slot, flags, input_bits, row_blocks;
    uint32_t count; /* vectors or images */
    struct window window;
    const uint8_t *regions;
    uint32_t region_count, column_blocks;
    const uint8_t *codes;
    size_t codes_size;

    uint32_t in_blocks, out_blocks;
    uint32_t inputs, outputs; /* of all blocks together */
    uint32_t code_count;      /* input codes of the whole batch */
    uint32_t vectors;         /* of the whole batch */
    unsigned bits;            /* of an answer code */
};

static uint64_t times(uint64_t a, uint64_t b) {
    return b && a > UINT64_MAX / b ? UINT64_MAX : a * b;
}

static struct cim_region region_at(const struct vmm *v, uint32_t i) {
    struct cim_reader r = {v->regions + (size_t)i * CIM_REGION_FIXED_SIZE, CIM_REGION_FIXED_SIZE, 0,
                           false};
    struct cim_region region;
    cim_read_region(&r, &region);
    return region;
}

/* The region of an input block and an output block. */
static struct cim_region region_of(const struct vmm *v, uint32_t in_block, uint32_t out_block) {
    bool transposed = v->flags & TRANSPOSED;
    uint32_t row_block = transposed ? out_block : in_block;
    uint32_t column_block = transposed ? in_block : out_block;
    return region_at(v, row_block * v->column_blocks + column_block);
}

static uint32_t row_lines(const struct cim_region *r) { return r->rows; }

static uint32_t column_lines(const struct vmm *v, const struct cim_region *r) {
    return v->flags & DIFFERENTIAL ? r->columns / 2u : r->columns;
}

static uint32_t inputs_of(const struct vmm *v, const struct cim_region *r) {
    return v->flags & TRANSPOSED ? column_lines(v, r) : row_lines(r);
}

static uint32_t outputs_of(const struct vmm *v, const struct cim_region *r) {
    return v->flags & TRANSPOSED ? row_lines(r) : column_lines(v, r);
}

/* ---- reading and checking -------------------------------------------------------------------- */

static void read_window(struct cim_reader *in, struct window *w) {
    const uint8_t *raw = in->data + in->at;
    w->channels = cim_u16(in);
    w->height = cim_u16(in);
    w->width = cim_u16(in);
    w->kernel_height = cim_u8(in);
    w->kernel_width = cim_u8(in);
    w->stride_y = cim_u8(in);
    w->stride_x = cim_u8(in);
    w->dilation_y = cim_u8(in);
    w->dilation_x = cim_u8(in);
    w->pad_top = cim_u8(in);
    w->pad_bottom = cim_u8(in);
    w->pad_left = cim_u8(in);
    w->pad_right = cim_u8(in);
    w->images = false;
    if (!in->short_of)
        for (unsigned i = 0; i < CIM_WINDOW_FIXED_SIZE; i++)
            w->images |= raw[i] != 0;
}

static bool read_request(struct cim_reader *in, struct vmm *v) {
    v->slot = cim_u8(in);
    v->flags = cim_u8(in);
    v->input_bits = cim_u8(in);
    v->row_blocks = cim_u8(in);
    v->count = cim_u32(in);
    read_window(in, &v->window);
    v->region_count = cim_u16(in);
    v->regions = cim_take(in, (size_t)v->region_count * CIM_REGION_FIXED_SIZE);
    v->codes_size = cim_left(in);
    v->codes = cim_take(in, v->codes_size);
    return !in->short_of;
}

static struct cim_refusal check_grid(struct vmm *v) {
    if (!v->row_blocks || !v->region_count || v->region_count % v->row_blocks ||
        v->region_count > CIM_MAX_REGIONS)
        return CIM_BAD(CIM_DETAIL_GROUPING, 0, 0);
    if (v->region_count > 1 && (v->row_blocks > 1 || v->flags & TRANSPOSED))
        CIM_RETURN_IF_REFUSED(cim_need(CIM_CAP_ROW_BLOCK_SUMS, CIM_DETAIL_ROW_BLOCKS));
    v->column_blocks = v->region_count / v->row_blocks;
    for (uint32_t i = 0; i < v->region_count; i++) {
        struct cim_region r = region_at(v, i);
        CIM_RETURN_IF_REFUSED(cim_check_region(&r, i));
        if (v->flags & DIFFERENTIAL && (r.columns % 2 || r.column % 2))
            return CIM_BAD(CIM_DETAIL_REGION, i, 0);
        if (r.rows != region_at(v, i - i % v->column_blocks).rows ||
            r.columns != region_at(v, i % v->column_blocks).columns)
            return CIM_BAD(CIM_DETAIL_GROUPING, i, 0);
    }
    return CIM_OK;
}

static struct cim_refusal check_product(struct vmm *v) {
    if (v->flags & TRANSPOSED)
        CIM_RETURN_IF_REFUSED(cim_need(CIM_CAP_TRANSPOSED, CIM_DETAIL_TRANSPOSED));
    if (v->flags & SIGNED)
        CIM_RETURN_IF_REFUSED(cim_need(CIM_CAP_SIGNED_INPUTS, CIM_DETAIL_SIGNED));
    if (v->flags & DIFFERENTIAL)
        CIM_RETURN_IF_REFUSED(cim_need(CIM_CAP_DIFFERENTIAL, CIM_DETAIL_DIFFERENTIAL));
    if (v->flags & GROUPS)
        CIM_RETURN_IF_REFUSED(cim_need(CIM_CAP_GROUPS, CIM_DETAIL_GROUPS));
    if (v->flags & TERNARY)
        CIM_RETURN_IF_REFUSED(cim_need(CIM_CAP_TERNARY, CIM_DETAIL_TERNARY));
    if (v->input_bits < 1 || v->input_bits > BOARD_INPUT_BITS)
        return CIM_BAD(CIM_DETAIL_INPUT_BITS, 0, BOARD_INPUT_BITS);
    if (!v->count)
        return CIM_BAD(CIM_DETAIL_COUNT, 0, 0);
    return check_grid(v);
}

static void count_lines(struct vmm *v) {
    bool transposed = v->flags & TRANSPOSED;
    v->in_blocks = transposed ? v->column_blocks : v->row_blocks;
    v->out_blocks = transposed ? v->row_blocks : v->column_blocks;
    v->inputs = v->outputs = 0;
    for (uint32_t i = 0; i < v->in_blocks; i++) {
        struct cim_region r = region_of(v, i, 0);
        v->inputs += inputs_of(v, &r);
    }
    for (uint32_t j = 0; j < v->out_blocks; j++) {
        struct cim_region r = region_of(v, 0, j);
        v->outputs += outputs_of(v, &r);
    }
    v->bits = BOARD_ADC_BITS;
    for (uint32_t most = 1; most < v->in_blocks; most *= 2)
        v->bits++;
}

/* How many places a kernel has along one dimension; 0 where it does not fit. */
static uint32_t places(uint32_t size, uint32_t pads, uint32_t kernel, uint32_t stride,
                       uint32_t dilation) {
    uint32_t span = dilation * (kernel - 1) + 1;
    return span > size + pads ? 0 : (size + pads - span) / stride + 1;
}

static struct cim_refusal check_window(struct vmm *v) {
    struct window *w = &v->window;
    CIM_RETURN_IF_REFUSED(cim_need(CIM_CAP_IMAGES, CIM_DETAIL_IMAGES));
    if (!w->channels || !w->height || !w->width || !w->kernel_height || !w->kernel_width ||
        !w->stride_y || !w->stride_x || !w->dilation_y || !w->dilation_x)
        return CIM_BAD(CIM_DETAIL_WINDOW, 0, 0);
    w->out_height =
        places(w->height, w->pad_top + w->pad_bottom, w->kernel_height, w->stride_y, w->dilation_y);
    w->out_width =
        places(w->width, w->pad_left + w->pad_right, w->kernel_width, w->stride_x, w->dilation_x);
    uint64_t unrolled = times(times(w->channels, w->kernel_height), w->kernel_width);
    if (!w->out_height || !w->out_width || unrolled != v->inputs)
        return CIM_BAD(CIM_DETAIL_WINDOW, 0, 0);
    uint64_t all = times(times(times(v->count, w->out_height), w->out_width), v->inputs);
    if (all > BOARD_UNROLLED_LIMIT)
        return CIM_BAD(CIM_DETAIL_WINDOW, 0, BOARD_UNROLLED_LIMIT);
    return CIM_OK;
}

static struct cim_refusal check_batch(struct vmm *v) {
    struct window *w = &v->window;
    uint64_t codes = times(v->count, v->inputs), vectors = v->count;
    if (w->images) {
        CIM_RETURN_IF_REFUSED(check_window(v));
        codes = times(times(times(v->count, w->channels), w->height), w->width);
        vectors = times(times(v->count, w->out_height), w->out_width);
    }
    /* A batch with more codes than a payload has bits cannot be in it, however narrow they are. */
    if (codes > 8ull * BOARD_MAX_PAYLOAD || cim_packed_size(codes, v->input_bits) != v->codes_size)
        return CIM_BAD(CIM_DETAIL_LENGTH, 0, 0);
    uint64_t answer = times(vectors, v->outputs);
    if (answer > BOARD_MAX_PAYLOAD * 8ull ||
        cim_packed_size(answer, v->bits) + CIM_VMM_RESPONSE_FIXED_SIZE > BOARD_MAX_PAYLOAD)
        return CIM_BAD(CIM_DETAIL_ANSWER_SIZE, 0, 0);
    v->code_count = (uint32_t)codes;
    v->vectors = (uint32_t)vectors;
    return CIM_OK;
}

/* ---- multiplying ----------------------------------------------------------------------------- */

/* Which vector of the batch: the entry, and the place of the window in it. */
struct place {
    uint32_t entry, y, x;
};

static int16_t code_at(const struct vmm *v, uint32_t at) {
    return cim_unpack(v->codes, v->code_count, v->input_bits, v->flags & SIGNED, at);
}

/* The pixel under a place of the kernel; padding is 0. */
static int16_t pixel(const struct vmm *v, const struct place *p, uint32_t channel, uint32_t ky,
                     uint32_t kx) {
    const struct window *w = &v->window;
    uint32_t y = p->y * w->stride_y + ky * w->dilation_y;
    uint32_t x = p->x * w->stride_x + kx * w->dilation_x;
    if (y < w->pad_top || x < w->pad_left || y - w->pad_top >= w->height ||
        x - w->pad_left >= w->width)
        return 0;
    uint32_t row = (p->entry * w->channels + channel) * w->height + (y - w->pad_top);
    return code_at(v, row * w->width + (x - w->pad_left));
}

/* Inputs `first` and on of the vector that the window makes at a place. */
static void unroll(const struct vmm *v, const struct place *p, uint32_t first, uint32_t size,
                   int16_t *inputs) {
    const struct window *w = &v->window;
    uint32_t area = w->kernel_height * w->kernel_width;
    uint32_t channel = first / area, ky = first % area / w->kernel_width;
    uint32_t kx = first % w->kernel_width;
    for (uint32_t i = 0; i < size; i++) {
        inputs[i] = pixel(v, p, channel, ky, kx);
        if (++kx == w->kernel_width) {
            kx = 0;
            if (++ky == w->kernel_height) {
                ky = 0;
                channel++;
            }
        }
    }
}

static void gather(const struct vmm *v, const struct place *p, uint32_t first, uint32_t size,
                   int16_t *inputs) {
    if (v->window.images)
        unroll(v, p, first, size, inputs);
    else
        for (uint32_t i = 0; i < size; i++)
            inputs[i] = code_at(v, p->entry * v->inputs + first + i);
}

/* One vector through all row blocks of one block of outputs. */
static unsigned sum_blocks(const struct vmm *v, const struct place *p, uint32_t out_block,
                           int32_t *sums) {
    static int16_t inputs[LINES];
    unsigned saturated = 0;
    uint32_t first = 0;
    for (uint32_t i = 0; i < v->in_blocks; i++) {
        struct cim_region r = region_of(v, i, out_block);
        uint32_t size = inputs_of(v, &r);
        gather(v, p, first, size, inputs);
        first += size;
        struct hal_product product = {
            &cim_state.slots[v->slot], r.tile, r.row, r.rows, r.column, r.columns,
            v->flags & TRANSPOSED, v->flags & DIFFERENTIAL,
        };
        saturated += hal_multiply(&product, inputs, sums);
    }
    return saturated;
}

static uint32_t multiply_vector(const struct vmm *v, const struct place *p, uint32_t where,
                                uint8_t *answer) {
    static int32_t sums[LINES];
    uint32_t total = v->vectors * v->outputs, area = v->vectors / v->count;
    uint32_t saturated = 0, output = 0;
    for (uint32_t j = 0; j < v->out_blocks; j++) {
        struct cim_region r = region_of(v, 0, j);
        uint32_t size = outputs_of(v, &r);
        for (uint32_t k = 0; k < size; k++)
            sums[k] = 0;
        saturated += sum_blocks(v, p, j, sums);
        for (uint32_t k = 0; k < size; k++, output++) {
            /* Images answer channel by channel, vectors one after the other: their area is 1. */
            uint32_t at = (p->entry * v->outputs + output) * area + where;
            cim_pack(answer, total, v->bits, at, sums[k]);
        }
    }
    return saturated;
}

static uint32_t multiply(const struct vmm *v, uint8_t *answer) {
    uint32_t saturated = 0;
    uint32_t height = v->window.images ? v->window.out_height : 1;
    uint32_t width = v->window.images ? v->window.out_width : 1;
    struct place p;
    for (p.entry = 0; p.entry < v->count; p.entry++)
        for (p.y = 0; p.y < height; p.y++)
            for (p.x = 0; p.x < width; p.x++)
                saturated += multiply_vector(v, &p, p.y * width + p.x, answer);
    return saturated;
}

/* ---- counting -------------------------------------------------------------------------------- */

/* Whether an earlier output block of the same inputs uses the same lines of the same tile: one array
 * operation serves both. */
static bool served(const struct vmm *v, uint32_t in_block, uint32_t out_block) {
    struct cim_region r = region_of(v, in_block, out_block);
    for (uint32_t j = 0; j < out_block; j++) {
        struct cim_region other = region_of(v, in_block, j);
        bool same = v->flags & TRANSPOSED
                        ? other.column == r.column && other.columns == r.columns
                        : other.row == r.row && other.rows == r.rows;
        if (same && other.tile == r.tile)
            return true;
    }
    return false;
}

static void count_product(const struct vmm *v, uint32_t saturated) {
    uint32_t loads[BOARD_TILES] = {0}, most = 0, all = 0;
    for (uint32_t i = 0; i < v->in_blocks; i++)
        for (uint32_t j = 0; j < v->out_blocks; j++)
            if (!served(v, i, j))
                loads[region_of(v, i, j).tile]++;
    for (unsigned tile = 0; tile < BOARD_TILES; tile++) {
        most = loads[tile] > most ? loads[tile] : most;
        all += loads[tile];
    }
    uint64_t conversions =
        (uint64_t)v->vectors * (v->flags & DIFFERENTIAL ? BOARD_PAIR_CONVERSIONS : 1);
    struct hal_counters *n = hal_counters();
    n->vectors += v->vectors;
    n->steps += conversions * most;
    n->tile_operations += conversions * all;
    n->conversions += conversions * v->in_blocks * v->outputs;
    n->saturations += saturated;
}

struct cim_refusal cim_vmm(struct cim_reader *in, struct cim_writer *out) {
    static struct vmm v;
    if (!read_request(in, &v))
        return CIM_BAD(CIM_DETAIL_LENGTH, 0, 0);
    CIM_RETURN_IF_REFUSED(cim_check_slot(v.slot));
    CIM_RETURN_IF_REFUSED(check_product(&v));
    count_lines(&v);
    CIM_RETURN_IF_REFUSED(check_batch(&v));
    uint8_t *head = cim_place(out, CIM_VMM_RESPONSE_FIXED_SIZE);
    size_t size = (size_t)cim_packed_size((uint64_t)v.vectors * v.outputs, v.bits);
    uint8_t *answer = cim_place(out, size);
    for (size_t i = 0; i < size; i++)
        answer[i] = 0;
    uint32_t saturated = multiply(&v, answer);
    count_product(&v, saturated);
    struct cim_writer front = {head, CIM_VMM_RESPONSE_FIXED_SIZE, 0, false};
    cim_put(&front, 1, v.bits);
    cim_put(&front, 4, saturated);
    return CIM_OK;
}
