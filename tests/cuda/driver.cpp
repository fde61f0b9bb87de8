// A stand-in for NVIDIA's driver: the part of its interface that convoy uses, on the processor. It is as lazy as the interface allows:
// what is put on a stream happens when somebody waits for it, and what is copied from pinned memory is read only then; or, if told so,
// streams go ahead in an order drawn at random. It refuses what the driver would refuse, or would not notice, and keeps a log of the
// calls that cost something.
#include <dlfcn.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

enum { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, NO_CONTEXT = 201, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL = 700, REACHED = 704, CAPTURING = 900 };
enum { ATTRIBUTE_INTEGRATED = 18, ATTRIBUTE_MAJOR = 75, ATTRIBUTE_MINOR = 76 };
constexpr size_t MEMORY = size_t(256) << 20;  // little, so that a test fills it soon

struct Dim {
    unsigned x, y, z;
};
struct HostKernel {  // as in host.h
    int parameters;
    const unsigned* sizes;
    const bool* pointers;
    void (*thread)(void** parameters);
    bool barriers;
    Dim *grid, *block, *block_index, *thread_index;
    void (**barrier)();
    char *shared, *shared_end;
};
struct Event {
    void* context;
    int wanted = 0, done = 0;
    struct Stream* stream = nullptr;
};
struct Stream {
    void* context;
    std::deque<std::function<int()>> work;
    std::vector<std::function<int()>>* recording = nullptr;
};
struct Recorded {
    std::vector<std::function<int()>> work;
};
struct Module {
    void* library;
    int file;
};

static std::recursive_mutex lock;
static thread_local void* current = nullptr;
struct Range {
    size_t bytes;
    void* context;
};
static std::map<uintptr_t, Range> device, pinned;
static std::set<std::pair<void*, void*>> reached;  // whose memory a context was let reach
static std::vector<Stream*> streams;
static size_t used = 0;
static int failed = OK;  // as with the driver, what fails on the device spoils all that comes after
static std::string text;
static unsigned order = 0;  // of streams: 0 lazy, else the state of a generator

template <class... A> static void log(const char* format, A... a) {
    char line[200];
    snprintf(line, sizeof line, format, a...);
    text += std::string(line) + "\n";
}

static int refuse(int code, const char* why) {
    fprintf(stderr, "driver's stand-in: %s\n", why);
    return code;
}

// Whether bytes are a context's; memory of the host is everyone's.
static bool inside(const std::map<uintptr_t, Range>& ranges, uintptr_t at, size_t bytes, void* context) {
    auto next = ranges.upper_bound(at);
    if (next == ranges.begin()) return false;
    auto [start, range] = *--next;
    return at >= start && at + bytes <= start + range.bytes && (!range.context || range.context == context);
}
static bool inside(const std::map<uintptr_t, Range>& ranges, uintptr_t at, size_t bytes) { return inside(ranges, at, bytes, current); }

// The threads of a block: fibers, where the kernel has barriers.
namespace block {
constexpr unsigned MOST_THREADS = 1024;
constexpr size_t STACK = 64 * 1024;

struct Fiber {
    jmp_buf at;
    bool begun, done;
};
static Fiber fibers[MOST_THREADS];
static unsigned running;
static jmp_buf scheduler;
static const HostKernel* kernel;
static void** parameters;

static void barrier() {
    if (_setjmp(fibers[running].at) == 0) _longjmp(scheduler, 1);
}

static void fiber() {
    for (;;) {
        kernel->thread(parameters);
        fibers[running].done = true;
        barrier();
    }
}

static void resume(unsigned i) {
    if (_setjmp(scheduler) != 0) return;
    running = i;
    if (fibers[i].begun) _longjmp(fibers[i].at, 1);
    static ucontext_t made, here;
    fibers[i].begun = true;
    getcontext(&made);
    made.uc_stack.ss_sp = malloc(STACK);
    made.uc_stack.ss_size = STACK;
    makecontext(&made, fiber, 0);
    swapcontext(&here, &made);
}

// Runs every thread up to its next barrier, or its end, in turns: forwards, then backwards, so that what depends on an order that nothing
// promises comes out otherwise. All threads come to each barrier.
static int run(const std::vector<Dim>& threads) {
    unsigned count = threads.size();
    for (unsigned i = 0; i < count; i++) fibers[i].done = false;
    for (unsigned round = 0;; round++) {
        unsigned done = 0;
        for (unsigned n = 0; n < count; n++) {
            unsigned i = round % 2 ? count - 1 - n : n;
            *kernel->thread_index = threads[i];
            resume(i);
            done += fibers[i].done;
        }
        if (done == count) return OK;
        if (done != 0) {
            // The others stay where they are: no block runs any more.
            return refuse(ILLEGAL, "a barrier that some threads miss");
        }
    }
}
}  // namespace block

static int run(const HostKernel* f, Dim grid, Dim size, void** parameters) {
    std::vector<Dim> threads;
    for (unsigned i = 0; i < size.x * size.y * size.z; i++) {
        threads.push_back({i % size.x, i / size.x % size.y, i / size.x / size.y});
    }
    *f->grid = grid, *f->block = size, *f->barrier = block::barrier;
    block::kernel = f, block::parameters = parameters;
    for (unsigned i = 0; i < grid.x * grid.y * grid.z; i++) {
        *f->block_index = {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y};
        // A block finds no numbers in its shared memory.
        memset(f->shared, 0xff, f->shared_end - f->shared);
        if (f->barriers) {
            if (int code = block::run(threads)) return code;
            continue;
        }
        for (auto& thread : threads) {
            *f->thread_index = thread;
            f->thread(parameters);
        }
    }
    return OK;
}

// Does the next work of a stream.
static void step(Stream* s) {
    auto work = s->work.front();
    s->work.pop_front();
    int code = failed == OK ? work() : failed;
    if (failed == OK) failed = code;
}
static int drain(Stream* s) {
    while (!s->work.empty()) step(s);
    return failed;
}
static int drain() {
    for (Stream* s : streams) drain(s);
    return failed;
}

#define API extern "C" __attribute__((visibility("default"))) int
#define ENTER                                           \
    std::lock_guard guard(lock);                        \
    if (!current) return refuse(NO_CONTEXT, __func__);  \
    if (failed) return failed;

extern "C" __attribute__((visibility("default"))) const char* stand_in_log() { return text.c_str(); }
API stand_in_order(unsigned seed) { return order = seed, OK; }

API cuInit(unsigned) { return OK; }
API cuDriverGetVersion(int* v) { return *v = 13000, OK; }
API cuDeviceGetCount(int* n) { return *n = 2, OK; }
API cuDeviceGet(int* d, int number) { return *d = number, number < 2 ? OK : 101; }
API cuDeviceGetName(char* name, int n, int number) { return snprintf(name, n, "stand-in %d", number), OK; }
API cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = MEMORY, OK; }
API cuDeviceGetAttribute(int* v, int attribute, int) {
    switch (attribute) {
        case ATTRIBUTE_INTEGRATED: return *v = 0, OK;
        case ATTRIBUTE_MAJOR: return *v = 9, OK;
        case ATTRIBUTE_MINOR: return *v = 0, OK;
        default: return refuse(INVALID, "an attribute");
    }
}
API cuDevicePrimaryCtxRetain(void** c, int number) { return *c = reinterpret_cast<void*>(0x10 + number), OK; }
API cuDevicePrimaryCtxRelease_v2(int) { return OK; }
API cuCtxSetCurrent(void* c) { return current = c, OK; }
API cuCtxGetCurrent(void** c) { return *c = current, OK; }
API cuGetErrorName(int, const char** s) { return *s = "ERROR", OK; }
API cuGetErrorString(int code, const char** s) {
    static thread_local std::string words;
    words = "error " + std::to_string(code) + " of the stand-in";
    return *s = words.c_str(), OK;
}
API cuGetExportTable(const void** t, const void*) { return *t = nullptr, NOT_FOUND; }

API cuMemAlloc_v2(uintptr_t* at, size_t bytes) {
    ENTER
    if (!bytes) return INVALID;
    if (used + bytes > MEMORY) return OUT_OF_MEMORY;
    size_t room = (bytes + 255) / 256 * 256;
    void* memory = aligned_alloc(256, room);
    if (!memory) return OUT_OF_MEMORY;
    memset(memory, 0xff, room);
    used += bytes;
    device[*at = reinterpret_cast<uintptr_t>(memory)] = {bytes, current};
    log("alloc %zu", bytes);
    return OK;
}
API cuMemFree_v2(uintptr_t at) {
    std::lock_guard guard(lock);
    drain();
    auto found = device.find(at);
    if (found == device.end()) return refuse(INVALID, "cuMemFree of what was not allocated");
    used -= found->second.bytes;
    memset(reinterpret_cast<void*>(at), 0xff, found->second.bytes);
    free(reinterpret_cast<void*>(at));
    device.erase(found);
    log("free");
    return OK;
}
API cuMemHostAlloc(void** at, size_t bytes, unsigned) {
    ENTER
    if (!(*at = malloc(bytes))) return OUT_OF_MEMORY;
    pinned[reinterpret_cast<uintptr_t>(*at)] = {bytes, nullptr};
    log("pin %zu", bytes);
    return OK;
}
API cuMemFreeHost(void* at) {
    std::lock_guard guard(lock);
    drain();
    if (!pinned.erase(reinterpret_cast<uintptr_t>(at))) return refuse(INVALID, "cuMemFreeHost of what was not allocated");
    free(at);
    return OK;
}

API cuStreamCreate(Stream** s, unsigned flags) {
    ENTER
    if (flags != 1) return refuse(INVALID, "a stream that waits for the default one");
    streams.push_back(*s = new Stream{current, {}});
    return OK;
}
API cuStreamDestroy_v2(Stream* s) {
    std::lock_guard guard(lock);
    drain(s);
    for (auto& other : streams) {
        if (other == s) {
            other = streams.back();
            streams.pop_back();
            break;
        }
    }
    delete s;
    return OK;
}
static int put(Stream* s, std::function<int()> work) {
    if (s->context != current) return refuse(INVALID, "a stream of another context");
    if (s->recording) return s->recording->push_back(work), OK;
    s->work.push_back(work);
    // Some other work may be done meanwhile.
    while (order && (order = order * 1664525 + 1013904223) >> 30) {
        Stream* other = streams[(order >> 8) % streams.size()];
        if (!other->work.empty()) step(other);
    }
    return OK;
}
API cuStreamSynchronize(Stream* s) {
    ENTER
    if (s->recording) return CAPTURING;
    log("wait for a stream");
    return drain(s);
}
API cuStreamWaitEvent(Stream* s, Event* e, unsigned) {
    ENTER
    int wanted = e->wanted;
    return put(s, [=] {
        while (e->done < wanted) {
            if (e->stream->work.empty()) return refuse(ILLEGAL, "waits for ever");
            step(e->stream);
        }
        return int(OK);
    });
}
API cuEventCreate(Event** e, unsigned) {
    ENTER
    *e = new Event{current};
    return OK;
}
API cuEventDestroy_v2(Event* e) {
    std::lock_guard guard(lock);
    drain();
    delete e;
    return OK;
}
API cuEventRecord(Event* e, Stream* s) {
    ENTER
    if (e->context != s->context) return refuse(INVALID, "an event of another context");
    int number = ++e->wanted;
    e->stream = s;
    return put(s, [=] { return e->done = number, int(OK); });
}
API cuEventRecordWithFlags(Event* e, Stream* s, unsigned flags) {
    ENTER
    if (flags != 1 || !s->recording) return refuse(INVALID, "an event that is no part of what is recorded");
    e->wanted = 1, e->done = 0, e->stream = s;
    return put(s, [=] { return e->done = 1, int(OK); });
}
API cuEventQuery(Event* e) {
    ENTER
    if (e->done == e->wanted) return OK;
    // It is not done the first time that somebody asks.
    log("ask for an event");
    while (e->done < e->wanted && !e->stream->work.empty()) step(e->stream);
    return failed ? failed : int(NOT_READY);
}
API cuEventSynchronize(Event* e) {
    ENTER
    log("wait for an event");
    while (e->done < e->wanted && !e->stream->work.empty()) step(e->stream);
    return failed;
}
API cuEventElapsedTime(float* ms, Event* start, Event* end) {
    ENTER
    if (start->done != start->wanted || end->done != end->wanted) return NOT_READY;
    return *ms = 0.5f, OK;
}

API cuMemcpyHtoDAsync_v2(uintptr_t to, const void* from, size_t bytes, Stream* s) {
    ENTER
    if (s->recording) return CAPTURING;
    if (!inside(device, to, bytes)) return refuse(INVALID, "a copy to what is not the device's");
    bool late = inside(pinned, reinterpret_cast<uintptr_t>(from), bytes);
    log("%s %zu", late ? "upload" : "upload of pageable memory", bytes);
    if (late) return put(s, [=] { return memcpy(reinterpret_cast<void*>(to), from, bytes), int(OK); });
    auto copied = std::make_shared<std::string>(static_cast<const char*>(from), bytes);
    return put(s, [=] { return memcpy(reinterpret_cast<void*>(to), copied->data(), bytes), int(OK); });
}
API cuMemcpyDtoHAsync_v2(void* to, uintptr_t from, size_t bytes, Stream* s) {
    ENTER
    if (s->recording) return CAPTURING;
    if (!inside(device, from, bytes)) return refuse(INVALID, "a copy of what is not the device's");
    bool late = inside(pinned, reinterpret_cast<uintptr_t>(to), bytes);
    log("%s %zu", late ? "download" : "download to pageable memory", bytes);
    put(s, [=] { return memcpy(to, reinterpret_cast<void*>(from), bytes), int(OK); });
    return late ? int(OK) : drain(s);
}
API cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t bytes, Stream* s) {
    ENTER
    if (!inside(device, to, bytes) || !inside(device, from, bytes)) return refuse(INVALID, "a copy of what is not the device's");
    log("copy %zu", bytes);
    return put(s, [=] { return memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes), int(OK); });
}
API cuCtxEnablePeerAccess(void* other, unsigned flags) {
    ENTER
    if (flags || other == current) return refuse(INVALID, "access to itself");
    return reached.insert({current, other}).second ? int(OK) : int(REACHED);
}
API cuMemcpyPeerAsync(uintptr_t to, void* to_context, uintptr_t from, void* from_context, size_t bytes, Stream* s) {
    ENTER
    if (!inside(device, to, bytes, to_context) || !inside(device, from, bytes, from_context)) return refuse(INVALID, "a copy of what another device has");
    log(reached.count({current, from_context}) ? "fetch %zu" : "fetch by the host %zu", bytes);
    return put(s, [=] { return memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes), int(OK); });
}
API cuMemsetD8Async(uintptr_t at, unsigned char value, size_t bytes, Stream* s) {
    ENTER
    if (!inside(device, at, bytes)) return refuse(INVALID, "a fill of what is not the device's");
    return put(s, [=] { return memset(reinterpret_cast<void*>(at), value, bytes), int(OK); });
}

API cuModuleLoadData(Module** m, const char* image) {
    ENTER
    if (memcmp(image, "HOSTCODE", 8)) return refuse(200, "no code of the compiler's stand-in");
    unsigned long long size;
    memcpy(&size, image + 8, 8);
    // The file stays open: a library is known by its path.
    int file = memfd_create("kernel", 0);
    if (file < 0 || write(file, image + 16, size) != ssize_t(size)) return OUT_OF_MEMORY;
    std::string path = "/proc/self/fd/" + std::to_string(file);
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) return refuse(200, dlerror());
    *m = new Module{library, file};
    return OK;
}
API cuModuleUnload(Module* m) {
    std::lock_guard guard(lock);
    drain();
    dlclose(m->library);
    close(m->file);
    delete m;
    return OK;
}
API cuModuleGetFunction(const HostKernel** f, Module* m, const char* name) {
    ENTER
    void* found = dlsym(m->library, (std::string("host_kernel_") + name).c_str());
    if (!found) return NOT_FOUND;
    *f = reinterpret_cast<const HostKernel* (*)()>(found)();
    return OK;
}
API cuLaunchKernel(const HostKernel* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
    Stream* s, void** parameters, void** extra) {
    ENTER
    if (shared || extra || !gx || !gy || !gz || gy > 65535 || gz > 65535 || bx * by * bz > block::MOST_THREADS) return refuse(INVALID, "a launch");
    // The parameters are copied now.
    auto bytes = std::make_shared<std::vector<std::vector<char>>>();
    for (int i = 0; i < f->parameters; i++) {
        auto* from = static_cast<const char*>(parameters[i]);
        bytes->emplace_back(from, from + f->sizes[i]);
        uintptr_t at;
        if (!f->pointers[i]) continue;
        memcpy(&at, from, sizeof at);
        if (!inside(device, at, 1)) return refuse(INVALID, "an argument that is no address of the device's");
    }
    log("launch");
    return put(s, [=] {
        std::vector<void*> at;
        for (auto& of : *bytes) at.push_back(of.data());
        return run(f, {gx, gy, gz}, {bx, by, bz}, at.data());
    });
}

// cuDNN itself, which plans on this driver but does not run on it, is linked against these.
API cuTensorMapEncodeIm2col() { return refuse(801, "not there"); }
API cuTensorMapEncodeTiled() { return refuse(801, "not there"); }

// What the libraries' stand-ins put on a stream; `drop` frees the data when it can run no more.
API stand_in_call(Stream* s, const char* name, int (*work)(void*), void (*drop)(void*), void* data) {
    ENTER
    log("%s", name);
    std::shared_ptr<void> kept(data, drop);
    return put(s, [=] { return work(kept.get()); });
}
API stand_in_inside(uintptr_t at, size_t bytes) { return inside(device, at, bytes); }

API cuStreamBeginCapture_v2(Stream* s, int) {
    ENTER
    s->recording = new std::vector<std::function<int()>>;
    return OK;
}
API cuStreamEndCapture(Stream* s, Recorded** graph) {
    ENTER
    *graph = new Recorded{*s->recording};
    delete s->recording;
    s->recording = nullptr;
    return OK;
}
API cuGraphInstantiateWithFlags(Recorded** made, Recorded* graph, unsigned long long) {
    ENTER
    log("record %zu", graph->work.size());
    *made = new Recorded(*graph);
    return OK;
}
API cuGraphDestroy(Recorded* graph) { return delete graph, OK; }
API cuGraphExecDestroy(Recorded* graph) {
    std::lock_guard guard(lock);
    drain();
    delete graph;
    return OK;
}
API cuGraphLaunch(Recorded* graph, Stream* s) {
    ENTER
    log("run %zu", graph->work.size());
    return put(s, [=] {
        for (auto& work : graph->work) {
            if (int code = work()) return code;
        }
        return int(OK);
    });
}
