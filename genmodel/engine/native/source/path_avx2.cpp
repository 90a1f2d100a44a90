// The kernels as compiled with this path's flags (build.py).
#define SEGUE_PATH segue_avx2_path
#include "draw.h"
#include "layers.h"

const SeguePath segue_avx2 = {
    segue_avx2_path::forward, segue_avx2_path::scratch_bytes, segue_avx2_path::linear,
    segue_avx2_path::linear_scratch_bytes, segue_avx2_path::draw_all,
};
