#include "../backward.cuh"

namespace geotdm::cuda {
template struct Backward<kTf32, 32>;
}
