// The kernels as compiled with this path's flags (build.py).
#define SEGUE_PATH segue_avx512_path
#include "draw.h"
#include "layers.h"

const SeguePath segue_avx512 = {
    segue_avx512_path::forward, segue_avx512_path::scratch_bytes, segue_avx512_path::linear,
    segue_avx512_path::linear_scratch_bytes, segue_avx512_path::draw_all,
};
