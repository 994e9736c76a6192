// libstdc++ of GCC 11 and later asks glibc 2.32 or newer whether there is one thread alone, to count references without
// atomic instructions. Here the answer is always no, and so the module runs on glibc 2.28, which torch's own wheels
// need.
extern "C" {
[[gnu::visibility("hidden")]] char __libc_single_threaded = 0;
}
