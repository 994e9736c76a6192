// What newer compilers take from a newer system than they need, here in the module itself: so it runs on glibc 2.28 and
// the libstdc++ of GCC 8, as torch's own wheels do.
#include <new>
#include <sstream>

#ifdef _GLIBCXX_RELEASE
// GLIBCXX_3.4.26
template std::basic_ostringstream<char>::basic_ostringstream();
template std::basic_stringstream<char>::basic_stringstream();
#if _GLIBCXX_RELEASE >= 11
// GLIBCXX_3.4.29
template std::string std::basic_stringbuf<char>::str() const&;
template std::string std::basic_stringbuf<char>::str() &&;
void std::__throw_bad_array_new_length() { throw std::bad_array_new_length(); }
#endif
#endif

// Of glibc 2.32: whether there is one thread alone, so that references may be counted without atomic instructions.
extern "C" {
[[gnu::weak]] char __libc_single_threaded = 0;
}
