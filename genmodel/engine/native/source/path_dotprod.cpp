// The kernels as compiled with this path's flags (build.py).
#define SEGUE_NEON 1
#define SEGUE_PATH segue_dotprod_path
#include "draw.h"
#include "layers.h"

const SeguePath segue_dotprod = {
    segue_dotprod_path::forward, segue_dotprod_path::scratch_bytes, segue_dotprod_path::linear,
    segue_dotprod_path::linear_scratch_bytes, segue_dotprod_path::draw_all,
};
