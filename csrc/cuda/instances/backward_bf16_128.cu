#include "../backward.cuh"

namespace geotdm::cuda {
template struct Backward<kBf16, 128>;
}
