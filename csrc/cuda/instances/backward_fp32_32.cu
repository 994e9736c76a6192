#include "../backward.cuh"

namespace geotdm::cuda {
template struct Backward<kFp32, 32>;
}
