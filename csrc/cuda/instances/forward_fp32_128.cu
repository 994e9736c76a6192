#include "../forward.cuh"

namespace geotdm::cuda {
template struct Forward<kFp32, 128>;
}
