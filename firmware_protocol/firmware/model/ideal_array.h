/* An array of the specification's ideal device, and the memory that outlives a restart. */
#ifndef CIM_IDEAL_ARRAY_H
#define CIM_IDEAL_ARRAY_H

#include <stdint.h>

#include "cim_board.h"
#include "hal.h"

/* What is non-volatile on a chip: a port places it where a restart leaves it alone. */
struct model_chip {
    uint64_t identity; /* tells a chip that was made before from garbage, or from another */
    uint64_t seed;
    uint32_t boots;
    uint32_t nv[HAL_NV_WORDS];
    struct hal_counters counters;
    uint32_t pulses[BOARD_TILES][BOARD_ROWS * BOARD_COLUMNS];
    uint16_t conductances[BOARD_TILES][BOARD_ROWS * BOARD_COLUMNS];
};
extern struct model_chip *model_chip;

/* Whether the memory holds the chip of that seed. */
bool model_holds(const struct model_chip *chip, uint64_t seed);

/* Takes the chip in `chip` into use; makes the one of that seed where it holds no other. */
void model_start(struct model_chip *chip, uint64_t seed);

/* Called before each cell of a mutating command: where a port may cut the power. */
void model_before_cell(void);

#endif
