// The kernels as compiled with this path's flags (build.py).
#define SEGUE_NEON 1
#define SEGUE_PATH segue_neon_path
#include "draw.h"
#include "layers.h"

const SeguePath segue_neon = {
    segue_neon_path::forward, segue_neon_path::scratch_bytes, segue_neon_path::linear,
    segue_neon_path::linear_scratch_bytes, segue_neon_path::draw_all,
};
