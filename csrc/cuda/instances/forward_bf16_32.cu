#include "../forward.cuh"

namespace geotdm::cuda {
template struct Forward<kBf16, 32>;
}
