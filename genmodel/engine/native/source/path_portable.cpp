// The kernels as compiled with this path's flags (build.py).
#define SEGUE_PATH segue_portable_path
#include "draw.h"
#include "layers.h"

const SeguePath segue_portable = {
    segue_portable_path::forward, segue_portable_path::scratch_bytes, segue_portable_path::linear,
    segue_portable_path::linear_scratch_bytes, segue_portable_path::draw_all,
};
