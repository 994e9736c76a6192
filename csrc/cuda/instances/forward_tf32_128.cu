#include "../forward.cuh"

namespace geotdm::cuda {
template struct Forward<kTf32, 128>;
}
