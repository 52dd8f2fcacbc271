#pragma once

// Marks inline functions of the specification that kernels on a device call, too.

#ifdef __CUDACC__
#define TROUPE_ON_DEVICE __host__ __device__
#else
#define TROUPE_ON_DEVICE
#endif
