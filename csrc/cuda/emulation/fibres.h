// Threads of a block as fibres of one thread of the host: a stack each, and a switch that needs no system call.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <new>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

// Saves what a call must preserve on this stack and its pointer in *from, then goes on where `to` was left. A group of
// its own, so that every file that includes this may define it.
extern "C" void geotdm_emulation_switch(void** from, void* to) __attribute__((visibility("hidden")));

#if defined(__x86_64__)
asm(R"(
.pushsection .text.geotdm_emulation_switch,"axG",@progbits,geotdm_emulation_switch,comdat
.weak geotdm_emulation_switch
.hidden geotdm_emulation_switch
.type geotdm_emulation_switch,@function
geotdm_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size geotdm_emulation_switch,.-geotdm_emulation_switch
.popsection
)");
#elif defined(__aarch64__)
asm(R"(
.pushsection .text.geotdm_emulation_switch,"axG",@progbits,geotdm_emulation_switch,comdat
.weak geotdm_emulation_switch
.hidden geotdm_emulation_switch
.type geotdm_emulation_switch,@function
.p2align 2
geotdm_emulation_switch:
  sub sp, sp, #160
  stp x19, x20, [sp]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x19, x20, [sp]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size geotdm_emulation_switch,.-geotdm_emulation_switch
.popsection
)");
#else
#error "the emulation switches fibres on x86-64 and aarch64 alone"
#endif

namespace geotdm::emulation {

constexpr int kPoison = 0xff;  // in every byte: a NaN as float32 and as bfloat16, -1 as an integer

// The stacks of the fibres, with a page below each that must not be touched. They are kept for the next block.
class Stacks {
 public:
  Stacks() = default;
  Stacks(const Stacks&) = delete;
  ~Stacks() { free(); }

  void reserve(int count) {
    if (count <= count_) return;
    free();
    const size_t page = sysconf(_SC_PAGESIZE);
    stride_ = page + kBytes;
    void* mapped = mmap(nullptr, count * stride_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<unsigned char*>(mapped);
    count_ = count;
    for (int i = 0; i < count; ++i) mprotect(base_ + i * stride_, page, PROT_NONE);
  }

  // What geotdm_emulation_switch takes to start `entry`, which never returns, on poisoned stack `i`.
  void* start(int i, void (*entry)()) {
    unsigned char* end = base_ + (i + 1) * stride_;
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(end - kBytes, kBytes);  // a fibre that was given up left its red zones
#endif
    std::memset(end - kPoisoned, kPoison, kPoisoned);
    end -= i % 32 * 128;  // the lanes of a warp run in turn: keep their frames in different sets of the cache
    auto frame = reinterpret_cast<void**>(end) - kFrame;
    std::memset(frame, 0, kFrame * sizeof(void*));
    frame[kReturn] = reinterpret_cast<void*>(entry);
    return frame;
  }

 private:
#ifdef __x86_64__
  static constexpr int kReturn = 6, kFrame = 8;  // entered as by a call: 8 below a multiple of 16
#else
  static constexpr int kReturn = 11, kFrame = 20;
#endif
  static constexpr size_t kBytes = 256 * 1024;    // committed only where touched
  static constexpr size_t kPoisoned = 16 * 1024;  // of each stack for each block: what a kernel's frames take
  unsigned char* base_ = nullptr;
  size_t stride_ = 0;
  int count_ = 0;

  void free() {
    if (base_) munmap(base_, count_ * stride_);
  }
};

}  // namespace geotdm::emulation
